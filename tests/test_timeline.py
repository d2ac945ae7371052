"""The reconstruction of what was known at a date, on simulated loans whose hazards are known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lending_club.core import hazards as hazard_rates
from lending_club.core import timeline
from lending_club.core.hazard_estimators import HazardAverage
from lending_club.core.hazards import base_hazards
from lending_club.core.hyperparameters import default_parameters, make_net
from lending_club.core.months import month_dates
from lending_club.core.timeline import AFTER_TERM, CHARGE_OFF, PAYOFF, RUNNING, TERMS, cumulative_incidence, life_table

DAY = 2019 * 12  # the date of the file, January 2019, in months since year 0
OLDEST = 70  # months from the first issue to that date: few 60-month loans have ended
LEVELS = np.array([0.002, 0.004, 0.008])  # charge-offs a month of the risk groups of 36-month loans
LONG, QUIET, IN_ARREARS = 1.3, 4, 30  # factor of 60-month loans; months without a charge-off; factor of a term's last month
NAMES = ("charged off", "paid off")


def hazards(group: int, term: int) -> np.ndarray:  # shape (term, 2)
    "True hazards of charge-off and payoff by month on book. The last month has the arrears; maturity is no payoff."
    month = np.arange(1, term + 1)
    level = LEVELS[group] * (LONG if term == 60 else 1)
    charge_off = np.where(month <= QUIET, 0, np.where(month == term, level * IN_ARREARS, level))
    return np.column_stack([charge_off, np.where(month < term - 1, 0.004 + 0.0004 * month, 0)])


def curve(own: np.ndarray) -> np.ndarray:  # shape (term, 2)
    "Shares charged off and paid off by each month, one month after the other."
    left, shares = 1.0, []
    for each in own:
        shares.append(left * each)
        left -= left * each.sum()
    return np.cumsum(shares, axis=0)


def truth(term: int) -> np.ndarray:  # shape (term, 2)
    "The curves of a term's loans, a third of which is in each risk group."
    return np.mean([curve(hazards(group, term)) for group in range(3)], axis=0)


def whole_lives(rng, group: np.ndarray, term: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (n,), months on book; 1 or 0
    "When loans end, and whether by charge-off. Arrears at maturity are charged off in the term's last month or in the next six."
    n = len(group)
    end, bad, running = term.copy(), np.zeros(n), np.ones(n, dtype=bool)
    for month in range(1, 61):
        for kind in range(2):
            own = np.array([[hazards(g, t)[month - 1, kind] if month <= t else 0 for t in TERMS] for g in range(3)])
            other = np.array([[hazards(g, t)[month - 1, 0] if month <= t else 0 for t in TERMS] for g in range(3)])
            share = own / (1 - other) if kind else own  # payoffs come from those who were not charged off
            hit = running & (rng.random(n) < share[group, (term == 60).astype(int)])
            running &= ~hit
            late = np.where(month == term[hit], rng.integers(0, AFTER_TERM + 1, (2, hit.sum())).max(axis=0), 0)
            end[hit], bad[hit] = month + late, 1 - kind
    early = running & (rng.random(n) < 0.2)  # the last two payments at once: paid at maturity all the same
    end[early] -= 1
    return end, bad


def simulated(n: int, seed: int = 0) -> pd.DataFrame:
    "Loans in the columns of cleaned ones, as a file of `DAY` shows them, and their risk group."
    rng = np.random.default_rng(seed)
    group, term, age = rng.integers(0, 3, n), rng.choice(TERMS, n), rng.integers(1, OLDEST + 1, n)
    end, bad = whole_lives(rng, group, term)
    ended = end < age  # a month's endings are in the file of the next month
    months = np.where(ended, DAY - age + end, np.nan)
    columns = {"issue_month": month_dates(DAY - age), "end_month": month_dates(months), "default": np.where(ended, bad, np.nan)}
    return pd.DataFrame(columns | {"term": [f" {t} months" for t in term], "group": group})


def day(months_ago: int = 0) -> pd.Timestamp:
    return pd.Timestamp(month_dates(np.array([DAY - months_ago]))[0])


# --- the life table


@pytest.fixture(scope="module")
def many() -> pd.DataFrame:
    return simulated(400_000)


def found(loans: pd.DataFrame, term: int, since=None) -> np.ndarray:  # shape (term, 2)
    "The life table's curves of one term."
    exposures = timeline.exposure(loans, day(), since)
    table = life_table(exposures[exposures["term"] == term], term)
    return cumulative_incidence(table["charge_off"].to_numpy(), table["payoff"].to_numpy())


TOLERANCE = 0.02  # of a share, relative
PERIODS = {"since issue": None, "the last twelve months": day(12)}


@pytest.mark.parametrize("since", PERIODS.values(), ids=PERIODS)
def test_the_life_table_comes_back_to_the_truth(many, since):
    for term in TERMS:
        curves, true = found(many, term, since), truth(term)
        np.testing.assert_allclose(curves, true, rtol=0, atol=0.01)  # month by month, share of all loans
        np.testing.assert_allclose(curves[-1], true[-1], rtol=TOLERANCE)
        assert not curves[:QUIET, 0].any() and np.ptp(curves[-3:, 1]) == 0
        assert 1 - curves[-1].sum() == pytest.approx(1 - true[-1].sum(), abs=0.01), "paid at maturity is what remains"


def test_ended_loans_alone_miss_the_truth(many):
    assert many["default"].isna().mean() > 0.4, "many loans are running"
    for term in TERMS:
        assert many["default"][many["term"] == f" {term} months"].mean() > 1.04 * truth(term)[-1, 0]


# --- the three slips


def endings_alone(bad, end, term, age):
    "A term's last month counts the charge-offs that have come, without the survivors of the same vintage."
    survived, event = STATE_AT(bad, end, term, age)
    early = (bad == 1) & (end >= term) & (end <= age)
    return np.where(early, term - 1, survived).astype(int), np.where(early, CHARGE_OFF, event)


STATE_AT = timeline.state_at
ONE_MONTH_MORE = "known_age", lambda issued, day: np.maximum(day - issued, 0), "the last twelve months"
SLIPS = {  # function, what is put in its place, exposure since when, term, month, ending, lowest and highest estimate over truth
    "endings of a month that is not over, without its survivors: the PD is too high": (
        "state_at",
        endings_alone,
        "since issue",
        60,
        60,
        "charged off",
        1.05,
        2.0,
    ),
    "survivors of a month that is not over, without its arrears: the PD is too low": (
        "is_over",
        lambda month, at_the_end, term, age: month <= age,
        "since issue",
        60,
        60,
        "charged off",
        0.5,
        0.95,
    ),
    "a loan paid at maturity is paid off: too many payoffs, and none is left": (
        "is_matured",
        lambda bad, end, term: np.zeros(len(end), dtype=bool),
        "since issue",
        36,
        36,
        "paid off",
        2.0,
        5.0,
    ),
    "a loan that lasts until the date has survived the date's month: the PD is too low": (
        *ONE_MONTH_MORE,
        36,
        30,
        "charged off",
        0.5,
        0.95,
    ),
    "the same for 60 months": (*ONE_MONTH_MORE, 60, 54, "charged off", 0.5, 0.95),
    "the same: too few payoffs": (*ONE_MONTH_MORE, 60, 30, "paid off", 0.5, 0.95),
}


@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS)
def test_a_slip_misses_the_truth(many, monkeypatch, slip):
    name, wrong, period, term, month, ending, low, high = slip
    place, since = (month - 1, NAMES.index(ending)), PERIODS[period]
    true = truth(term)[place]
    assert found(many, term, since)[place] == pytest.approx(true, rel=TOLERANCE)
    monkeypatch.setattr(timeline, name, wrong)
    curves = found(many, term, since)
    assert low < curves[place] / true < high
    assert name != "is_matured" or 1 - curves[-1].sum() < 0.02 < 0.2 < 1 - truth(term)[-1].sum()


def base_rate(loans: pd.DataFrame, kind: int) -> float:
    "Base rate of 60-month loans in month 36, of an event."
    return float(base_hazards(timeline.exposure(loans, day()).to_numpy())[0][1, kind, 35])


def test_what_happens_at_the_end_of_a_term_does_not_reach_the_other_term(many, monkeypatch):
    "60-month loans of which none has reached month 36 learn from 36-month loans what comes, but not what comes at maturity."
    loans = many[(many["term"] == " 36 months") | (many["issue_month"] >= day(30))]
    true = np.mean([hazards(group, 60)[35] for group in range(3)], axis=0)
    for kind in range(2):
        assert base_rate(loans, kind) == pytest.approx(true[kind], rel=0.3)
    monkeypatch.setattr(hazard_rates, "FROM_TERM", (0, 2))  # charge-offs of the last month count for both terms
    assert base_rate(loans, 0) > 3 * true[0], "the arrears of 36-month loans reach the 60-month loans"
    monkeypatch.setattr(hazard_rates, "FROM_TERM", (1, 0))
    monkeypatch.setattr(timeline, "is_matured", lambda bad, end, term: np.zeros(len(end), dtype=bool))
    assert base_rate(loans, 1) > 3 * true[1], "the maturity of 36-month loans pays the 60-month loans off"


# --- the network


def encoded(loans: pd.DataFrame) -> np.ndarray:  # float32, shape (n, 2): risk group and term
    return np.column_stack([loans["group"] - 1, np.where(loans["term"] == " 60 months", 1, -1)]).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    "A small network fitted on few loans, with early stopping on what happened in the last twelve months."
    loans = simulated(20_000, seed=1)
    layout = {"n_numeric": 2, "n_flags": 0, "cardinalities": [], "term": {"column": 1, "encoded": (-1.0, 1.0)}}
    small = default_parameters("tabm", "time_to_event") | {"k": 2, "width": 16, "blocks": 1, "dropout": 0.0, "lr": 5e-3}
    net = make_net(small, layout, epochs=15).set_params(callbacks__progress=None)
    parts = [timeline.exposure(loans, day(12)), timeline.exposure(loans, day(), day(12)), timeline.exposure(loans, day())]
    given = [own for part in parts for own in (encoded(loans.loc[part.index]), part.to_numpy())]
    return HazardAverage(net).fit(*given)


@pytest.mark.slow
@pytest.mark.parametrize("term", TERMS)
def test_the_network_comes_back_to_the_truth(network, term):
    each = pd.DataFrame({"group": [0, 1, 2], "term": f" {term} months"})
    curves = network.predict_cumulative(encoded(each))
    mean, true = curves.mean(axis=0)[:term], truth(term)
    np.testing.assert_allclose(mean, true, rtol=0, atol=0.025)  # month by month, share of all loans
    np.testing.assert_allclose(mean[-1], true[-1], rtol=0.08)
    assert 1 - mean[-1].sum() == pytest.approx(1 - true[-1].sum(), abs=0.02), "paid at maturity is what remains"
    by_group = [curve(hazards(group, term))[-1] for group in range(3)]
    np.testing.assert_allclose(curves[:, term - 1], by_group, rtol=0, atol=0.03)
    assert (curves[:, term - 1] == curves[:, -1]).all(), "after its term a curve stays what it is"


# --- what holds for any loans and dates

FIRST = DAY - 80  # month of the first issue
A_LOAN = st.tuples(st.integers(0, 79), st.sampled_from(TERMS), st.sampled_from([0.0, 1.0, np.nan]), st.integers(1, 80))
BOOKS = st.lists(A_LOAN, min_size=1, max_size=30)
TWO_DATES = st.tuples(st.integers(1, 90), st.integers(1, 90)).map(sorted)


def book(rows) -> pd.DataFrame:
    "Loans of (months after `FIRST`, term, default, months on book at the end)."
    issued, term, bad, end = (np.array(column) for column in zip(*rows, strict=True))
    end = np.where(np.isnan(bad), np.nan, end)
    months = {"issue_month": month_dates(FIRST + issued), "end_month": month_dates(FIRST + issued + end)}
    return pd.DataFrame(months | {"default": bad, "term": [f" {t} months" for t in term]})


def date_of(months: int) -> pd.Timestamp:
    return pd.Timestamp(month_dates(np.array([FIRST + months]))[0])


@given(BOOKS, TWO_DATES)
def test_exposures_up_to_a_date_and_from_it_on_are_the_whole(rows, dates):
    loans, (middle, last) = book(rows), map(date_of, dates)
    before, after, whole = (timeline.exposure(loans, *own) for own in ((middle,), (last, middle), (last,)))
    counts = ["at_risk", "charge_offs", "payoffs"]
    for term in TERMS:
        tables = [life_table(own[own["term"] == term])[counts] for own in (before, after, whole)]
        pd.testing.assert_frame_equal(tables[0] + tables[1], tables[2])  # by month on book
    both = before.index.intersection(after.index)
    assert (before.loc[both, "event"] == RUNNING).all(), "a loan that has ended does not come back"
    np.testing.assert_array_equal(before.loc[both, "exit"], after.loc[both, "entry"])  # validation goes on there


@given(BOOKS, TWO_DATES)
def test_exposures_are_possible_and_know_nothing_later(rows, dates):
    loans, (since, until) = book(rows), map(date_of, dates)
    for own in (timeline.exposure(loans, until), timeline.exposure(loans, until, since)):
        assert ((0 <= own["entry"]) & (own["entry"] <= own["exit"]) & (own["exit"] <= own["term"])).all()
        assert ((own["entry"] < own["exit"]) | (own["event"] != RUNNING)).all(), "each loan was at risk"
        known = loans.loc[own.index]
        assert (known["issue_month"] < until).all()
        ended = known[own["event"] != RUNNING]
        assert (ended["end_month"] < until).all() and (own.loc[ended.index, "exit"] < own.loc[ended.index, "term"]).all()
        assert (ended["default"] == (own.loc[ended.index, "event"] == CHARGE_OFF)).all()
        paid_early = own.index[own["event"] == PAYOFF]
        months = (known["end_month"] - known["issue_month"]).dt.days[paid_early] / 30.4
        assert (months < own.loc[paid_early, "term"] - 1).all(), "paid at maturity is no payoff"


@given(BOOKS, BOOKS, TWO_DATES)
def test_nothing_that_happens_from_a_date_on_changes_what_was_known(rows, others, dates):
    "Loans that run at the date get other endings on or after it, or none."
    until = dates[0]
    changed = []
    for (issued, term, bad, end), (_, _, bad_later, later) in zip(rows, others * len(rows), strict=False):
        ended = not np.isnan(bad) and issued + end < until
        least = max(until - issued, 1)
        changed.append((issued, term, bad, end) if ended else (issued, term, bad_later, max(least, later)))
    before, after = (timeline.exposure(book(own), date_of(until)) for own in (rows, changed))
    pd.testing.assert_frame_equal(before, after)
