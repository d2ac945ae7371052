"""With `inputs = applicant` nothing of a version depends on the lender's price, from the features to the service's answer."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from conftest import lending_club
from sklearn.base import clone

from lending_club.core.applications import as_applications
from lending_club.core.compile import compile_pipeline
from lending_club.core.features import columns_read
from lending_club.core.matrices import fit_preprocessing
from lending_club.core.preprocess import FeatureBuilder
from lending_club.core.registry import connect, download_version, version_by_alias
from lending_club.core.schema import EXAMPLE_APPLICATION, LEFT_OUT, LeakError, guard_inputs, input_columns
from lending_club.core.settings import Settings, SettingsError, load_settings, read_setting, scratch_settings
from lending_club.core.stages import STAGES, stage_key
from lending_club.core.study import study_name
from lending_club.core.text import LendingClubError
from lending_club.serving.scorer import Scorer
from lending_club.train import train

PRICE = {"int_rate", "installment", "grade", "sub_grade"}
PRICED = (
    {"int_rate": 5.31, "installment": 20.0, "grade": "A", "sub_grade": "A1"},
    {"int_rate": 30.99, "installment": 9_999.0, "grade": "G", "sub_grade": "G5"},
    dict.fromkeys(PRICE),
)


@pytest.fixture(scope="module", params=["time_to_event", "final_status"])
def version(request, tmp_path_factory):
    "Settings, what was trained on the applicant alone, and the Scorer of the registered version."
    settings = scratch_settings(fresh=True, sample_rows=5_000, epochs=2, target=request.param, inputs="applicant")
    result = train(settings)
    files = download_version(settings, connect(settings), result.version, tmp_path_factory.mktemp("files"), "extra_files")
    return settings, result, Scorer.load(files, result.version)


@pytest.mark.slow
def test_no_price_changes_a_pd(version):
    _, result, scorer = version
    loans = result.splits.test.head(300)
    expected = result.pipeline.predict_proba(loans)[:, 1]
    assert np.ptp(expected) > 0.05, "the loans do not differ enough to show anything"
    compiled = compile_pipeline(result.pipeline)
    columns = [name for name in input_columns() if name in loans] + ["issue_d"]
    answers = scorer.score(as_applications(loans, columns))
    for price in PRICED:
        other = loans.assign(**price)
        np.testing.assert_array_equal(result.pipeline.predict_proba(other)[:, 1], expected)
        applications = as_applications(other, columns)
        np.testing.assert_allclose(compiled.probabilities(applications), expected, rtol=0, atol=1e-6)
        assert scorer.score(applications) == answers, "neither the PD nor what is called imputed or unusual"
        assert scorer.score(applications[:1]) == scorer.score(as_applications(loans[:1], columns)), "on the scalar path"
    np.testing.assert_array_equal(result.pipeline.predict_proba(loans.drop(columns=list(PRICE)))[:, 1], expected)


@pytest.mark.slow
def test_an_application_may_state_its_price_or_not(version):
    _, _, scorer = version
    without = {name: value for name, value in EXAMPLE_APPLICATION.items() if name not in PRICE}
    (answer,) = scorer.score([without])
    assert answer == scorer.score([EXAMPLE_APPLICATION])[0] and not PRICE & set(answer["imputed"])


@pytest.mark.slow
def test_a_version_names_only_what_it_uses(version):
    settings, result, _ = version
    inputs, encoder = result.card["inputs"], result.pipeline["encode"]
    for part in ("columns", "required", "used", "always_present", "ranges"):
        assert inputs[part] and not PRICE & set(inputs[part]), part
    assert not PRICE & columns_read([*encoder.numeric_, *encoder.dropped_, *encoder.categorical_])
    assert not PRICE & set(compile_pipeline(result.pipeline).tables["columns"])
    assert result.card["settings"]["inputs"] == "applicant" and "term" in inputs["used"]
    assert not [row["field"] for row in result.card["imputation"] if PRICE & set(row["field"].split(" and "))]


@pytest.mark.slow
def test_the_registry_knows(version, tmp_path):
    settings, result, _ = version
    registered = version_by_alias(settings, connect(settings), settings.candidate_alias)
    assert registered.tags["inputs"] == "applicant" and str(registered.version) == result.version
    folder = download_version(settings, connect(settings), result.version, tmp_path)
    (model,) = folder.rglob("MLmodel")
    import mlflow

    signature = mlflow.models.Model.load(str(model)).signature
    assert set(signature.inputs.input_names()) == set(result.card["inputs"]["columns"])
    (reference,) = folder.rglob("reference.json")
    assert not PRICE & set(json.loads(reference.read_text())["inputs"])


@pytest.mark.slow
def test_what_needs_the_price_still_has_it(version):
    _, result, _ = version
    assert PRICE <= set(result.splits.test), "the cleaned loans keep their columns"
    assert any(name.startswith("sub-grade alone") for name in result.metrics.index)
    assert {name.split(",")[0] for name in result.metrics.index} >= {"network", "logistic regression"}


@pytest.mark.slow
def test_search_and_training_fit_on_the_same_matrix(version):
    settings, result, _ = version
    prepare, parts = fit_preprocessing(result.splits, settings)
    assert prepare["encode"].numeric_ == result.pipeline["encode"].numeric_ and not PRICE & set(prepare["features"].columns_)
    wide, more = fit_preprocessing(result.splits, dataclasses.replace(settings, inputs="all"))
    assert set(wide["encode"].numeric_) - set(prepare["encode"].numeric_) == {
        "sub_grade_number",
        "log_installment",
        "dti_with_loan",
        "payment_to_income",
        "int_rate",
    }
    assert more[0].shape[1] > parts[0].shape[1]


# --- the choice itself


def test_the_choices_of_the_setting_are_those_of_the_schema():
    (field,) = [field for field in dataclasses.fields(Settings) if field.name == "inputs"]
    assert field.metadata["choices"] == tuple(LEFT_OUT) and field.default == FeatureBuilder().inputs == "all"
    with pytest.raises(SettingsError, match="it must be 'all' or 'applicant'"):
        read_setting("inputs", "applicants", "settings.ini")
    with pytest.raises(LendingClubError, match="inputs is 'applicants'; it must be 'all' or 'applicant'"):
        FeatureBuilder(inputs="applicants").fit(pd.DataFrame({"loan_amnt": [1.0]}))


def test_the_guard_refuses_a_price():
    assert guard_inputs(["int_rate", "term"]) == ("int_rate", "term")
    for name in PRICE:
        with pytest.raises(LeakError, match=rf"'{name}' cannot be a model input \(set by Lending Club .*set inputs = all"):
            guard_inputs(["term", name], inputs="applicant")


def test_the_builder_is_cloned_with_its_choice_and_reads_what_was_kept_before():
    assert clone(FeatureBuilder(inputs="applicant")).inputs == "applicant"
    loans = pd.DataFrame({"loan_amnt": [5_000.0], "int_rate": [10.0]})
    builder = FeatureBuilder().fit(loans)
    kept = FeatureBuilder.__new__(FeatureBuilder)
    kept.__setstate__({name: value for name, value in builder.__getstate__().items() if name != "inputs"})
    assert "inputs" not in vars(kept)
    pd.testing.assert_frame_equal(kept.transform(loans), builder.transform(loans))


def test_studies_and_stages_know_the_choice(project):
    settings = load_settings()
    other = dataclasses.replace(settings, inputs="applicant")
    assert study_name(settings, "0" * 64) != study_name(other, "0" * 64)
    for stage in ("02_features", "03_hpo", "04_train"):
        assert stage in STAGES and stage_key(settings, stage, {}) != stage_key(other, stage, {})


@pytest.mark.slow
def test_a_run_on_the_applicant_alone(project):
    done = lending_club("run", "--inputs", "applicant", cwd=project)
    assert done.returncode == 0, done.stderr
    settings = load_settings()
    registered = version_by_alias(settings, connect(settings), settings.candidate_alias)
    assert registered.tags["inputs"] == "applicant"
    again = lending_club("run", "--inputs", "applicant", cwd=project)
    assert again.returncode == 0 and again.stderr.count("skipped") == len(STAGES), again.stderr
    done = lending_club("run", "--inputs", "price", cwd=project)
    assert done.returncode == 1 and "inputs is 'price'; it must be 'all' or 'applicant'" in done.stderr
