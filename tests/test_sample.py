"""The built-in sample: against real loans where they are, and the same bytes in every process."""

import hashlib
import json

import numpy as np
import pytest
from conftest import REPO, lending_club

from lending_club.core.data import read_loans
from lending_club.core.months import parse_month
from lending_club.core.sample import TABLES, draw
from lending_club.core.sample_fit import compare_with_real, fit_tables


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
    assert {"numbers", "categories", "latent", "correlations", "joint", "cumulative_incidence", "states", "outcome"} == set(tables)
    for table in tables["numbers"].values():
        assert len(table["quantiles"]) == 401 and table["quantiles"] == sorted(table["quantiles"])


@pytest.fixture(scope="module")
def real(real_data):
    return read_loans(real_data / "accepted_sample_2007_to_2018.csv.gz", columns="all")


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


def test_the_package_has_the_tables_that_the_real_loans_give(real):
    again = json.loads(json.dumps(fit_tables(real)))
    shipped = json.loads(TABLES.read_text())
    assert again["numbers"] == shipped["numbers"] and again["categories"] == shipped["categories"]
    np.testing.assert_allclose(again["outcome"]["intercepts"], shipped["outcome"]["intercepts"], atol=0.01)


def test_saved_comparison_keeps_the_promises():
    saved = json.loads((REPO / "benchmarks" / "results" / "sample_fit.json").read_text())
    auc = saved["roc_auc"]
    assert 0.70 <= auc["truth"] <= 0.74 and 0.65 <= auc["sub-grade alone"] <= 0.68
    assert auc["sub-grade alone"] < auc["logistic regression"] < auc["trees"] < auc["truth"]
    assert auc["logistic regression"] < auc["truth"] - 0.015


def test_default_sample_covers_the_default_split():
    sample = draw(60_000)
    years = sample.loans["issue_d"].str[-4:].astype(int)
    assert (years.min(), years.max()) == (2007, 2018)
    final = sample.loans["loan_status"].str.contains("Fully Paid|Charged Off|Default")
    assert 0.3 < final.mean() < 0.9
    assert sample.loans.loc[~final, "out_prncp"].gt(0).all()
    for first, last in ((2007, 2015), (2016, 2016), (2017, 2018)):
        bad = sample.loans["loan_status"].str.contains("Charged Off|Default")[final & years.between(first, last)]
        assert len(bad) > 3_000 and 0.1 < bad.mean() < 0.3
