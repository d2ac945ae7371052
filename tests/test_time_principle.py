"""Nothing that happened on or after `val_end` reaches a fitted Pipeline: all of it is drawn anew, and nothing changes."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from lending_club.clean import clean_loans, temporal_split
from lending_club.core.curves import ARREARS
from lending_club.core.data import read_loans
from lending_club.core.evaluation import charge_off_timing, ended_parts
from lending_club.core.hyperparameters import default_parameters
from lending_club.core.matrices import fit_preprocessing
from lending_club.core.months import month_text, parse_month
from lending_club.core.outcomes import CHARGED_OFF, DEFAULT, FULLY_PAID, RUNNING_STATUSES, target
from lending_club.core.sample import draw
from lending_club.core.schema import COLUMNS
from lending_club.core.settings import scratch_settings
from lending_club.core.timeline import exposure, months_since_year_0, reconstruct
from lending_club.train import fit_pipeline

SNAPSHOT = date(2019, 3, 1)
SMALL = default_parameters("tabm", "time_to_event") | {"k": 2, "width": 8, "blocks": 1, "bins": 8}
LATER = [column.name for column in COLUMNS if not column.at_origination and column.name not in ("loan_status", "last_pymnt_d")]


def running(raw: pd.DataFrame, day: date) -> np.ndarray:  # bool, shape (n,)
    "Loans whose outcome was not known at a date: running ones, and those issued from it on."
    issued, last = (parse_month(raw[name].to_numpy()) for name in ("issue_d", "last_pymnt_d"))
    bad = target(raw["loan_status"]).to_numpy()
    end = np.where(np.isnan(last), issued, last) + np.where(bad == 1, ARREARS, 0)
    ended = ~np.isnan(bad) & (np.minimum(end, months_since_year_0(SNAPSHOT)) < months_since_year_0(day))
    return ~reconstruct(raw, SNAPSHOT).impossible & ~ended


def scrambled(raw: pd.DataFrame, day: date, seed: int = 0) -> pd.DataFrame:
    """Raw loans with another life from a date on.

    Loans that ran at the date end on it or later, or never. A charge-off comes five months after the last payment, which may
    therefore lie before the date."""
    rng, n = np.random.default_rng(seed), len(raw)
    issued, first = parse_month(raw["issue_d"].to_numpy()), months_since_year_0(day)
    last_month = months_since_year_0(SNAPSHOT)
    changed = running(raw, day)
    words = np.array([FULLY_PAID, CHARGED_OFF, DEFAULT, *RUNNING_STATUSES], dtype=object)
    status = rng.choice(words, n, p=[0.3, 0.35, 0.05, 0.15, 0.05, 0.05, 0.05])
    bad = np.isin(status, (CHARGED_OFF, DEFAULT))
    least = np.where(status == FULLY_PAID, np.maximum(first, issued), np.maximum(first - ARREARS, issued))
    paid = np.floor(least + rng.random(n) * (last_month + 1 - least))
    never = ~(status == FULLY_PAID) & (~bad | (issued + ARREARS >= first)) & (rng.random(n) < 0.1)  # paid anything
    new = raw.assign(loan_status=status, last_pymnt_d=month_text(np.where(never, np.nan, paid)))
    new[LATER] = raw[LATER].iloc[rng.permutation(n)].to_numpy()
    result = raw.copy()
    result.loc[changed] = new.astype(raw.dtypes.to_dict()).loc[changed]
    return result


def cleaned_and_split(raw, settings):
    loans = clean_loans(raw, target=settings.target, snapshot=SNAPSHOT)
    return temporal_split(loans, settings.train_end, settings.val_end, SNAPSHOT)


def check_scramble(raw: pd.DataFrame, other: pd.DataFrame, day: date):
    "The scramble changes much, but nothing of what was known at the date."
    loans = [clean_loans(own, target="time_to_event", snapshot=SNAPSHOT) for own in (raw, other)]
    pd.testing.assert_frame_equal(exposure(loans[0], day), exposure(loans[1], day))
    inputs = loans[0].columns.difference(["default", "end_month"])
    pd.testing.assert_frame_equal(loans[0][inputs], loans[1][inputs])
    unknown = running(raw, day)
    np.testing.assert_array_equal(unknown, running(other, day))
    ended = (own["loan_status"][unknown].isin(RUNNING_STATUSES) for own in (raw, other))
    assert 0.2 < np.mean(np.not_equal(*ended)) and unknown.mean() > 0.3
    assert (loans[0]["end_month"] != loans[1]["end_month"]).mean() > 0.3


def check_principle(raw: pd.DataFrame, settings):
    "Fit before and after the scramble, and compare everything."
    other = scrambled(raw, settings.val_end)
    check_scramble(raw, other, settings.val_end)
    splits = [cleaned_and_split(own, settings) for own in (raw, other)]
    matrices = [fit_preprocessing(own, settings)[1] for own in splits]
    assert len(matrices[0]) == 6
    for before, after in zip(*matrices, strict=True):  # the search sees the first four, of train and validation
        np.testing.assert_array_equal(before, after)
    for name in splits[0].periods:  # what baselines learn from
        pd.testing.assert_frame_equal(*(getattr(ended_parts(own), name) for own in splits))
    for before, after in zip(*(charge_off_timing(own).values() for own in splits), strict=True):
        np.testing.assert_array_equal(before, after)
    first, second = (fit_pipeline(own, SMALL, settings, progress=False, cautious=True) for own in splits)
    test = splits[0].test
    assert len(test) > 500 and not splits[1].test["default"].equals(test["default"])
    np.testing.assert_allclose(first.predict_proba(test), second.predict_proba(test), rtol=0, atol=1e-6)
    np.testing.assert_allclose(first.predict_cumulative(test), second.predict_cumulative(test), rtol=0, atol=1e-6)
    before, after = first[-1], second[-1]
    assert before.threshold_ == after.threshold_ and before.level_ == after.level_
    assert before.imputation_ == after.imputation_
    assert before.net.epochs_ == after.net.epochs_ and before.net.epochs_used_ == after.net.epochs_used_


def settings_of(target: str, **more):
    return scratch_settings(target=target, epochs=3, **more)


@pytest.fixture(scope="module")
def sample() -> pd.DataFrame:
    "Loans of the sample; some run for more than half a year beyond their term."
    loans = draw(8_000).loans
    long_ago = loans.index[(loans["term"] == " 36 months") & loans["issue_d"].str.endswith(("2012", "2013"))]
    late = np.random.default_rng(0).choice(long_ago, 60, replace=False)
    loans.loc[late, "loan_status"] = np.repeat([FULLY_PAID, CHARGED_OFF], 30)
    loans.loc[late, "last_pymnt_d"] = "Jun-2017"
    return loans


@pytest.mark.slow
def test_the_future_of_the_sample_reaches_nothing(sample):
    check_principle(sample, settings_of("time_to_event"))


@pytest.mark.slow
def test_the_future_of_real_loans_reaches_nothing(real_data):
    raw = read_loans(real_data / "accepted_2007_to_2011.csv.gz", columns="all")
    check_principle(raw, settings_of("time_to_event", train_end=date(2010, 4, 1), val_end=date(2010, 10, 1)))


@pytest.mark.slow
def test_final_statuses_are_labels_from_the_future(sample):
    "The same scramble changes the PDs of a model of final statuses."
    settings = settings_of("final_status")
    splits = [cleaned_and_split(own, settings) for own in (sample, scrambled(sample, settings.val_end))]
    first, second = (fit_pipeline(own, SMALL, settings, progress=False, cautious=False) for own in splits)
    test = splits[0].test
    apart = np.abs(first.predict_proba(test) - second.predict_proba(test))[:, 1]
    assert apart.mean() > 0.02


def test_a_leak_is_found(sample, monkeypatch):
    "With the date's own month among what is known, the scramble changes the exposures."
    day = settings_of("time_to_event").val_end
    other = scrambled(sample, day)
    check_scramble(sample, other, day)
    monkeypatch.setattr("lending_club.core.timeline.known_age", lambda issued, day: np.maximum(day - issued, 0))
    with pytest.raises(AssertionError):
        check_scramble(sample, other, day)
