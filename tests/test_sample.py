"""The built-in sample: against real loans where they are, and the same bytes in every process."""

import hashlib
import json
import runpy

import numpy as np
import pytest
from conftest import REPO, lending_club
from sklearn.metrics import roc_auc_score

from lending_club.core.data import read_loans
from lending_club.core.months import parse_month
from lending_club.core.outcomes import target
from lending_club.core.parsing import parse_sub_grade, parse_term
from lending_club.core.sample import GRID, TABLES, draw
from lending_club.core.sample_fit import compare_with_real, fit_tables
from lending_club.core.sample_truth import true_cumulative


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path):
    digests = []
    for name in ("one", "two"):
        for ending in (".csv.gz", ".parquet"):
            done = lending_club("sample", "--rows", 11_000, "--seed", 9, tmp_path / f"{name}{ending}", cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            digests.append(hashlib.sha256((tmp_path / f"{name}{ending}").read_bytes()).hexdigest())
    assert digests[:2] == digests[2:]


def test_tables_are_aggregates():
    text = TABLES.read_text()
    assert len(text) < 1_000_000
    tables = json.loads(text)
    names = {"numbers", "categories", "latent", "correlations", "joint", "cumulative_incidence", "states", "outcome"}
    assert set(tables) == names
    for table in tables["numbers"].values():
        assert len(table["quantiles"]) == 401 and table["quantiles"] == sorted(table["quantiles"])


@pytest.fixture(scope="module")
def real(real_data):
    return read_loans(real_data / "accepted_sample_2007_to_2018.csv.gz", columns="all")


@pytest.mark.slow
def test_sample_is_like_the_loans_it_was_fitted_from(real):
    issued = np.tile(parse_month(real["issue_d"].to_numpy()), 20)
    compared = compare_with_real(real, draw(len(issued), 11, issued=issued).loans)
    assert compared["columns"]["KS"].max() <= 0.06
    assert compared["correlations"].abs().max().max() <= 0.1
    assert compared["missing"]["difference"].abs().max() <= 0.03
    grades = compared["grades"]
    large = grades["real loans"] >= 500
    assert grades.loc[large, "difference"].abs().max() <= 0.03
    assert grades.loc[~large, "difference"].abs().max() <= 0.05


@pytest.mark.slow
def test_the_package_has_the_tables_that_the_real_loans_give(real):
    again = json.loads(json.dumps(fit_tables(real)))
    shipped = json.loads(TABLES.read_text())
    assert again["numbers"] == shipped["numbers"] and again["categories"] == shipped["categories"]
    np.testing.assert_allclose(again["outcome"]["intercepts"], shipped["outcome"]["intercepts"], atol=0.01)


@pytest.fixture(scope="module")
def sample():
    return draw(60_000)


def test_drawn_loans_follow_the_tables(sample):
    tables = json.loads(TABLES.read_text())
    checked = 0
    for name in ("loan_amnt", "int_rate", "annual_inc", "dti", "revol_bal", "fico_range_low", "tot_cur_bal", "bc_util"):
        values = sample.loans[name].dropna().to_numpy()
        levels = np.linspace(0.05, 0.95, 19)
        wanted = np.interp(levels, GRID, tables["numbers"][name]["quantiles"])
        below, up_to = ((op(values[:, None], wanted)).mean(axis=0) for op in (np.less, np.less_equal))
        assert np.all(below - 0.02 <= levels) and np.all(levels <= up_to + 0.02), name
        checked += 1
    assert checked == 8
    purposes = tables["categories"]["purpose"]
    drawn = sample.loans["purpose"].value_counts(normalize=True)
    for level, share in zip(purposes["levels"], purposes["shares"], strict=True):
        assert abs(drawn.get(level, 0) - share) < 0.01, level


def test_the_truth_is_what_the_drawn_loans_follow(sample):
    bad = target(sample.loans["loan_status"])
    test = (bad.notna() & (sample.loans["issue_d"].str[-4:].astype(int) >= 2017)).to_numpy()
    auc = {
        "truth": roc_auc_score(bad[test], sample.true_pd[test]),
        "truth given final": roc_auc_score(bad[test], sample.pd_given_resolved[test]),
        "sub-grade alone": roc_auc_score(bad[test], parse_sub_grade(sample.loans["sub_grade"].to_numpy())[test]),
    }
    assert 0.70 <= auc["truth"] <= 0.74 and 0.65 <= auc["sub-grade alone"] <= 0.68
    assert auc["truth"] < auc["truth given final"]
    # calibrated: the bad rate of the final loans is the mean of their PDs
    assert abs(bad[test].mean() - sample.pd_given_resolved[test].mean()) < 0.01


def test_the_true_curves_rise_and_end_at_the_true_pd(sample):
    term = parse_term(sample.loans["term"].to_numpy())
    curves = true_cumulative(sample.true_pd, term)
    assert curves.shape == (len(term), 60, 2) and curves.dtype == np.float64
    assert curves.min() >= 0 and np.diff(curves, axis=1).min() >= 0 and curves.sum(axis=2).max() < 1
    for length in (36, 60):
        at_the_end = curves[term == length, length - 1 :]
        np.testing.assert_allclose(at_the_end[:, :, 0], sample.true_pd[term == length, None].repeat(61 - length, 1), atol=1e-12)
        assert np.ptp(at_the_end, axis=1).max() == 0
    np.testing.assert_array_equal(true_cumulative(sample.true_pd[:9], term[:9]), curves[:9])  # of some loans alone


def test_the_true_curves_are_those_of_the_drawn_loans():
    sample = draw(60_000, seed=25, snapshot=2024 * 12)  # late enough that all have ended
    loans, bad, term = sample.loans, target(sample.loans["loan_status"]) == 1, parse_term(sample.loans["term"].to_numpy())
    paying = parse_month(loans["last_pymnt_d"].to_numpy()) - parse_month(loans["issue_d"].to_numpy())
    paying = np.nan_to_num(paying, nan=0)  # those that never paid
    months = np.array([6, 12, 24, 36, 60])
    charged_off = bad.to_numpy()[:, None] & (np.minimum(paying + 5, term)[:, None] <= months)
    paid_off = (~bad.to_numpy() & (paying < term - 1))[:, None] & (paying[:, None] <= months)
    observed, truth = np.stack([charged_off, paid_off], axis=2), true_cumulative(sample.true_pd, term)[:, months - 1]
    for length in (36, 60):
        own = term == length
        error = np.sqrt((truth[own] * (1 - truth[own])).sum(axis=0)) / own.sum()
        assert (abs(observed[own].mean(axis=0) - truth[own].mean(axis=0)) <= 4 * error).all(), length
        assert (error < 0.004).all() and (observed[own].sum(axis=0) > 5).all()


@pytest.mark.slow
def test_models_on_the_sample_are_as_far_apart_as_on_real_loans():
    auc = runpy.run_path(str(REPO / "benchmarks" / "sample_fit.py"))["auc_on_the_sample"](60_000)
    assert auc["sub-grade alone"] < auc["logistic regression"] < auc["trees"] < auc["truth"] < auc["truth given final"]
    assert auc["logistic regression"] < auc["truth"] - 0.015


def test_default_sample_covers_the_default_split(sample):
    years = sample.loans["issue_d"].str[-4:].astype(int)
    assert (years.min(), years.max()) == (2007, 2018)
    outcome = target(sample.loans["loan_status"])
    assert 0.3 < outcome.notna().mean() < 0.9
    assert sample.loans.loc[outcome.isna(), "out_prncp"].gt(0).all()
    for first, last in ((2007, 2015), (2016, 2016), (2017, 2018)):
        ended = outcome[years.between(first, last)].dropna()
        assert len(ended) > 3_000 and 0.1 < ended.mean() < 0.3
