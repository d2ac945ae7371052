"""Missing fields: leaving one out does not pay, and nothing changes for applications that have them all."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPO

from lending_club.clean import clean_loans, load_clean, temporal_split
from lending_club.core.applications import as_applications
from lending_club.core.compile import compile_pipeline
from lending_club.core.data import read_loans
from lending_club.core.hyperparameters import default_parameters
from lending_club.core.settings import scratch_settings
from lending_club.serving.scorer import Scorer
from lending_club.train import assemble_pipeline, fit_networks


def both_ways(splits, settings):
    "The same networks with cautious imputation and without."
    fitted = fit_networks(splits, default_parameters("tabm"), settings, progress=False)
    return assemble_pipeline(splits, fitted), assemble_pipeline(splits, fitted, cautious=False)


@pytest.fixture(scope="module")
def sample():
    "Splits of the sample, and the Pipeline with and without cautious imputation."
    settings = scratch_settings(fresh=True, sample_rows=30_000, epochs=15)
    splits = temporal_split(load_clean(settings).loans, settings.train_end, settings.val_end)
    return splits, *both_ways(splits, settings)


def some(loans: pd.DataFrame, n: int = 500) -> pd.DataFrame:
    return loans.sample(n, random_state=3)


def who_gains(pipeline, loans: pd.DataFrame, *fields: str) -> float:
    "Share of the loans whose PD is lower by more than .005 without these fields."
    p, without = (pipeline.predict_proba(part)[:, 1] for part in (loans, loans.drop(columns=list(fields))))
    return float(np.mean(p - without > 0.005))


def fields_of(pipeline) -> list[str]:
    return [row["field"] for row in pipeline[-1].imputation_ if " and " not in row["field"]]


def sets_of(pipeline) -> list[tuple[str, ...]]:
    "Fields, and sets of fields that stand in for each other."
    return [tuple(row["field"].split(" and ")) for row in pipeline[-1].imputation_]


@pytest.mark.slow
def test_leaving_out_a_field_does_not_pay(sample):
    splits, careful, plain = sample
    loans, fields = some(splits.test), fields_of(careful)
    assert {"dti", "int_rate", "sub_grade", "purpose", "home_ownership", "fico_range_low", "inq_last_6mths"} <= set(fields)
    assert ("fico_range_low", "fico_range_high") in sets_of(careful)
    gains = {own: who_gains(careful, loans, *own) for own in sets_of(careful)}
    assert max(gains.values()) <= 0.05, gains
    assert who_gains(plain, loans, "dti") > 0.2, "the plain way shows the fault, or else this shows nothing"


@pytest.mark.slow
def test_leaving_out_what_speaks_against_one_does_not_pay(sample):
    splits, careful, _ = sample
    burdened = splits.test[splits.test["dti"] > 25]
    low = splits.test[splits.test["fico_range_low"] < 690]
    assert who_gains(careful, burdened, "dti") <= 0.1
    assert who_gains(careful, low, "fico_range_low", "fico_range_high") <= 0.1


@pytest.mark.slow
def test_stating_no_income_does_not_pay(sample):
    splits, careful, _ = sample
    for loans in (some(splits.test), splits.test.nsmallest(500, "annual_inc")):
        p, without = (careful.predict_proba(part)[:, 1] for part in (loans, loans.assign(annual_inc=0.0)))
        assert np.mean(p - without > 0.005) <= 0.05


@pytest.mark.slow
def test_complete_applications_keep_their_pds(sample):
    splits, careful, plain = sample
    complete = splits.test.dropna(subset=fields_of(careful))
    assert len(complete) > 0.9 * len(splits.test)
    np.testing.assert_array_equal(careful.predict_proba(complete), plain.predict_proba(complete))


@pytest.mark.slow
def test_a_file_without_the_fields_is_not_refused_as_a_whole(sample):
    splits, careful, _ = sample
    loans = some(splits.test)
    with_all, without = (careful.predict_proba(part)[:, 1].mean() for part in (loans, loans.drop(columns=fields_of(careful))))
    assert with_all - 0.02 < without < with_all + 0.12


@pytest.mark.slow
def test_service_and_pipeline_impute_alike(sample):
    splits, careful, _ = sample
    compiled = compile_pipeline(careful)
    loans, rng = some(splits.test, 300).copy(), np.random.default_rng(0)
    for field in fields_of(careful):
        loans[field] = loans[field].mask(rng.random(len(loans)) < 0.15)
    applications = as_applications(loans, compiled.tables["columns"])
    expected = careful.predict_proba(loans)[:, 1]
    alone = [compiled.probabilities([application])[0] for application in applications]
    np.testing.assert_allclose(compiled.probabilities(applications), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_given_field_that_makes_no_feature_is_not_imputed(sample):
    splits, careful, plain = sample
    loans = some(splits.test, 100).assign(emp_length="n/a").dropna(subset=fields_of(careful))
    np.testing.assert_array_equal(careful.predict_proba(loans), plain.predict_proba(loans))


def test_versions_of_earlier_releases_impute_as_they_did():
    for release in ("0.1.0", "0.2.0"):
        scorer = Scorer.load(Path(REPO, "tests", "golden", release), "1")
        tables = json.loads(Path(REPO, "tests", "golden", release, "encoder.json").read_text())
        assert tables["format"] == 1 and "imputation" not in tables
        assert "unusual" not in scorer.score([{"loan_amnt": 5000, "term": "36 months", "annual_inc": 5e7}])[0]


def test_unusual_values_are_named():
    scorer = Scorer.load(Path(REPO, "tests", "golden", "0.3.0"), "1")
    usual = {"loan_amnt": 5000, "term": "36 months", "annual_inc": 65_000, "dti": 17.0}
    assert "unusual" not in scorer.score([usual])[0]
    odd = usual | {"annual_inc": 6_500_000, "dti": 900}
    assert scorer.score([odd])[0]["unusual"] == ["annual_inc", "dti"]
    assert [a.get("unusual") for a in scorer.score([usual, odd, usual])] == [None, ["annual_inc", "dti"], None]


def test_each_way_decides_on_the_pd_that_it_shows():
    scorer = Scorer.load(Path(REPO, "tests", "golden", "0.3.0"), "1")
    examples = json.loads(Path(REPO, "tests", "golden", "0.3.0", "examples.json").read_text())["examples"]
    applications = [example["application"] for example in examples]
    together, alone = scorer.score(applications), [scorer.score([one])[0] for one in applications]
    for answer in [*together, *alone]:
        assert answer["probability_of_default"] == round(answer["probability_of_default"], 7)
        assert answer["prediction"] == int(answer["probability_of_default"] >= answer["threshold"])
    np.testing.assert_allclose(
        [a["probability_of_default"] for a in together], [a["probability_of_default"] for a in alone], rtol=0, atol=1e-6
    )


@pytest.mark.slow
def test_leaving_out_does_not_pay_on_real_loans(real_data):
    settings = scratch_settings(fresh=True, epochs=60)
    loans = clean_loans(read_loans(real_data / "accepted_2007_to_2011.csv.gz"))
    splits = temporal_split(loans, "2010-07-01", "2011-01-01")
    careful, plain = both_ways(splits, settings)
    gains = {own: who_gains(careful, some(splits.test), *own) for own in sets_of(careful)}
    single = {own: gain for own, gain in gains.items() if len(own) == 1}
    assert len(single) > 15 and max(single.values()) <= 0.05, gains
    assert max(gains.values()) <= 0.1, gains  # also of fields that stand in for each other, left out together
    complete = splits.test.dropna(subset=fields_of(careful))
    np.testing.assert_array_equal(careful.predict_proba(complete), plain.predict_proba(complete))
