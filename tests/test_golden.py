"""Versions of earlier releases, kept as files: every later release must load them and give the same PDs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import clean_environment
from make_golden import write_golden

import lending_club
from lending_club.core import features, spellings
from lending_club.serving.scorer import Scorer, ServingError, read_files

GOLDEN = Path(__file__).parent / "golden"
RELEASES = sorted(folder.name for folder in GOLDEN.iterdir())
NEWEST = GOLDEN / RELEASES[-1]


def expected(folder: Path) -> tuple[list[dict], np.ndarray]:
    "Applications, and the PDs that the release itself gave them."
    if (folder / "expected.json").is_file():  # 0.1.0 stored a single example
        cases = json.loads((folder / "expected.json").read_text())
    else:
        cases = json.loads((folder / "examples.json").read_text())["examples"]
    return [case["application"] for case in cases], np.array([case["probability_of_default"] for case in cases])


def test_there_is_a_bundle_of_this_minor_release():
    assert lending_club.__version__ in RELEASES


@pytest.fixture(scope="module")
def of_now(tmp_path_factory) -> Path:
    "The golden version that this code would write."
    folder = tmp_path_factory.mktemp("golden") / "now"
    write_golden(folder)
    return folder


@pytest.mark.parametrize("release", RELEASES)
def test_an_earlier_release_keeps_its_pds(release):
    check_pds(GOLDEN / release)


def check_pds(folder: Path):
    "A version gives its applications the PDs that it gave them when it was written, however many are sent at once."
    scorer = Scorer.load(folder, "1")
    applications, pds = expected(folder)
    together = [answer["probability_of_default"] for answer in scorer.score(applications)]
    alone = [scorer.score([application])[0]["probability_of_default"] for application in applications]
    np.testing.assert_allclose(together, pds, rtol=0, atol=1e-6)
    np.testing.assert_allclose(alone, pds, rtol=0, atol=1e-6)
    threes = [scorer.score(applications[i : i + 3]) for i in range(0, len(applications), 3)]
    np.testing.assert_allclose([a["probability_of_default"] for own in threes for a in own], pds, rtol=0, atol=1e-6)
    assert len(pds) > 50 and np.ptp(pds) > 0.3, "the applications do not differ enough to show anything"


def check_curves(folder: Path):
    "A version gives its first applications the curves that it gave them when it was written."
    scorer, applications = Scorer.load(folder, "1"), expected(folder)[0]
    curves = json.loads((folder / "curves.json").read_text())
    together = scorer.score(applications[: len(curves)], curve=True)
    alone = [scorer.score([application], curve=True)[0] for application in applications[: len(curves)]]
    for name in ("cumulative_pd", "cumulative_payoff"):
        for kept, *now in zip(curves, together, alone, strict=True):
            assert [len(answer[name]) for answer in now] == [len(kept[name])] * 2 and len(kept[name]) in (36, 60)
            for answer in now:
                np.testing.assert_allclose(answer[name], kept[name], rtol=0, atol=1e-6)


def test_an_earlier_release_keeps_its_curves():
    "From 0.4.0 on each has some."
    for release in RELEASES:
        if tuple(map(int, release.split("."))) >= (0, 4):
            check_curves(GOLDEN / release)


@pytest.mark.slow
def test_the_golden_version_of_the_next_release(of_now, tmp_path):
    check_pds(of_now)
    check_curves(of_now)
    spoilt = shutil.copytree(of_now, tmp_path / "spoilt")
    curves = json.loads((spoilt / "curves.json").read_text())
    curves[3]["cumulative_payoff"][10] += 1e-4
    (spoilt / "curves.json").write_text(json.dumps(curves))
    with pytest.raises(AssertionError):
        check_curves(spoilt)


CHANGED = {
    "income counts the first borrower alone": ("income", lambda raw: raw.number("annual_inc")),
    "DTI counts the first borrower alone": ("dti_combined", lambda raw: raw.number("dti")),
    "a gap in the instalment stays one": ("installment", lambda raw: raw.number("installment")),
    "a ratio to nothing is 0": ("ratio", lambda a, b: np.where(b > 1e-9, a / np.maximum(b, 1e-9), 0.0)),
    "money is not logged": ("log_money", lambda amount: amount),
    "a missing sub-grade stays missing": ("parse_sub_grade", lambda sub, grade, worst: features.parse_each(sub, _sub_grade)),
    "months count from the next one": ("months_between", lambda a, b: features_months(a, b) + 1),
    "employment counts from one": ("parse_emp_length", lambda values: features_employment(values) + 1),
}
features_months, features_employment = features.months_between, features.parse_emp_length


def _sub_grade(text: str) -> float:
    from lending_club.core.parsing import parse_sub_grade

    return parse_sub_grade(text)


@pytest.mark.parametrize("rule", CHANGED)
def test_a_changed_rule_is_refused_with_the_reason(monkeypatch, rule):
    name, other = CHANGED[rule]
    Scorer.load(NEWEST, "7")  # as it is
    monkeypatch.setattr(features, name, other)
    with pytest.raises(ServingError, match=r"version 7 .* of \d+ example"):
        Scorer.load(NEWEST, "7")


def test_a_changed_spelling_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setitem(spellings._WORDS["application_type"], "single", "Joint App")
    spellings._category_words.cache_clear()
    try:
        with pytest.raises(ServingError, match="version 7 was trained with application_type 'single' read as 'Individual'"):
            Scorer.load(NEWEST, "7")
    finally:
        monkeypatch.undo()
        spellings._category_words.cache_clear()


def test_a_category_in_an_older_spelling_stays_unseen_and_is_named(caplog):
    content = read_files(GOLDEN / "0.2.0")
    renamed = {**content, "encoder.json": content["encoder.json"].replace(b'"Individual"', b'"INDIVIDUAL"')}
    unknown = {**content, "encoder.json": content["encoder.json"].replace(b'"Individual"', b'"never sent"')}
    assert renamed["encoder.json"] != content["encoder.json"]
    for files in (renamed, unknown):
        examples = json.loads(files["examples.json"])
        examples["examples"] = [e for e in examples["examples"] if e["application"].get("application_type") == "Joint App"]
        files["examples.json"] = json.dumps(examples).encode()
    scorers = [Scorer.from_content(files, "3") for files in (renamed, unknown)]
    assert "application_type 'INDIVIDUAL'" in caplog.text and "train and register it anew" in caplog.text
    applications = [case for case in expected(GOLDEN / "0.2.0")[0] if case.get("application_type") == "Individual"]
    pds = [[answer["probability_of_default"] for answer in scorer.score(applications)] for scorer in scorers]
    assert pds[0] == pds[1] and len(applications) > 5


USED = list(json.loads((NEWEST / "encoder.json").read_text())["quantiles"])  # all features of its release


@pytest.mark.parametrize("name", USED)
def test_each_feature_of_the_version_shows_in_an_example(monkeypatch, name):
    feature = features.FEATURE_BY_NAME[name]
    changed = features.Feature(name, feature.unit, feature.meaning, lambda raw: 1.3 * feature.make(raw) + 2)
    monkeypatch.setitem(features.FEATURE_BY_NAME, name, changed)
    features.feature_plan.cache_clear()
    try:
        with pytest.raises(ServingError, match="example"):
            Scorer.load(NEWEST, "7")
    finally:
        features.feature_plan.cache_clear()


def test_a_golden_bundle_needs_no_heavy_library():
    code = f"""
import json, sys
from lending_club.serving.scorer import Scorer
Scorer.load({str(NEWEST)!r}, "1")
print(json.dumps(sorted({{"torch", "sklearn", "skorch", "pandas", "mlflow", "scipy"}} & set(sys.modules))))
"""
    done = subprocess.run([sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True)
    assert json.loads(done.stdout) == [], done.stderr
