"""Refer bands: what their sets hold where the truth is known, and that no loan's own outcome reaches its PD."""

import dataclasses
import json
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.pipeline import Pipeline

from lending_club.clean import clean_loans, temporal_split
from lending_club.core import conformal, refer_band
from lending_club.core.conformal import ALWAYS, BAND_KINDS, ReferBandError, fit_sets, is_referred, prediction_sets
from lending_club.core.hazard_calibration import assemble_timed
from lending_club.core.hyperparameters import default_parameters
from lending_club.core.sample import draw
from lending_club.core.settings import scratch_settings
from lending_club.core.timeline import CHARGE_OFF, RUNNING
from lending_club.train import fit_networks

SMALL = default_parameters("tabm", "time_to_event") | {"k": 2, "width": 8, "blocks": 1, "bins": 8}
LEVELS = (0.8, 0.9, 0.95)


def drawn(n: int, rng) -> tuple[np.ndarray, np.ndarray]:
    "PDs that are wrong on purpose, and outcomes: coverage must not need a good network."
    truth = rng.beta(1.2, 10, n)
    return (0.5 * truth**0.7 + 0.1 * rng.random(n)).clip(0, 1), rng.random(n) < truth


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", BAND_KINDS)
def test_the_sets_hold_the_share_of_outcomes_that_they_promise(kind, level):
    rng, shares = np.random.default_rng(7), []
    for _ in range(200):
        table = fit_sets(*drawn(1_500, rng), level, kind)
        p12, bad = drawn(1_500, rng)
        in_good, in_bad = prediction_sets(p12, table)
        hit = np.where(bad, in_bad, in_good)
        shares.append([hit.mean(), hit[~bad].mean(), hit[bad].mean()])
    mean, error = np.mean(shares, axis=0), np.std(shares, axis=0) / 200**0.5
    promised = slice(None) if kind == "class_conditional" else slice(1)
    assert (mean[promised] > level - 4 * error[promised]).all(), mean
    assert (mean[promised] < level + 4 * error[promised] + 0.01).all(), mean  # 1 / (n + 1) more than the level at most
    assert kind == "class_conditional" or mean[2] < level - 0.2  # a level for all is none for the bad ones


scores_of = st.lists(st.integers(0, 50).map(lambda whole: whole / 50), max_size=60)


@given(scores=scores_of, level=st.integers(1, 99).map(lambda percent: percent / 100))
def test_a_threshold_is_the_smallest_score_that_enough_loans_reach(scores, level):
    found = conformal.score_threshold(np.array(scores), level)
    place = math.ceil((len(scores) + 1) * Fraction(str(level)))
    if place > len(scores):
        assert found == ALWAYS
    else:
        below, up_to = sum(own < found for own in scores), sum(own <= found for own in scores)
        assert below < place <= up_to


@pytest.mark.parametrize("charge_offs", [0, 1, 8, 9])
def test_few_charge_offs_keep_bad_in_every_set(charge_offs):
    p12, bad = np.linspace(0.001, 0.3, 400), np.zeros(400, bool)
    bad[np.linspace(0, 399, charge_offs).astype(int)] = True
    table = fit_sets(p12, bad, 0.9, "class_conditional")
    in_good, in_bad = prediction_sets(np.array([0.0, 0.5, 1.0]), table)
    assert in_bad.all() == (charge_offs < 9) and (table["bad"] == ALWAYS) == (charge_offs < 9)
    assert table["charge_offs"] == charge_offs and table["loans"] == 400
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    alone = fit_sets(p12[:1], bad[:1], 0.9, "marginal")
    assert is_referred(p12, alone).all() and alone["good"] == alone["bad"] == ALWAYS


@pytest.mark.parametrize("kind", BAND_KINDS)
def test_a_decision_is_the_same_alone_in_a_batch_and_from_its_record(kind):
    p12, bad = drawn(3_000, np.random.default_rng(3))
    table = fit_sets(p12, bad, 0.9, kind)
    around = np.array([-1e-7, 0, 4e-8, 1e-7])
    edge = np.concatenate([p12, table["good"] + around, 1 - table["bad"] + around]).clip(0, 1)
    together = is_referred(edge, table)
    shown = json.loads(json.dumps({"p12": np.round(edge, 7).tolist(), "table": table}))
    assert together.tolist() == is_referred(shown["p12"], shown["table"]).tolist()
    assert together.tolist() == [bool(is_referred([p], table)[0]) for p in edge]
    assert len(is_referred([], table)) == 0


@pytest.fixture(scope="module")
def run() -> SimpleNamespace:
    settings = scratch_settings(sample_rows=6_000, epochs=2, refer_band="class_conditional")
    loans = clean_loans(draw(settings.sample_rows).loans, target="time_to_event")
    splits = temporal_split(loans, settings.train_end, settings.val_end)
    fitted = fit_networks(splits, SMALL, settings, progress=False)
    return SimpleNamespace(
        settings=settings, splits=splits, fitted=fitted, unseen=refer_band.out_of_fold_pds(splits, fitted, settings, folds=3)
    )


@pytest.mark.slow
def test_the_outcomes_of_a_fold_do_not_change_its_own_pds(run, monkeypatch):
    fold = run.unseen["fold"].to_numpy()
    own = run.unseen.index[fold == 0]
    other = run.splits.refit.copy()
    ended = other.loc[own, "event"] == CHARGE_OFF
    other.loc[own, "event"] = np.where(ended, RUNNING, CHARGE_OFF)
    other.loc[own, "exit"] = np.minimum(other.loc[own, "exit"], 6)
    monkeypatch.setattr(refer_band, "fold_of", lambda bad, folds, seed: fold)
    again = refer_band.out_of_fold_pds(dataclasses.replace(run.splits, refit=other), run.fitted, run.settings, folds=3)
    assert (again.loc[own, "bad"] != run.unseen.loc[own, "bad"]).mean() > 0.9
    np.testing.assert_array_equal(again.loc[own, "p12"], run.unseen.loc[own, "p12"])
    others = run.unseen.index[fold != 0]
    assert again.loc[others, "p12"].mean() > 2 * run.unseen.loc[others, "p12"].mean()


@pytest.mark.slow
def test_each_loan_that_counts_has_one_fold_and_each_fold_its_share_of_bad_loans(run):
    unseen, splits = run.unseen, run.splits
    latest = splits.loans.loc[unseen.index, "issue_month"].max()
    assert latest < splits.val_end - pd.DateOffset(months=12) and unseen.index.is_unique
    assert unseen["p12"].between(0, 1).all() and set(unseen["fold"]) == {0, 1, 2}
    counts = unseen.groupby("fold")["bad"].agg(["size", "sum"])
    assert (np.ptp(counts.to_numpy(), axis=0) <= 1).all()
    again = refer_band.fold_of(unseen["bad"], 3, run.settings.seed)
    assert again.tolist() == unseen["fold"].tolist()
    assert refer_band.fold_of(unseen["bad"], 3, run.settings.seed + 1).tolist() != again.tolist()


@pytest.mark.slow
def test_an_assembled_pipeline_gives_the_same_pds(run):
    pipeline = assemble_timed(run.splits, run.fitted, cautious=False)
    pd.testing.assert_frame_equal(refer_band.out_of_fold_pds(run.splits, pipeline, run.settings, folds=3), run.unseen)


@pytest.mark.slow
def test_a_run_has_a_table_and_its_report(run):
    table, report = refer_band.fit_refer_band(run.splits, run.fitted, run.settings, folds=3)
    assert table == fit_sets(run.unseen["p12"], run.unseen["bad"], 0.9, "class_conditional")
    assert report["overall"].loc["all", "loans"] == len(run.unseen) == table["loans"]
    assert (report["by_outcome"]["coverage"] >= 0.9).all()
    referred = is_referred(run.unseen["p12"], table)
    assert report["overall"].loc["all", "referred"] == pytest.approx(referred.mean())
    assert report["by_set"].loc[["both", "none"], "loans"].sum() == referred.sum()


@pytest.mark.slow
def test_what_cannot_have_a_band_is_refused(run):
    off = dataclasses.replace(run.settings, refer_band="off")
    with pytest.raises(ReferBandError, match="refer_band is off"):
        refer_band.fit_refer_band(run.splits, run.fitted, off)
    with pytest.raises(ReferBandError, match="needs the target time_to_event"):
        refer_band.fit_refer_band(SimpleNamespace(train=run.splits.loans), Pipeline([("none", None)]), run.settings)
    few = run.splits.refit[run.splits.refit["event"] != CHARGE_OFF]
    with pytest.raises(ReferBandError, match="needs 50 charge-offs: of the .* 0 were charged off"):
        refer_band.out_of_fold_pds(dataclasses.replace(run.splits, refit=few), run.fitted, run.settings)
