"""The checker and the readers by themselves: what they accept, what they say, and where they stop."""

import csv
import io
import json
import math
import re

import numpy as np
import pytest

from lending_club.core.applications import NUMBER_FIELDS
from lending_club.core.schema import BY_NAME, COLUMNS, EXAMPLE_APPLICATION
from lending_club.serving.checker import FIELDS, RULES, Reason, check_columns, read_id, read_text
from lending_club.serving.csv_requests import read_csv_batch
from lending_club.serving.document import application_schema
from lending_club.serving.requests import RequestError, check_objects, read_application, read_json_batch

SMALLEST = {"loan_amnt": 5000, "term": "36 months", "annual_inc": 50_000}


def body(*applications) -> bytes:
    return json.dumps(applications[0] if len(applications) == 1 else applications).encode()


def refused(read, *given) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(*given)
    return caught.value


def errors(**fields) -> dict:
    "What is said about the fields of one application, by field."
    error = refused(read_application, body(SMALLEST | fields))
    assert error.status == 422
    return {each.pop("field"): each for each in error.errors}


# --- one value ---


KEPT = [c for c in COLUMNS if c.at_origination and c.role != "excluded"]  # what an answer may depend on
IGNORED = [c.name for c in COLUMNS if c.role == "excluded" and c.name != "id"]


@pytest.mark.parametrize("column", [c for c in KEPT if c.kind == "number"], ids=lambda c: c.name)
def test_a_number_may_be_at_its_ends_and_not_beyond(column):
    low, high = column.minimum, column.maximum
    for value in (low, high):
        table = read_application(body(SMALLEST | {column.name: value}))
        assert table.number(column.name).tolist() == [value]
    for value, reason in ((low - 0.01, "greater than or equal to"), (high + 0.01, "less than or equal to")):
        (error,) = errors(**{column.name: value}).values()
        assert reason in error["message"] and error["allowed"] == column.allowed and error["value"] == value
        assert error["message"].endswith(f" {low:.0f}" if value < low else f" {high:.0f}")


@pytest.mark.parametrize("column", [c for c in KEPT if c.values], ids=lambda c: c.name)
def test_a_category_is_read_in_the_files_spelling(column):
    for value in column.values:
        for spelling in (value, value.strip(), f"  {value} ", value.strip().replace(" ", "\u00a0 ")):
            assert read_text(RULES[column.name], spelling) == value
            assert read_application(body(SMALLEST | {column.name: spelling})).text(column.name).tolist() == [value]
    (error,) = errors(**{column.name: f"{column.values[0]}x"}).values()
    assert error["message"].startswith("not a known value.") and error["allowed"] == column.allowed


def test_a_nearest_value_is_named():
    assert errors(purpose="weding")["purpose"]["message"] == "not a known value. Did you mean 'wedding'?"
    assert errors(purpose="qqqq")["purpose"]["message"] == "not a known value."


SPELT = {  # another spelling, and what it means
    "term": [("36m", " 36 months"), ("36 Months", " 36 months"), (36, " 36 months"), (60.0, " 60 months"), ("60", " 60 months")],
    "emp_length": [("<1 year", "< 1 year"), ("10+", "10+ years"), (5, "5 years"), ("n/a", "n/a"), ("NA", None)],
    "home_ownership": [("rent", "RENT"), ("Mortgage", "MORTGAGE"), ("none", "NONE"), ("null", None)],
    "application_type": [("INDIVIDUAL", "Individual"), ("JOINT", "Joint App"), ("DIRECT_PAY", "Individual"), ("", None)],
    "disbursement_method": [("DIRECT_PAY", "DirectPay"), ("cash", "Cash"), ("N/A", None)],
    "verification_status": [("VERIFIED - income source", "Source Verified"), ("not verified", "Not Verified")],
    "purpose": [("Debt Consolidation", "debt_consolidation"), (r"\N", None)],
    "sub_grade": [("b4", "B4")],
    "issue_d": [
        ("2015-12-01", "Dec-2015"),
        ("2015-12", "Dec-2015"),
        ("Dec-15", "Dec-2015"),
        ("dec-2015", "Dec-2015"),
        ("December 2015", "Dec-2015"),
        (" Dec-2015 ", "Dec-2015"),
        ("2015-12-01 00:00:00", "Dec-2015"),
        ("nan", None),
    ],
    "earliest_cr_line": [("Jan-85", "Jan-1985"), ("1985-01-01", "Jan-1985"), ("NaT", None)],
    "int_rate": [(" 10.65%", 10.65), ("10.65", 10.65), ("1.065e1", 10.65), ("NaN", None)],
    "revol_util": [("83.7%", 83.7), ("", None)],
    "annual_inc": [("50000", 50_000), ("$50,000.00", 50_000), (" 5e4", 50_000)],
    "revol_bal": [("1,234", 1_234), ("-", None), ("#N/A", None)],
    "dti": [("13.56", 13.56), ("-1", -1), ("None", None)],
}


def csv_table(*applications):
    "What the service reads of applications that are written as CSV."
    text = io.StringIO()
    writer = csv.DictWriter(text, list(applications[0]))
    writer.writeheader()
    writer.writerows(applications)
    return read_csv_batch(text.getvalue().encode(), 10).table


@pytest.mark.parametrize(("name", "sent", "read"), [(name, *pair) for name, pairs in SPELT.items() for pair in pairs], ids=str)
def test_other_spellings_mean_what_they_mean_in_a_file(name, sent, read):
    for table in (
        read_application(body(SMALLEST | {name: sent})),
        read_json_batch(body(SMALLEST, SMALLEST | {name: sent}), 10).table,
        csv_table(SMALLEST | {name: sent}),
    ):
        value = (table.number(name) if name in NUMBER_FIELDS else table.text(name)).tolist()[-1]
        assert value == read or (read is None and value != value)


NO_CENTURY = "no possible year ends in these two digits: send the year with four"
NO_MONTH = {
    "12/1/2015": "not certain which of two numbers is the month: send it as Dec-2011 or 2011-12",
    "Dec-75": NO_CENTURY,
    "Dec-06": NO_CENTURY,
} | dict.fromkeys(["15-12", "Dec-1899", "Jan-2100", "2015", "soon", "x" * 101], "not a month")


@pytest.mark.parametrize("value", NO_MONTH)
def test_what_is_no_month(value):
    assert errors(issue_d=value)["issue_d"] == {
        "value": value[:100],
        "message": NO_MONTH[value],
        "allowed": "a month written like Dec-2015",
    }


@pytest.mark.parametrize("value", [201512, 201512.0, "201512"])
def test_a_month_as_a_whole_number(value):
    assert read_application(body(SMALLEST | {"issue_d": value})).text("issue_d").tolist() == ["Dec-2015"]
    assert "issue_d" in errors(issue_d=201513)


DATES = {"month first": "{1}/1/{0}", "day first": "1/{1}/{0}", "two digits": "{1:02}/01/{2:02}"}


@pytest.mark.parametrize("spelling", DATES)
def test_applications_together_tell_the_order_of_day_and_month(spelling):
    "As the dates of a file do."
    dates = [(2011, 12), (2012, 11), (2010, 4), (2015, 1), (2015, 1)]
    rows = [SMALLEST | {"issue_d": DATES[spelling].format(year, month, year % 100)} for year, month in dates]
    wanted = ["Dec-2011", "Nov-2012", "Apr-2010", "Jan-2015", "Jan-2015"]
    assert read_json_batch(body(*rows), 10).table.text("issue_d").tolist() == wanted
    assert csv_table(*rows).text("issue_d").tolist() == wanted
    both = [row | {"issue_d": None, "earliest_cr_line": row["issue_d"]} for row in rows[:2]] + rows[2:3]
    assert csv_table(*both).text("earliest_cr_line").tolist() == [*wanted[:2], None]
    assert csv_table(*both).text("issue_d").tolist() == [None, None, wanted[2]]
    for too_few in (rows[:1], rows[:2]):
        error = refused(read_json_batch, json.dumps(too_few).encode(), 10)
        assert {each["field"] for each in error.errors} == {"issue_d"} and len(error.errors) == len(too_few)


def test_dates_that_contradict_each_other_tell_nothing():
    rows = [SMALLEST | {"issue_d": date} for date in ("12/1/2011", "11/1/2011", "1/4/2010", "13/2/2011", "2/13/2012")]
    error = refused(read_json_batch, body(*rows), 10)
    assert [each["index"] for each in error.errors] == [0, 1, 2]


@pytest.mark.parametrize("missing", ["", "nan", "NA", "NULL", r"\N", " "])
@pytest.mark.parametrize("name", SMALLEST)
def test_a_missing_value_of_a_required_field_is_named(name, missing):
    assert errors(**{name: missing})[name]["message"] == "this field is required"


@pytest.mark.parametrize(
    ("issued", "opened", "message"),
    [
        ("Dec-2015", "Jan-2016", "later than issue_d: "),
        ("2015-12-01", "2016-01-01", "later than issue_d: "),
        (None, "Jan-2099", "later than the present month, which stands in for the absent issue_d"),
    ],
)
@pytest.mark.parametrize("name", ["earliest_cr_line", "sec_app_earliest_cr_line"])
def test_no_credit_line_is_younger_than_the_loan(name, issued, opened, message):
    error = errors(issue_d=issued, **{name: opened})[name]
    assert error["message"].startswith(message) and error["value"] == opened
    batch = body(SMALLEST, SMALLEST | {"issue_d": issued, name: opened}, SMALLEST | {"issue_d": "Dec-2015", name: "Dec-2015"})
    assert list(read_json_batch(batch, 10, True).refused) == [1]


def test_a_year_of_two_digits_is_before_the_loan():
    rows = [SMALLEST | {"issue_d": issued, "earliest_cr_line": "Dec-40"} for issued in ("Dec-2015", "Dec-11", None)]
    assert read_json_batch(body(*rows), 10).table.text("earliest_cr_line").tolist() == ["Dec-1940"] * 3
    rows = [SMALLEST | {"issue_d": issued, "earliest_cr_line": "Jun-14"} for issued in ("Dec-2015", None)]
    assert read_json_batch(body(*rows), 10).table.text("earliest_cr_line").tolist() == ["Jun-2014"] * 2
    assert errors(issue_d="Dec-2010", earliest_cr_line="Jun-14")["earliest_cr_line"]["message"] == NO_CENTURY


@pytest.mark.parametrize(
    "value", [1296599, 1.5, "x" * 100_000, True, ["a"], {"a": 1}, "", None, "860xx", -(10**400)], ids=lambda v: str(v)[:9]
)
@pytest.mark.parametrize("name", IGNORED)
def test_what_training_ignores_is_ignored(name, value):
    sent = SMALLEST | {name: value}
    for table in (read_application(body(sent)), read_json_batch(body(sent, SMALLEST), 2).table, csv_table(sent)):
        assert table.n >= 1 and name not in table.columns


@pytest.mark.parametrize("value", [17, "A-17", "", -(2**63), 2**63 - 1, 17.0])
def test_ids(value):
    assert read_id(value) == value and type(read_id(value)) is (int if isinstance(value, float) else type(value))
    assert list(read_application(body(SMALLEST | {"id": value})).ids()) == [value]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (True, Reason.NOT_AN_ID),
        ([1], Reason.NOT_AN_ID),
        (1.5, Reason.NOT_AN_ID),
        (2**63, Reason.TOO_LARGE),
        (-(2**63) - 1, Reason.TOO_SMALL),
        ("x" * 1001, Reason.TOO_LONG),
    ],
    ids=str,
)
def test_what_is_no_id(value, reason):
    assert read_id(value) is reason
    assert set(errors(id=value)) == {"id"}


@pytest.mark.parametrize("value", ["twelve", True, [12], {"a": 1}, "1,5,0", "0x10", "1_0", "inf", "1.2.3", "9" * 101], ids=str)
def test_what_is_no_number(value):
    assert errors(dti=value)["dti"]["message"] == "Input should be a valid number"


@pytest.mark.parametrize("value", [True, ["car"], {"a": 1}, 1.5, -1], ids=str)
def test_what_is_no_text(value):
    found = errors(purpose=value, issue_d=value, term=value)
    assert {name: error["message"] for name, error in found.items()} == dict.fromkeys(found, "Input should be a valid string")
    assert found.keys() == {"purpose", "issue_d", "term"}


def test_a_number_that_is_none_of_the_values():
    assert errors(term=48)["term"]["message"].startswith("not a known value.") and errors(term=48)["term"]["value"] == 48


def test_values_are_shown_short_and_as_valid_json():
    shown = {
        name: error["value"]
        for name, error in errors(
            dti=[1, 2], revol_bal={"a": 1}, open_acc=10**400, purpose="x" * 500, pub_rec=2**60, total_acc=True
        ).items()
    }
    assert shown == {
        "dti": "an array of 2",
        "revol_bal": "an object of 1",
        "open_acc": "a whole number of many digits",
        "purpose": "x" * 100,
        "pub_rec": str(2**60),
        "total_acc": True,
    }


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "nan", "NA", "None", "-inf"])
def test_a_value_that_json_does_not_have_is_named(text):
    one = json.dumps(SMALLEST | {"emp_title": "a: b"}).replace("5000,", f"{text},")
    for read, given in ((read_application, one), (read_json_batch, f"[{json.dumps(SMALLEST)},\n{one}]")):
        error = refused(read, given.encode(), *[10] * (read is read_json_batch))
        line = 1 + given.count("\n")
        assert error.status == 400
        assert str(error).startswith(f"the body is not valid JSON: loan_amnt is {text} at line {line} column ")
        assert str(error).endswith("which JSON does not have: send null if it is missing")


def test_other_errors_of_json_are_the_parsers():
    for given in ("{'a': 1}", '{"dti": tru}', '{"dti": 1,}', '{"dti": nothing}'):
        assert "send null" not in str(refused(read_application, given.encode()))


@pytest.mark.parametrize(("sent", "hint"), [("Rented", "RENT"), ("mortgaged", "MORTGAGE"), ("owns", "OWN")])
def test_a_hint_has_the_schemas_spelling(sent, hint):
    assert errors(home_ownership=sent)["home_ownership"]["message"] == f"not a known value. Did you mean {hint!r}?"


@pytest.mark.parametrize("name", ["Unnamed: 0", "", "index", "Unnamed: 12"])
def test_the_index_of_a_table_is_named(name):
    assert "to_csv(index=False)" in errors(**{name: 0})[name]["message"]
    (error,) = refused(read_csv_batch, f"{name},loan_amnt,term,annual_inc\n0,5000,36m,50000\n".encode(), 10).errors
    assert error["field"] == name and "to_csv(index=False)" in error["message"]


OTHER_NAMES = {
    "LOAN_AMNT": 5000,
    "Term": "36 months",
    "annualInc": 50_000,
    "open_il_6m": 3,
    "is_inc_v": "Verified",
    "TOTAL_PYMNT": 9,
}


def test_other_names_of_fields_are_known():
    for table in (
        read_application(body(OTHER_NAMES)),
        read_json_batch(body(OTHER_NAMES, SMALLEST), 10).table,
        csv_table(OTHER_NAMES),
    ):
        assert table.number("loan_amnt")[0] == 5000 and table.number("open_act_il")[0] == 3
        assert table.text("verification_status")[0] == "Verified"
    assert errors(LOAN_AMNT=1, dti=2) == {"LOAN_AMNT": {"value": 1, "message": "another name of loan_amnt: send loan_amnt, once"}}
    header = b"loan_amnt,term,annual_inc,LOAN_AMNT\n"
    assert refused(read_csv_batch, header, 10).errors[0]["message"] == "this field occurs twice in the header"


@pytest.mark.parametrize("count", [1, 20, 600, 900])
def test_other_names_are_known_whatever_the_neighbours_send(count):
    strange = {f"name{i}": i for i in range(count)}
    other = {"LOAN_AMNT": 5000, "Term": "36 months", "annualInc": 50_000}
    batch = read_json_batch(body(other, SMALLEST | strange, other, *[strange] * 5), 10, True)
    assert sorted(batch.refused) == [1, 3, 4, 5, 6, 7] and batch.table.number("loan_amnt").tolist() == [5000, 5000]
    error = refused(read_json_batch, body(other, SMALLEST | strange), 10)
    assert {each["index"] for each in error.errors} == {1}


def test_looking_up_names_is_bounded_by_the_application(monkeypatch):
    "An application with many names that nobody knows is refused, whatever its other names mean."
    from lending_club.serving import refusals

    looked_up, own = [], refusals.canonical_name
    monkeypatch.setattr(refusals, "canonical_name", lambda name: looked_up.append(name) or own(name))
    rows = [SMALLEST | {f"name{i}_{j}": 1 for j in range(500)} for i in range(20)]
    assert len(read_json_batch(body(*rows), 20, True).refused) == 20
    assert len(looked_up) <= 20 * 25
    twice = {"_" * i + "LOAN_AMNT": 1 for i in range(60)}
    looked_up.clear()
    assert set(errors(**twice)) >= {"LOAN_AMNT", "_LOAN_AMNT"} and len(looked_up) <= 25


def test_a_header_with_other_separators():
    for sign in ";\t|":
        assert f"separated by {sign!r}" in str(refused(read_csv_batch, sign.join([*SMALLEST, "dti\n"]).encode(), 10))


# --- one application ---


def test_what_is_required():
    error = refused(read_application, b"{}")
    assert str(error) == "3 fields cannot be used"
    assert {(e["field"], e["message"]) for e in error.errors} == {(n, "this field is required") for n in SMALLEST}
    assert set(errors(loan_amnt=None)) == {"loan_amnt"} and str(
        refused(read_application, body(SMALLEST | {"term": None}))
    ).startswith("1 field ")


def test_errors_are_counted():
    assert str(refused(read_application, body(SMALLEST | {"dti": "x"}))) == "1 field cannot be used"
    assert str(refused(read_application, body(SMALLEST | {"dti": "x", "grade": "Z"}))) == "2 fields cannot be used"
    rows = [{"loan_amnt": 5000, "term": "36 months", "annual_inc": 5e4} | {f"name{i}": 1 for i in range(111)}] * 9
    assert str(refused(read_json_batch, json.dumps(rows).encode(), 10)) == "9 of 9 applications cannot be used"  # 999 errors
    assert str(refused(read_json_batch, json.dumps([*rows, {"grade": "Z"}]).encode(), 10)).startswith("at least 10 of 10 ")


def test_gaps_are_nan_or_none_and_the_rest_is_as_sent():
    table = read_application(body(SMALLEST | {"dti": None, "purpose": None, "open_acc": 3, "grade": "B"}))
    assert table.n == 1 and math.isnan(table.number("dti")[0]) and table.number("open_acc")[0] == 3
    assert [table.text(name)[0] for name in ("purpose", "grade", "sub_grade")] == [None, "B", None]
    known = {"loan_amnt", "annual_inc", "open_acc"}
    assert {name for name in NUMBER_FIELDS if not np.isnan(table.number(name)[0])} == known


def test_names_that_nobody_knows():
    found = errors(anual_inc=1, qqqqqqqq=2, total_pymnt=3, loan_status={"deep": [1]})
    assert found == {
        "anual_inc": {"value": 1, "message": "unknown field. Did you mean 'annual_inc'?"},
        "qqqqqqqq": {"value": 2, "message": "unknown field."},
    }
    assert read_application(body(SMALLEST | {"total_pymnt": 3, "recoveries": "x"})).n == 1


@pytest.mark.parametrize(
    "text", ['{"term": 1, "term": 2}', '{"loan_amnt": 5000, "term": "36 months", "annual_inc": 5e4, "dti": 1, "dti": 2}'], ids=len
)
def test_a_name_that_occurs_twice(text):
    error = refused(read_application, text.encode())
    assert error.status == 400 and "occurs twice in one object: send each field once" in str(error)
    error = refused(read_json_batch, f"[{json.dumps(SMALLEST)}, {text}]".encode(), 10)
    assert error.status == 400 and str(error).startswith("application 1 of the batch, counted from 0: the name ")


def test_colons_in_texts_are_no_fields():
    texts = {"title": "a: b", "desc": 'quoted ":"', "emp_title": "\\:"}
    assert read_application(body(SMALLEST | texts | {"id": "x: y"})).ids()[0] == "x: y"
    error = refused(read_application, b'{"loan_amnt":5000,"term":"36 months","annual_inc":5e4,"title":"a:b","title":"c"}')
    assert "'title' occurs twice" in str(error)


@pytest.mark.parametrize(
    ("given", "status", "reason"),
    [
        (b"", 400, "empty"),
        (b" \n", 400, "empty"),
        (b"\xff", 400, "not valid JSON"),
        (b"[1", 400, "not valid JSON"),
        (b"[]", 422, "not an array"),
        (b"null", 422, "not null"),
        (b'"x"', 422, "not a text"),
        (b"true", 422, "not true or false"),
        (b"5", 422, "not a number"),
    ],
)
def test_what_is_no_application(given, status, reason):
    error = refused(read_application, given)
    assert error.status == status and reason in str(error) and "errors" not in error.refusal


def test_only_two_hundred_errors_of_one_application_are_listed():
    error = refused(read_application, body({f"field{i}": i for i in range(500)}))
    assert str(error) == "503 fields cannot be used; 200 are listed" and len(error.errors) == 200
    few = refused(read_application, body({f"field{i}": i for i in range(10)}))
    assert str(few) == "13 fields cannot be used" and len(few.errors) == 13


def test_a_hundred_hints_are_looked_for():
    error = refused(read_application, body({f"anual_inc{i}": i for i in range(150)}))
    assert sum("Did you mean" in e["message"] for e in error.errors) == 100
    long = refused(read_application, body({"annual_income_of_the_borrower_" * 3: 1}))
    assert long.errors[0]["message"] == "unknown field."


# --- batches ---


def test_a_batch_is_a_table_in_its_order():
    batch = read_json_batch(body(SMALLEST | {"id": 1}, SMALLEST | {"id": "b", "dti": 5}, SMALLEST), 10)
    assert not batch.refused and batch.table.n == 3 and list(batch.table.ids()) == [1, "b", None]
    assert np.isnan(batch.table.number("dti")).tolist() == [True, False, True]
    assert read_json_batch(b"[]", 10).table.n == 0


def test_a_batch_names_places():
    batch = body(SMALLEST, {"loan_amnt": 1, "id": 7}, 5, SMALLEST | {"id": "x"})
    error = refused(read_json_batch, batch, 10)
    assert (error.status, str(error)) == (422, "2 of 4 applications cannot be used")
    assert [(e["index"], e.get("field")) for e in error.errors] == [(1, "loan_amnt"), (1, "term"), (1, "annual_inc"), (2, None)]
    partial = read_json_batch(batch, 10, True)
    assert partial.table.n == 2 and list(partial.table.ids()) == [None, "x"] and set(partial.refused) == {1, 2}
    assert partial.refused[1].id == 7 and partial.refused[2].id is None
    assert (partial.refused[2].status, str(partial.refused[2])) == (
        422,
        "an application must be a JSON object of raw fields, not a number",
    )
    assert partial.refused[2].refusal["errors"] == [{"index": 2, "message": str(partial.refused[2])}]


def test_what_is_right_as_it_stands_is_read_once(monkeypatch):
    from lending_club.serving import requests

    monkeypatch.setattr(requests, "_from_json", None)  # the general reader
    one = EXAMPLE_APPLICATION | {"emp_title": "a: b", "dti": None}
    assert read_application(json.dumps(EXAMPLE_APPLICATION).encode()).n == 1
    assert read_application(json.dumps(one).encode()).n == 1
    assert read_json_batch(json.dumps([one, EXAMPLE_APPLICATION, SMALLEST]).encode(), 10).table.n == 3


def test_a_batch_has_a_limit():
    assert read_json_batch(body(SMALLEST, SMALLEST), 2).table.n == 2
    for given in (body(SMALLEST, SMALLEST, SMALLEST), body({}, 1, 2)):
        error = refused(read_json_batch, given, 2)
        assert error.status == 413 and str(error).startswith("a batch of more than 2 applications")
    error = refused(read_json_batch, b"{}", 2)
    assert (error.status, str(error)) == (422, "a batch must be a JSON array of applications, not an object")


def test_a_thousand_errors_of_a_request_are_listed():
    awful = [{f"name{i}": "x" for i in range(100)}] * 30
    error = refused(read_json_batch, json.dumps(awful).encode(), 100)
    assert str(error).startswith("at least ") and len(error.errors) == 1000
    partial = read_json_batch(json.dumps(awful).encode(), 100, True)
    assert len(partial.refused) == 30 and sum(len(e.errors) for e in partial.refused.values()) == 1000


def test_odd_columns_do_not_confuse_the_others():
    batch = [SMALLEST | {"dti": 5}, SMALLEST | {"dti": "x", "purpose": ["car"]}, SMALLEST | {"dti": 2000, "purpose": "car"}]
    partial = read_json_batch(json.dumps(batch).encode(), 10, True)
    assert set(partial.refused) == {1} and partial.table.number("dti").tolist() == [5, 2000]
    assert partial.table.text("purpose").tolist() == [None, "car"]


# --- CSV ---


def test_csv_as_json():
    header = b"id,loan_amnt,term,annual_inc,dti,emp_title,recoveries\r\n"
    table = header + b'1,5000,36 months,5e4,,"a, b",9\r\n\r\n2,6000,60 months,70000,1.5,,\r\n'
    batch = read_csv_batch(b"\xef\xbb\xbf" + table, 10)
    assert list(batch.table.ids()) == ["1", "2"] and batch.table.number("loan_amnt").tolist() == [5000, 6000]
    assert batch.table.text("term").tolist() == [" 36 months", " 60 months"]
    assert np.isnan(batch.table.number("dti")).tolist() == [True, False] and not batch.refused
    assert read_csv_batch(b"loan_amnt,term,annual_inc\n", 10).table.n == 0


def test_csv_errors_name_lines():
    rows = b'5000,36 months,5e4,"two\r\nlines"\r\n5000,36 months,\r\n\r\n"5,00",48 months,nan,\r\n'
    table = b"loan_amnt,term,annual_inc,title\r\n" + rows
    error = refused(read_csv_batch, table, 10)
    assert str(error) == "2 of 3 applications cannot be used"
    assert [(e["index"], e["line"], e.get("field")) for e in error.errors] == [
        (1, 4, None),
        (2, 6, "loan_amnt"),
        (2, 6, "term"),
        (2, 6, "annual_inc"),
    ]
    assert error.errors[0]["message"] == "3 cells, where the header has 4"
    partial = read_csv_batch(table, 10, True)
    assert partial.table.n == 1 and set(partial.refused) == {1, 2} and partial.refused[1].errors[0]["line"] == 4


@pytest.mark.parametrize(
    ("given", "status", "reason"),
    [
        (b"", 400, "empty"),
        (b"\n5000", 400, "empty"),
        (b"\xff\xfe", 400, "not UTF-8 (byte 0)"),
        (b'"loan_amnt', 400, "line 1 of the body"),
        (b'loan_amnt,term,annual_inc\n5000,"36', 400, "line 2 of the body"),
        (b"loan_amnt,term\n", 422, "1 field of the header"),
        (b"loan_amnt,term,anual_inc,term\n", 422, "3 fields of the header"),
    ],
)
def test_csv_that_cannot_be_read(given, status, reason):
    error = refused(read_csv_batch, given, 10)
    assert error.status == status and reason in str(error)


def test_csv_header_and_limit():
    found = {e["field"]: e for e in refused(read_csv_batch, b"loan_amnt, term ,anual_inc,term\n", 10).errors}
    assert found["anual_inc"] == {"line": 1, "field": "anual_inc", "message": "unknown field. Did you mean 'annual_inc'?"}
    assert found["term"]["message"] == "this field occurs twice in the header" and found["term"]["line"] == 1
    assert found["annual_inc"] == {
        "line": 1,
        "field": "annual_inc",
        "message": "this field is required",
        "allowed": BY_NAME["annual_inc"].allowed,
    }
    header = b"loan_amnt,term,annual_inc\n"
    assert read_csv_batch(header + b"5000,36 months,5e4\n" * 2, 2).table.n == 2
    assert refused(read_csv_batch, header + b"5000,36 months,5e4\n" * 3, 2).status == 413


# --- the document ---


def test_the_document_is_made_from_the_rules():
    document = application_schema()
    assert list(document["properties"]) == list(FIELDS) and document["required"] == ["loan_amnt", "term", "annual_inc"]
    assert document["additionalProperties"] is False and document["examples"] == [EXAMPLE_APPLICATION]
    number, text, missing = document["properties"]["dti"]["anyOf"]
    assert number == {"type": "number", "minimum": -1, "maximum": 9999} and {None, "", "nan", "null"} <= set(missing["enum"])
    assert re.search(text["pattern"], "9999.0") and not re.search(text["pattern"], "9999.1")
    number, text = document["properties"]["loan_amnt"]["anyOf"]
    assert number["minimum"] == 500 and re.search(text["pattern"], "500") and not re.search(text["pattern"], "499.9")
    assert document["properties"]["grade"]["anyOf"][0] == {"type": "string", "enum": list("ABCDEFG")}
    assert document["properties"]["issue_d"]["anyOf"][0]["pattern"].endswith("-(19|20)[0-9][0-9]$")
    assert list(document["properties"]["title"]) == ["description"]
    whole, text, null = document["properties"]["id"]["anyOf"]
    assert (
        (whole["minimum"], whole["maximum"]) == (-(2**63), 2**63 - 1) and text["maxLength"] == 1000 and null == {"type": "null"}
    )
    assert document["properties"]["dti"]["description"] == f"{BY_NAME['dti'].meaning}; {BY_NAME['dti'].allowed}"


def test_the_checker_says_for_each_field_and_place_what_is_wrong():
    numbers = {"loan_amnt": [5000, 1], "annual_inc": [5e4, None], "dti": [None, "x"]}
    table, reasons = check_columns(numbers | {"term": ["36 months", None], "purpose": ["car", "caar"]}, 2)
    assert reasons == {
        "loan_amnt": {1: Reason.TOO_SMALL},
        "annual_inc": {1: Reason.REQUIRED},
        "dti": {1: Reason.NOT_A_NUMBER},
        "purpose": {1: Reason.UNKNOWN_VALUE},
        "term": {1: Reason.REQUIRED},
    }
    assert table.text("purpose").tolist() == ["car", None]
    assert check_objects([SMALLEST]).wrong == []


# --- a column of a batch ---


def incomes(*texts: str) -> str:
    return "loan_amnt,term,annual_inc\n" + "".join(f'5000,36m,"{text}"\n' for text in texts)


def test_a_comma_means_the_same_in_the_whole_column():
    table = read_csv_batch(incomes("50.000", "65.500,50").encode(), 10).table
    assert table.number("annual_inc").tolist() == [50_000, 65_500.5]
    rows = [SMALLEST | {"annual_inc": text} for text in ("50.000", "65.500,50")]
    assert read_json_batch(body(*rows), 10).table.number("annual_inc").tolist() == [50_000, 65_500.5]
    error = refused(read_csv_batch, incomes("50,000", "65500,5").encode(), 10)
    assert [each["value"] for each in error.errors] == ["50,000", "65500,5"]
    assert read_csv_batch(incomes("50.000").encode(), 10).table.number("annual_inc").tolist() == [50]


def test_a_description_may_be_long_and_have_commas():
    header, long, lines = "loan_amnt,term,annual_inc,desc", "rent, " * 40_000, "one\n" + "a, " * 12_000 + "\nthree"
    text = f'{header}\n5000,36m,50000,"{long}"\n5000,36m,60000,"{lines}"\n'
    assert read_csv_batch(text.encode(), 10).table.number("annual_inc").tolist() == [50_000, 60_000]
    cells = refused(read_csv_batch, f"loan_amnt,term,annual_inc\n5000,36m,50000{',' * 20_000}\n".encode(), 10)
    assert "more than 10,000 commas" in str(cells)


def test_a_control_character_is_not_called_a_missing_value():
    error = refused(read_application, b'{"loan_amnt": 5000, "term": "36m", "annual_inc": 5, "desc": "none\n"}')
    assert "control character" in str(error) and "null" not in str(error)


def test_a_byte_order_mark_is_passed_over():
    marked = b"\xef\xbb\xbf"
    assert read_application(marked + body(SMALLEST)).n == 1
    assert read_json_batch(marked + body(SMALLEST, SMALLEST), 10).table.n == 2


@pytest.mark.parametrize("name", ["Unnamed: 0.1", "level_1", "index"])
def test_an_index_of_pandas_is_named(name):
    assert "the index of a table" in errors(**{name: 1})[name]["message"]
