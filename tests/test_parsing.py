"""Parsers, readers and features on anything that hypothesis thinks of, and against the definitions written out."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lending_club.core.applications import (
    NUMBER_FIELDS,
    TEXT_FIELDS,
    ApplicationTable,
    RawColumns,
    as_applications,
    read_applications,
    table_of,
)
from lending_club.core.features import (
    DERIVED,
    FEATURE_BY_NAME,
    NUMERIC_FEATURES,
    annuity,
    category_features,
    clean_category,
    columns_read,
    derive,
    income,
    log_money,
    numeric_features,
    ratio,
)
from lending_club.core.months import month_text, months_between, parse_month
from lending_club.core.parsing import parse_each, parse_emp_length, parse_number, parse_sub_grade, parse_term, where
from lending_club.core.schema import BY_NAME, COLUMNS, EMP_LENGTHS, EXAMPLE_APPLICATION, SUB_GRADES
from lending_club.core.single import SingleApplication

SPACES = st.sampled_from(["", " ", "  ", "\u00a0", "\t"])
PARSERS = {
    "term": parse_term,
    "emp_length": parse_emp_length,
    "month": parse_month,
    "sub_grade": parse_sub_grade,
    "number": parse_number,
}


@pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS)
@given(values=st.lists(st.one_of(st.none(), st.text(max_size=12), st.floats(allow_infinity=False), st.integers(-(10**6), 10**6))))
def test_any_column_parses_to_numbers_or_gaps(parser, values):
    parsed = parser(np.array(values, dtype=object))
    assert parsed.dtype == np.float64 and parsed.shape == (len(values),)
    for value, number in zip(values, parsed.tolist(), strict=True):
        single = parser(value)
        assert single == number or (math.isnan(single) and math.isnan(number))
        if isinstance(value, (int, float)):
            assert number == value or value != value  # numbers pass as they are


@given(months=st.integers(1, 480), before=SPACES, after=SPACES)
def test_terms_round_trip(months, before, after):
    assert parse_term([f"{before}{months} months{after}"])[0] == months


@given(year=st.integers(0, 9999), month=st.integers(0, 11), before=SPACES)
def test_months_round_trip(year, month, before):
    number = float(year * 12 + month)
    text = month_text(np.array([number]))[0]
    if year >= 1000:
        assert parse_month([f"{before}{text}"])[0] == number


def test_months_between_is_the_difference_and_never_negative():
    assert months_between(["Feb-1990", "Dec-2015", "Dec-2015", None], ["Jan-2015", "Dec-2015", "Jan-2015", "Jan-2015"]).tolist()[
        :2
    ] == [
        299.0,
        0.0,
    ]
    assert np.isnan(months_between(["Dec-2015", None], ["Jan-2015", "Jan-2015"])).all()


def test_employment_is_a_scale_from_zero_to_ten():
    assert parse_emp_length(np.array(EMP_LENGTHS[:-1], dtype=object)).tolist() == list(range(11))
    assert np.isnan(parse_emp_length(["n/a", "11 years", "10 years"])).all()


def test_sub_grades_are_an_order():
    assert parse_sub_grade(np.array(SUB_GRADES, dtype=object)).tolist() == list(range(35))
    grades = np.array(list("ABCDEFG"), dtype=object)
    missing = np.array([None] * 7, dtype=object)
    assert parse_sub_grade(missing, grades).tolist() == [2, 7, 12, 17, 22, 27, 32]
    assert parse_sub_grade(np.array(["A1"], dtype=object), np.array(["G"], dtype=object)).tolist() == [0]


@given(st.floats(-1e6, 1e6))
def test_percentages(value):
    assert parse_number(np.array([f" {value}%"], dtype=object))[0] == value == parse_number(f"{value}")


def test_each_text_is_parsed_once():
    seen = []

    def parse(text):
        seen.append(text)
        return float(text)

    assert parse_each(["1", "2", "1", " 1"], parse).tolist() == [1, 2, 1, 1] and sorted(seen) == ["1", "1", "2"]


def test_where_takes_arrays_and_single_values():
    assert where(np.array([True, False]), 1.0, 2.0).tolist() == [1, 2]
    assert (where(True, 1.0, 2.0), where(False, 1.0, 2.0)) == (1.0, 2.0)


# --- readers ---


def test_absent_columns_read_as_missing():
    raw = RawColumns({"dti": [1.0, 2.0]}, 2)
    assert np.isnan(raw.number("open_acc")).all() and raw.text("term").tolist() == [None, None]
    assert raw.numbers(("dti", "open_acc")).shape == (2, 2) and raw.numbers(()).shape == (0, 2)
    assert raw.number("dti") is raw.number("dti")  # made once


APPLICATION = st.fixed_dictionaries(
    {},
    optional={
        "loan_amnt": st.one_of(st.none(), st.floats(500, 40_000), st.integers(500, 40_000)),
        "dti": st.one_of(st.none(), st.floats(-1, 999)),
        "int_rate": st.one_of(st.none(), st.just("13.56%"), st.floats(5, 30)),
        "term": st.one_of(st.none(), st.sampled_from([" 36 months", "60 months", ""])),
        "purpose": st.one_of(st.none(), st.sampled_from(["car", " car ", "never seen"])),
        "issue_d": st.one_of(st.none(), st.just("Dec-2015")),
        "id": st.one_of(st.none(), st.integers(0, 10**9), st.text(max_size=5)),
    },
)


@given(st.lists(APPLICATION, min_size=1, max_size=5))
def test_dictionaries_and_tables_read_alike(applications):
    table = table_of(applications)
    assert len(table) == len(applications) and list(table.ids()) == [a.get("id") for a in applications]
    for name in ("loan_amnt", "dti", "int_rate"):
        expected = [parse_number(a.get(name)) for a in applications]
        np.testing.assert_array_equal(table.number(name), expected)
        np.testing.assert_array_equal(table.numbers((name, "open_acc"))[0], expected)
    fields = ("dti", "term", "purpose", "loan_amnt")
    lacking = [[name for name in fields if not a.get(name) and a.get(name) != 0] for a in applications]
    assert table.lacking(fields) == lacking
    stood_in = table.standing_in({"issue_d": "May-2018"})
    assert stood_in.text("issue_d").tolist() == [a.get("issue_d") or "May-2018" for a in applications]
    assert stood_in.lacking(("issue_d",)) == [[]] * len(applications)
    joined = ApplicationTable.concatenate([table_of([a]) for a in applications])
    np.testing.assert_array_equal(joined.block, table.block)
    assert joined.text("purpose").tolist() == table.text("purpose").tolist()


@given(st.lists(APPLICATION, min_size=1, max_size=3))
def test_one_application_has_the_features_of_many(applications):
    table = read_applications(applications, {"issue_d": "May-2018"})
    names, fields = tuple(FEATURE_BY_NAME), NUMBER_FIELDS + TEXT_FIELDS
    together = numeric_features(table, names)
    for place in range(len(applications)):
        single = SingleApplication(table, place)
        for row, feature in enumerate(NUMERIC_FEATURES):
            np.testing.assert_allclose(float(feature.make(single)), together[row, place], rtol=1e-12, equal_nan=True)
        assert single.lacking(fields) == [table.lacking(fields)[place]] and single.ids() == [table.ids()[place]]


def test_a_frame_and_its_applications_are_the_same_loans():
    frame = pd.DataFrame({"dti": [1.0, np.nan], "term": [" 36 months", None]})
    assert as_applications(frame, ["dti", "term", "purpose"]) == [{"dti": 1.0, "term": " 36 months"}, {}]


# --- features ---


def test_annuity_is_what_pays_the_loan_back():
    amount, rate, months = 10_000.0, 11.44, 36
    payment = annuity(np.array([amount]), np.array([rate]), np.array([months]))[0]
    owed = amount
    for _ in range(months):
        owed = owed * (1 + rate / 1200) - payment
    assert abs(owed) < 1e-6 and payment == pytest.approx(329.47, abs=0.01)
    assert annuity(np.array([1200.0]), np.array([0.0]), np.array([12.0]))[0] == 100
    assert np.isnan(annuity(np.array([1200.0]), np.array([np.nan]), np.array([12.0]))[0])  # an unknown rate is not a rate of 0
    assert np.isnan(annuity(np.array([1200.0]), np.array([5.0]), np.array([np.nan]))[0])


def test_income_of_joint_applications():
    raw = {
        "annual_inc": [4e4] * 4,
        "annual_inc_joint": [9e4, np.nan, 9e4, 9e4],
        "application_type": ["Joint App", "JOINT", "Individual", None],
    }
    assert income(RawColumns(raw, 4)).tolist() == [9e4, 4e4, 4e4, 4e4]


def test_ratios_and_logs_stay_finite():
    assert ratio(np.array([6.0]), np.array([3.0]))[0] == 2
    for denominator in (0.0, -1.0, 1e-9, np.nan):
        assert np.isnan(ratio(np.array([1.0]), np.array([denominator]))[0])
    assert log_money(np.array([-5.0, 0.0, np.e - 1])).tolist() == pytest.approx([0, 0, 1])
    assert log_money(np.e - 1) == pytest.approx(1) and log_money(-1.0) == 0 and log_money(0.5) == pytest.approx(np.log(1.5))


def test_derived_features_of_the_example_by_hand():
    a = EXAMPLE_APPLICATION | {
        "fico_range_low": 680,
        "fico_range_high": 684,
        "sec_app_fico_range_low": 600,
        "sec_app_fico_range_high": 604,
        "sec_app_earliest_cr_line": "Jan-2010",
        "total_bal_il": 5000,
    }
    found = derive(read_applications([a]))
    payment = 12 * 329.47 / 117_000
    by_hand = {
        "term_months": 36,
        "emp_length_years": 10,
        "sub_grade_number": 8,
        "credit_history_months": 299,
        "sec_app_credit_history_months": 60,
        "fico": 682,
        "sec_app_fico": 602,
        "log_income": math.log(117_001),
        "log_installment": math.log(330.47),
        "dti_combined": 6.08,
        "dti_with_loan": 6.08 + 100 * payment,
        "loan_to_income": 10_000 / 117_000,
        "payment_to_income": payment,
        "revol_bal_to_income": 21_320 / 117_000,
        "tot_cur_bal_to_income": 34_360 / 117_000,
        "total_bal_il_to_income": 5000 / 117_000,
        "loan_to_revol_limit": 10_000 / 39_500,
    }
    assert by_hand.keys() == {feature.name for feature in DERIVED}
    for name, value in by_hand.items():
        assert found[name][0] == pytest.approx(value, rel=1e-9), name


def test_plain_features_are_the_schemas_numbers():
    plain = {f.column: f for f in NUMERIC_FEATURES if f.column}
    for column in (c for c in COLUMNS if c.name in plain):
        feature = plain[column.name]
        assert feature.is_log == column.unit.startswith("USD") == feature.name.startswith("log_")
        assert (feature.unit, feature.meaning) == (f"log {column.unit}" if feature.is_log else column.unit, column.meaning)
        value = feature.make(RawColumns({column.name: [7.0]}, 1))[0]
        assert value == pytest.approx(math.log(8) if feature.is_log else 7)
    replaced = {c.name for c in COLUMNS if c.role == "input" and c.kind == "number"} - set(plain)
    assert replaced == {
        "annual_inc",
        "annual_inc_joint",
        "dti",
        "dti_joint",
        "installment",
        "fico_range_low",
        "fico_range_high",
        "sec_app_fico_range_low",
        "sec_app_fico_range_high",
    }


def test_features_read_what_they_say():
    assert columns_read(["credit_history_months"]) == {"earliest_cr_line", "issue_d"}
    assert columns_read(["purpose", "dti"]) == {"purpose"}  # `dti` is no feature: `dti_combined` is
    assert columns_read([f.name for f in NUMERIC_FEATURES]) <= set(BY_NAME)
    assert "addr_state" in category_features(True) and "addr_state" not in category_features()


def test_categories_are_cleaned():
    assert [clean_category(v) for v in (" car ", "a\u00a0 b", "", "  ", None, float("nan"), 5)] == [
        "car",
        "a b",
        None,
        None,
        None,
        None,
        None,
    ]
    raw = RawColumns({"purpose": [" car ", None], "addr_state": ["CA", "NY"]}, 2)
    assert derive(raw)["purpose"].tolist() == ["car", None] and "addr_state" not in derive(raw)
    assert derive(raw, use_addr_state=True)["addr_state"].tolist() == ["CA", "NY"]


def test_the_order_of_the_names_is_the_order_of_the_rows():
    raw = read_applications([EXAMPLE_APPLICATION])
    names = ("log_revol_bal", "term_months", "open_acc", "dti_combined")
    expected = [FEATURE_BY_NAME[name].make(raw)[0] for name in names]
    assert numeric_features(raw, names)[:, 0].tolist() == pytest.approx(expected)
