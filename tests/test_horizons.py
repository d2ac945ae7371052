"""Evaluation of loans that still run, against definitions written out loan by loan, and at the edges."""

import datetime

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2
from sklearn.metrics import f1_score, roc_auc_score

from lending_club.core.horizons import (
    FEW_BAD,
    HORIZONS,
    TERM,
    auc_by_month,
    evaluate_at,
    evaluate_horizons,
    headline_horizon,
    horizon_name,
    is_observed,
    months_reached,
    months_to_charge_off,
    observed_expected,
    observed_months,
    outcome_at,
    pd_at,
    quarters,
    simulated_loans,
    vintage_curves,
)
from lending_club.core.metrics import EvaluationError

SNAPSHOT = pd.Timestamp("2019-03-01")
START = np.datetime64("2019-03")


def make(*loans: tuple[int, int, float, int | None]) -> pd.DataFrame:
    "Loans of (term, months from issue to the snapshot, default, months on book at the end)."
    rows = []
    for term, age, default, end in loans:
        issue = START - age
        ended = np.datetime64("NaT") if end is None else issue + end
        rows.append((f" {term} months", issue.astype("datetime64[s]"), default, ended.astype("datetime64[s]")))
    frame = pd.DataFrame(rows, columns=["term", "issue_month", "default", "end_month"])
    return frame.astype({"issue_month": "datetime64[s]", "end_month": "datetime64[s]", "default": float})


def flat(n: int, value: float = 0.1) -> np.ndarray:
    return np.tile(np.linspace(value / 60, value, 60), (n, 1))


# --- loan by loan ---


@pytest.fixture(scope="module", params=[(24, 26), (60, 62), (40, 110)], ids=["young", "mixed", "old"])
def book(request):
    issued, snapshot = request.param
    return simulated_loans(6_000, issued, snapshot, seed=issued)


def by_hand(loan, snapshot, horizon) -> tuple[bool, int]:
    "Whether a loan has been observed up to a horizon, and whether it was charged off by then."
    term, issue = int(loan.term.split()[0]), loan.issue_month
    age = 12 * (snapshot.year - issue.year) + snapshot.month - issue.month
    whole = horizon == TERM or horizon >= term
    if loan.default != 1:
        return age >= (term + 6 if whole else horizon), 0
    end = 12 * (loan.end_month.year - issue.year) + loan.end_month.month - issue.month
    return age >= (term + 6 if whole else horizon), int(whole or end <= horizon)


@pytest.mark.parametrize("horizon", [1, 12, 24, 35, 36, 37, 59, 60, TERM])
def test_observation_and_outcome_follow_their_definitions(book, horizon):
    loans, snapshot, _ = book
    expected = np.array([by_hand(loan, snapshot, horizon) for loan in loans.itertuples()])
    np.testing.assert_array_equal(is_observed(loans, snapshot, horizon), expected[:, 0].astype(bool))
    np.testing.assert_array_equal(outcome_at(loans, horizon), expected[:, 1])


def test_no_outcome_at_an_observed_horizon_changes_later(book):
    "A loan that the file shows as observed has the outcome that a much later file shows."
    loans, snapshot, _ = book
    issued = {26: 24, 62: 60, 110: 40}[observed_months(loans, snapshot).max()]
    later, later_snapshot, _ = simulated_loans(6_000, issued, 200, seed=issued)
    assert is_observed(later, later_snapshot, TERM).all()
    for horizon in HORIZONS:
        seen = is_observed(loans, snapshot, horizon)
        np.testing.assert_array_equal(outcome_at(loans, horizon)[seen], outcome_at(later, horizon)[seen])


@pytest.mark.parametrize("issued, snapshot", [(24, 26), (60, 62), (40, 110)])
def test_the_intervals_of_the_true_curves_contain_1(issued, snapshot):
    covered = []
    for seed in range(30):
        loans, month, curve = simulated_loans(2_000, issued, snapshot, seed=seed)
        table = evaluate_horizons(loans, month, curve)
        rows = [table[~table["biased"]], observed_expected(loans, month, curve, np.zeros(len(loans)))]
        for each in rows:
            covered.append((each["observed_over_expected_lower"] <= 1) & (each["observed_over_expected_upper"] >= 1))
    assert pd.concat(covered).mean() >= 0.93  # 95 % or more, less chance


def test_ended_loans_alone_are_biased_while_loans_run():
    loans, snapshot, curve = simulated_loans(6_000)
    table = evaluate_horizons(loans, snapshot, curve)
    assert table.index[-1] == "ended only" and table["biased"].tolist() == [False] * (len(table) - 1) + [True]
    assert table.loc["ended only", "observed_over_expected_lower"] > 1.3
    ended = loans["default"].notna()
    assert table.loc["ended only", "loans"] == ended.sum() and table.loc["ended only", "bad"] == loans["default"].sum()


def test_a_row_holds_outcomes_at_the_horizon_and_decisions_over_the_term(book):
    loans, snapshot, curve = book
    seen, y = is_observed(loans, snapshot, 12), outcome_at(loans, 12)
    row = evaluate_at(loans, snapshot, curve, 12, 0.2)
    bad, flagged = int(y[seen].sum()), curve[seen, -1] >= 0.2
    expected = {
        "loans": seen.sum(),
        "share": seen.mean(),
        "bad": bad,
        "bad_rate": bad / seen.sum(),
        "mean_pd": curve[seen, 11].mean(),
        "observed_over_expected": bad / curve[seen, 11].sum(),
        "observed_over_expected_lower": chi2.ppf(0.025, 2 * bad) / 2 / curve[seen, 11].sum(),
        "observed_over_expected_upper": chi2.ppf(0.975, 2 * bad + 2) / 2 / curve[seen, 11].sum(),
        "roc_auc": roc_auc_score(y[seen], curve[seen, 11]),
        "f1": f1_score(y[seen], flagged),
        "approval_rate": 1 - flagged.mean(),
        "accepted_bad_rate": y[seen][~flagged].mean(),
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert evaluate_horizons(loans, snapshot, curve, 0.2).loc["12 months"].to_dict() == row
    assert "f1" not in evaluate_at(loans, snapshot, curve, 12)


def test_each_month_has_the_auc_of_the_loans_observed_that_long(book):
    loans, snapshot, curve = book
    table = auc_by_month(loans, snapshot, curve)
    assert table.index.tolist() == list(range(1, 61))
    for month, row in table.iterrows():
        seen, y = is_observed(loans, snapshot, month), outcome_at(loans, month)
        assert (row["loans"], row["bad"]) == (seen.sum(), y[seen].sum())
        if np.isnan(row["roc_auc"]):
            assert row["bad"] < FEW_BAD or month > loans.loc[seen, "term"].str.strip().str[:2].astype(int).max()
        else:
            assert row["roc_auc"] == pytest.approx(roc_auc_score(y[seen], curve[seen, month - 1]), abs=1e-12)
            assert row["roc_auc_lower"] < row["roc_auc"] < row["roc_auc_upper"]


def test_a_vintage_curve_is_of_one_cohort_that_stands_for_its_group(book):
    loans, snapshot, curve = book
    by, terms = quarters(loans), loans["term"].to_numpy()
    table = vintage_curves(loans, snapshot, curve, by)
    assert table.columns.tolist() == ["group", "month", "loans", "observed", "lower", "upper", "predicted"]
    assert table["group"].unique().tolist() == sorted(set(by))
    for group, own in table.groupby("group"):
        last = own["month"].max()
        cohort = (by == group) & is_observed(loans, snapshot, last)
        assert own["month"].tolist() == list(range(1, last + 1)) and (own["loans"] == cohort.sum()).all()
        assert own["observed"].is_monotonic_increasing and (own["lower"] <= own["observed"]).all()
        for month in (1, last):
            row = own[own["month"] == month].iloc[0]
            assert row["observed"] == pytest.approx(outcome_at(loans, int(month))[cohort].mean())
            assert row["predicted"] == pytest.approx(curve[cohort, month - 1].mean())
        for term in set(terms):
            of_term = (by == group) & (terms == term)
            assert cohort[of_term].mean() >= 0.5
        if last < 60:
            further = is_observed(loans, snapshot, int(last) + 1)
            assert min(further[(by == group) & (terms == term)].mean() for term in set(terms)) < 0.5


def test_charge_offs_so_far_are_summed_loan_by_loan(book):
    loans, snapshot, curve = book
    table = observed_expected(loans, snapshot, curve, loans["grade"])
    reached, charged = months_reached(loans, snapshot), months_to_charge_off(loans)
    for grade, row in table.iterrows():
        observed = expected = 0
        for i in np.flatnonzero(loans["grade"] == grade):
            month = int(min(reached[i], int(loans["term"].iloc[i].split()[0])))
            expected += curve[i, month - 1] if month else 0
            observed += charged[i] <= month
        assert row["observed"] == observed and row["expected"] == pytest.approx(expected)
        assert row["observed_over_expected"] == pytest.approx(observed / expected)


# --- the edges ---


def test_a_charge_off_after_maturity_counts_in_the_month_of_the_term():
    loans = make((36, 60, 1, 40), (36, 60, 1, 42), (36, 60, 0, 36), (60, 70, 1, 40))
    assert months_to_charge_off(loans).tolist() == [36, 36, np.inf, 40]
    assert outcome_at(loans, 35).tolist() == [0, 0, 0, 0]
    assert outcome_at(loans, 36).tolist() == [1, 1, 0, 0]
    assert outcome_at(loans, 40).tolist() == [1, 1, 0, 1]
    assert outcome_at(loans, TERM).tolist() == [1, 1, 0, 1]


def test_the_last_month_is_observed_six_months_after_maturity():
    loans = make(*((36, age, np.nan, None) for age in (35, 36, 41)), (36, 42, 0, 36), (60, 42, np.nan, None))
    assert months_reached(loans, SNAPSHOT).tolist() == [35, 35, 35, np.inf, 42]
    assert is_observed(loans, SNAPSHOT, 36).tolist() == [False, False, False, True, True]
    assert is_observed(loans, SNAPSHOT, TERM).tolist() == [False, False, False, True, False]


def test_a_charge_off_between_maturity_and_its_six_months_waits():
    "Counting it without the charge-offs still to come would compare a part with the curve's whole."
    loans, curve = make((36, 39, 1, 38), (36, 42, 1, 38)), flat(2)
    table = observed_expected(loans, SNAPSHOT, curve, ["waits", "counts"])
    assert table["observed"].to_dict() == {"counts": 1, "waits": 0}
    assert table["expected"].to_dict() == pytest.approx({"counts": curve[0, 35], "waits": curve[0, 34]})


def test_no_loan_observed_for_a_year():
    loans = make(*((36, 7, np.nan, None) for _ in range(60)), *((36, 8, 1, 5) for _ in range(20)), (36, 6, 0, 3))
    curve = flat(len(loans))
    assert headline_horizon(loans, SNAPSHOT) == 7
    assert evaluate_horizons(loans, SNAPSHOT, curve).index.tolist() == ["ended only"]
    assert evaluate_horizons(loans, SNAPSHOT, curve, horizons=(7,)).index.tolist() == ["7 months", "ended only"]
    with pytest.raises(EvaluationError, match="12 months needs good and bad loans: 0 of 81 .* later snapshot"):
        evaluate_at(loans, SNAPSHOT, curve, 12, 0.1)
    assert auc_by_month(loans, SNAPSHOT, curve)["loans"].loc[9:].sum() == 0


def test_no_horizon_with_good_and_bad_loans_is_an_error():
    with pytest.raises(EvaluationError, match="no horizon has good and bad loans"):
        evaluate_horizons(make((36, 20, np.nan, None)), SNAPSHOT, flat(1))


@pytest.mark.parametrize(
    "ages, expected",
    [([3], 3), ([1, 3], 3), ([2, 2, 3], None), ([11, 12], 12), ([11, 11, 12], 11), ([23], 12), ([24, 24, 1], 24)]
    + [([36, 0], 24), ([41], 24), ([42], TERM), ([42, 42, 3], TERM), ([0], None)],
)
def test_half_of_the_loans_must_have_reached_the_headline(ages, expected):
    loans = make(*((36, age, np.nan, None) for age in ages))
    if expected is None:
        with pytest.raises(EvaluationError, match="fewer than half .* 3 months: use a file of a later snapshot, or .* val_end"):
            headline_horizon(loans, SNAPSHOT)
    else:
        assert headline_horizon(loans, SNAPSHOT) == expected


def test_the_headline_of_60_month_loans_can_be_36_months():
    assert headline_horizon(make((60, 36, np.nan, None)), SNAPSHOT) == 36
    assert headline_horizon(make((60, 65, np.nan, None)), SNAPSHOT) == 36
    assert headline_horizon(make((60, 66, 0, 60)), SNAPSHOT) == TERM


def test_no_loans_have_no_headline():
    with pytest.raises(EvaluationError, match="0 test loans"):
        headline_horizon(make((36, 5, 0, 3))[:0], SNAPSHOT)


def test_a_group_without_bad_loans_has_a_ratio_of_0_with_an_upper_bound():
    loans = make(*((36, 20, np.nan, None) for _ in range(50)), *((36, 20, 1, 10) for _ in range(5)))
    groups, curve = ["good"] * 50 + ["bad"] * 5, flat(55)
    row = observed_expected(loans, SNAPSHOT, curve, groups).loc["good"]
    assert row["observed"] == row["observed_over_expected"] == row["observed_over_expected_lower"] == 0
    assert row["observed_over_expected_upper"] == pytest.approx(chi2.ppf(0.975, 2) / 2 / row["expected"], rel=1e-6)
    own = vintage_curves(loans, SNAPSHOT, curve, groups).query("group == 'good'")
    assert (own["observed"] == 0).all() and (own["lower"] == 0).all() and (own["upper"] > 0).all()


@pytest.mark.parametrize("term", [36, 60])
def test_loans_of_one_term_alone(term):
    loans, snapshot, curve = simulated_loans(8_000, issued=20, snapshot=90)
    own = (loans["term"] == f" {term} months").to_numpy()
    table = evaluate_horizons(loans[own], snapshot, curve[own], 0.3)
    assert table.index.tolist() == ["12 months", "24 months", "36 months", "full term", "ended only"]
    assert (table.loc["36 months", "bad"] == table.loc["full term", "bad"]) == (term == 36)
    assert auc_by_month(loans[own], snapshot, curve[own])["roc_auc"].last_valid_index() == term
    assert vintage_curves(loans[own], snapshot, curve[own], loans["term"][own])["month"].max() == term


def test_a_loan_of_the_snapshots_own_month_has_no_month_yet():
    loans, curve = make((36, 0, np.nan, None)), flat(1)
    table = observed_expected(loans, SNAPSHOT, curve, ["new"])
    assert (table.loc["new", "observed"], table.loc["new", "expected"]) == (0, 0)
    assert np.isnan(table.loc["new", "observed_over_expected"])
    assert vintage_curves(loans, SNAPSHOT, curve, ["new"]).empty


def test_a_snapshot_before_an_issue_is_refused():
    loans = make((36, 5, np.nan, None), (36, -1, np.nan, None))
    with pytest.raises(EvaluationError, match="1 of 2 loans were issued after the snapshot 2019-03"):
        observed_months(loans, SNAPSHOT)
    loans.loc[1, "issue_month"] = pd.NaT
    with pytest.raises(EvaluationError, match="issue_month is missing"):
        headline_horizon(loans, SNAPSHOT)


@pytest.mark.parametrize("snapshot", [SNAPSHOT, datetime.date(2019, 3, 1), "2019-03", pd.Timestamp("2019-03-31")])
def test_a_snapshot_is_any_date_of_its_month(snapshot):
    assert observed_months(make((36, 5, np.nan, None)), snapshot).tolist() == [5]


@pytest.mark.parametrize("horizon", [0, 61, -1, 12.0, "full term", None, "12"])
def test_other_horizons_are_refused(horizon):
    for call in (horizon_name, lambda h: outcome_at(make((36, 5, 0, 3)), h), lambda h: pd_at(flat(1), h)):
        with pytest.raises(EvaluationError, match="a horizon is a number of months from 1 to 60, or 'term'"):
            call(horizon)


def test_horizons_have_names():
    assert [horizon_name(horizon) for horizon in HORIZONS] == ["12 months", "24 months", "36 months", "full term"]


@pytest.mark.parametrize("name", ["term", "issue_month", "default", "end_month"])
def test_a_missing_column_is_named(name):
    with pytest.raises(EvaluationError, match=f"lack the column {name}"):
        observed_expected(make((36, 5, 0, 3)).drop(columns=name), SNAPSHOT, flat(1), ["a"])


@pytest.mark.parametrize("term", [" 72 months", None, "long"])
def test_a_term_beyond_the_curve_is_refused(term):
    with pytest.raises(EvaluationError, match="terms must be between 1 and 60 months; found"):
        months_reached(make((36, 5, 0, 3)).assign(term=[term]), SNAPSHOT)


def test_a_charge_off_without_its_month_is_refused():
    with pytest.raises(EvaluationError, match="1 loans were charged off in no month"):
        months_to_charge_off(make((36, 5, 1, None), (36, 5, np.nan, None)))


@pytest.mark.parametrize(
    "curve, message",
    [(flat(1), r"2 loans came with \(1, 60\)"), (flat(2)[:, :36], r"\(2, 36\)"), (flat(2) * np.nan, "between 0 and 1")]
    + [(flat(2) * 100, "between 0 and 1"), (flat(2)[:, -1], r"\(2,\)")],
)
def test_curves_that_do_not_fit_are_refused(curve, message):
    loans = make((36, 20, 1, 5), (36, 20, 0, 3))
    calls = (
        lambda: evaluate_at(loans, SNAPSHOT, curve, 12),
        lambda: evaluate_horizons(loans, SNAPSHOT, curve),
        lambda: auc_by_month(loans, SNAPSHOT, curve),
        lambda: vintage_curves(loans, SNAPSHOT, curve, ["a", "a"]),
        lambda: observed_expected(loans, SNAPSHOT, curve, ["a", "a"]),
    )
    for call in calls:
        with pytest.raises(EvaluationError, match=message):
            call()


def test_the_index_of_the_loans_does_not_matter():
    loans, snapshot, curve = simulated_loans(2_000)
    other = loans.set_index(pd.Index(np.arange(2_000)[::-1]))
    for call in (evaluate_horizons, auc_by_month):
        pd.testing.assert_frame_equal(call(loans, snapshot, curve), call(other, snapshot, curve))
    for call in (vintage_curves, observed_expected):
        expected = call(loans, snapshot, curve, loans["grade"].to_numpy())
        pd.testing.assert_frame_equal(call(other, snapshot, curve, other["grade"]), expected)
