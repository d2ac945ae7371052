"""Compiled scoring: the same answers as the Pipeline, from data alone, and nothing else is let in."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import clean_environment, offer

from lending_club.clean import clean_loans, load_clean, temporal_split
from lending_club.core.applications import as_applications
from lending_club.core.compile import check_compiled, compile_pipeline
from lending_club.core.data import read_loans
from lending_club.core.examples import example_applications
from lending_club.core.hyperparameters import default_parameters
from lending_club.core.preprocess import application_frame
from lending_club.core.registry import connect
from lending_club.core.schema import BY_NAME, EXAMPLE_APPLICATION, REQUIRED_IN_APPLICATION
from lending_club.core.settings import scratch_settings
from lending_club.core.timed_splits import TimedSplits
from lending_club.promote import promote
from lending_club.serving.champion import ChampionPoller
from lending_club.serving.scorer import Scorer
from lending_club.serving.version import SERVED_FILES
from lending_club.train import fit_pipeline

HEAVY = ("torch", "sklearn", "skorch", "skops", "scipy", "pandas", "mlflow")


@pytest.fixture(scope="module")
def trained(stock, tmp_path_factory):
    "Settings of a project with a trained version, what was trained, and the version's served files."
    return stock.copy_to(tmp_path_factory.mktemp("compiled") / "project"), stock.first, stock.files[0]


def random_value(column, rng):
    "Any value that the schema admits, its ends more often than chance would."
    if column.kind == "number":
        low, high = column.minimum, column.maximum
        kind = rng.integers(5)
        if kind < 2:
            return float((low, high)[kind])
        if kind == 2:
            return float(rng.uniform(low, high))
        return float(min(max(np.expm1(rng.uniform(0, np.log1p(max(high, 1)))), low), high))  # small ones too
    if column.kind == "month":
        return f"{rng.choice('Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split())}-{rng.integers(1950, 2020)}"
    if not column.values or rng.random() < 0.1:
        return "never seen"
    value = str(rng.choice(column.values))
    return f" {value} " if rng.random() < 0.1 else value


def random_application(columns, rng) -> dict:
    "An application with fields missing, None, unknown or at the ends of their ranges."
    application, gaps = {}, rng.random()
    for name in columns:
        if name not in REQUIRED_IN_APPLICATION and rng.random() < gaps:
            if rng.random() < 0.2:
                application[name] = None
        else:
            application[name] = random_value(BY_NAME[name], rng)
    return application | {"term": str(rng.choice(BY_NAME["term"].values))}


def test_random_applications_get_the_pipelines_probability(trained):
    settings, result, files = trained
    rng = np.random.default_rng(0)
    columns = result.card["inputs"]["columns"]
    applications = [random_application(columns, rng) | {"issue_d": "Mar-2018"} for _ in range(2_000)]
    expected = result.pipeline.predict_proba(application_frame(applications, columns))[:, 1]
    scorer = Scorer.load(files, result.version)
    together = scorer.score(applications)
    np.testing.assert_allclose([a["probability_of_default"] for a in together], expected, rtol=0, atol=1e-6)
    alone = [scorer.score([application])[0] for application in applications[:500]]
    np.testing.assert_allclose([a["probability_of_default"] for a in alone], expected[:500], rtol=0, atol=1e-6)
    clear = np.abs(expected - result.pipeline[-1].threshold_) > 1e-6
    decided = result.pipeline.predict(application_frame(applications, columns))
    assert (np.array([a["prediction"] for a in together]) == decided)[clear].all()
    assert np.ptp(expected) > 0.2, "the applications do not differ enough to show anything"
    matrix = result.pipeline[:-1].transform(application_frame(applications, columns))
    np.testing.assert_array_equal(scorer._compiled.encode(applications), matrix)  # the same functions


def known_loans(splits) -> pd.DataFrame:
    "Loans on which a version is compared with its compiled form."
    return splits.recent if isinstance(splits, TimedSplits) else pd.concat([splits.validation, splits.calibration])


@pytest.fixture(scope="module")
def plain_perceptron():
    "A fitted Pipeline with the plain perceptron, two of them averaged, and the loans it was fitted on."
    settings = scratch_settings(sample_rows=5_000, epochs=15, network="mlp", seeds=2)
    splits = temporal_split(load_clean(settings).loans, settings.train_end, settings.val_end)
    return fit_pipeline(splits, default_parameters(settings.network), settings, progress=False), splits


@pytest.mark.slow
def test_the_plain_perceptron_compiles_too(plain_perceptron):
    pipeline, splits = plain_perceptron
    compiled = compile_pipeline(pipeline)
    loans = pd.concat([known_loans(splits), splits.test])
    agreement = check_compiled(compiled, pipeline, loans)  # spoilt loans too
    assert agreement["loans"] > len(loans) and agreement["largest_difference"] <= 1e-6
    rng = np.random.default_rng(1)
    columns = pipeline["features"].columns_
    applications = [random_application(columns, rng) | {"issue_d": "Mar-2018"} for _ in range(1_000)]
    expected = pipeline.predict_proba(application_frame(applications, columns))[:, 1]
    np.testing.assert_allclose(compiled.probabilities(applications), expected, rtol=0, atol=1e-6)
    assert np.ptp(expected) > 0.2, "the applications do not differ enough to show anything"


@pytest.mark.slow
@pytest.mark.parametrize("network", ["tabm", "mlp"])
def test_real_loans_get_the_pipelines_probability(real_data, network):
    loans = clean_loans(read_loans(real_data / "accepted_sample_2007_to_2018.csv.gz"))
    settings = scratch_settings(epochs=3, network=network)
    splits = temporal_split(loans, settings.train_end, settings.val_end)
    pipeline = fit_pipeline(splits, default_parameters(settings.network), settings, progress=False)
    compiled = compile_pipeline(pipeline)
    agreement = check_compiled(compiled, pipeline, loans)
    assert agreement["loans"] > len(loans) == 6_071 and agreement["largest_difference"] <= 1e-6
    some = as_applications(loans[-200:], compiled.tables["columns"])
    alone = [compiled.probabilities([application])[0] for application in some]
    np.testing.assert_allclose(alone, compiled.probabilities(some), rtol=0, atol=1e-6)


def test_whole_numbers_and_others_of_one_column_are_looked_up_alike(trained):
    _, result, files = trained
    scorer = Scorer.load(files, result.version)
    rng = np.random.default_rng(2)
    values = [0, 1, 2.5, -3, 700, 1e12, 3, None, 4.0, 1e-9, 17.999]
    used = [name for name in result.card["inputs"]["used"] if name not in REQUIRED_IN_APPLICATION]
    numbers = [name for name in used if BY_NAME[name].kind == "number"]

    def drawn() -> dict:
        return EXAMPLE_APPLICATION | {"issue_d": "Mar-2018"} | {name: values[rng.integers(len(values))] for name in numbers}

    applications = [drawn() for _ in range(300)]
    expected = result.pipeline.predict_proba(application_frame(applications, result.card["inputs"]["columns"]))[:, 1]
    before = json.dumps(applications)
    together = [answer["probability_of_default"] for answer in scorer.score(applications)]
    alone = [scorer.score([application])[0]["probability_of_default"] for application in applications]
    np.testing.assert_allclose(together, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)
    assert json.dumps(applications) == before, "scoring changed the applications"


def test_numbers_as_text_and_odd_values_are_scored_like_missing_or_like_the_number(trained):
    _, result, files = trained
    scorer = Scorer.load(files, result.version)

    def ask(**fields):
        return scorer.score([EXAMPLE_APPLICATION | fields])[0]["probability_of_default"]

    assert ask(int_rate="13.56%") == pytest.approx(ask(int_rate=13.56), abs=1e-9)
    assert ask(dti="") == pytest.approx(ask(dti=None), abs=1e-9)
    assert ask(purpose="  ") == ask(purpose=None)
    assert 0 < ask(annual_inc=1e-300, revol_bal=1e9) < 1  # a ratio that is infinite
    assert scorer.score([]) == []


def test_the_check_covers_every_validation_and_calibration_loan(trained):
    _, result, _ = trained
    agreement = result.card["compiled"]
    loans = len(known_loans(result.splits))
    assert agreement["loans"] > loans and agreement["largest_difference"] <= 1e-6


def test_each_served_file_has_its_digest_on_the_version(trained):
    settings, result, files = trained
    tags = connect(settings).get_model_version(settings.registered_model_name, result.version).tags
    assert {f"sha256.{name}" for name in SERVED_FILES} <= set(tags)
    assert set(SERVED_FILES) <= {path.name for path in files.iterdir()}


def run_python(code, cwd) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("\n")[-1]


def test_scoring_loads_no_heavy_library(trained):
    settings, result, files = trained
    known = example_applications()[-1]
    code = f"""
import json, sys
from lending_club.serving.scorer import Scorer
scorer = Scorer.load({str(files)!r}, "1")
p = [scorer.score([{known!r}] * n)[0]["probability_of_default"] for n in (1, 3)]
print(json.dumps([p, sorted(set({HEAVY!r}) & set(sys.modules))]))
"""
    p, loaded = json.loads(run_python(code, settings.root))
    assert loaded == []
    examples = json.loads((files / "examples.json").read_text())["examples"]
    expected = next(e["probability_of_default"] for e in examples if e["application"] == known)
    assert p == pytest.approx([expected] * 2, abs=1e-6)


def test_polling_loads_no_model_library(trained):
    settings, _, _ = trained
    if connect(settings).get_registered_model(settings.registered_model_name).aliases.get("champion") is None:
        promote(settings)
    code = """
import json, sys
from lending_club.serving.champion import ChampionPoller
from lending_club.core.settings import load_settings
poller = ChampionPoller(load_settings())
poller.poll()
print(json.dumps([poller.health(), sorted({"torch", "skorch", "skops"} & set(sys.modules))]))
"""
    health, loaded = json.loads(run_python(code, settings.root))
    assert (health["status"], loaded) == ("ok", [])  # MLflow itself brings pandas, mlflow-skinny does not


@pytest.fixture
def poller(stocked):
    "A poller with a champion, version 1; the second version is promoted, but its files may be spoilt first."
    promote(stocked)
    poller = ChampionPoller(stocked)
    poller.poll()
    assert poller.scorer is not None, poller.last_error
    return poller


def served_files(settings, seed):
    "The folder of the stored files of the version that was trained with `seed`."
    cards = [p for p in (settings.var / "artifacts").rglob("card.json") if json.loads(p.read_text())["settings"]["seed"] == seed]
    (card,) = cards
    return card.parent


def refused(poller) -> str:
    "Poll; the reason for which the new champion was refused, after checking that the old one answers as before."
    before, answer = poller.scorer, poller.scorer.score([EXAMPLE_APPLICATION])
    assert poller.poll() is False
    assert poller.scorer is before and poller.scorer.score([EXAMPLE_APPLICATION]) == answer
    assert poller.health()["status"] == "degraded"
    return poller.last_error


def test_spoilt_champions_are_refused_and_the_old_one_stays(stocked, stock, poller):
    settings, second = stocked, stock.second.version
    offer(settings, second)
    promote(settings)
    files, first_files = served_files(settings, 1), served_files(settings, settings.seed)
    graph, tables = (files / "model.onnx").read_bytes(), (files / "encoder.json").read_bytes()

    (files / "model.onnx").write_bytes(graph[: len(graph) // 2])
    assert f"model.onnx of version {second} is not what was registered" in refused(poller)
    (files / "model.onnx").write_bytes((first_files / "model.onnx").read_bytes())
    assert f"model.onnx of version {second} is not what was registered" in refused(poller)
    (files / "model.onnx").write_bytes(graph)
    (files / "encoder.json").write_bytes((first_files / "encoder.json").read_bytes())
    assert f"encoder.json of version {second} is not what was registered" in refused(poller)
    (files / "encoder.json").write_bytes(tables)

    client = connect(settings)
    digest = client.get_model_version(settings.registered_model_name, second).tags["sha256.model.onnx"]
    client.delete_model_version_tag(settings.registered_model_name, second, "sha256.model.onnx")
    assert "has no compiled form" in refused(poller)
    (files / "model.onnx").unlink()
    assert f"version {second} lacks the file model.onnx" in refused(poller)

    (files / "model.onnx").write_bytes(graph)
    client.set_model_version_tag(settings.registered_model_name, second, "sha256.model.onnx", digest)
    assert poller.poll() is True and poller.scorer.version == second and poller.last_error is None
