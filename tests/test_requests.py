"""The checker and the readers by themselves: what they accept, what they say, and where they stop."""

import json
import math

import numpy as np
import pytest

from lending_club.core.applications import NUMBER_FIELDS
from lending_club.core.schema import BY_NAME, COLUMNS, EXAMPLE_APPLICATION
from lending_club.serving.checker import FIELDS, MAX_TEXT, RULES, Reason, application_schema, check_columns, read_id, read_text
from lending_club.serving.requests import RequestError, check_objects, read_application, read_csv_batch, read_json_batch

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


@pytest.mark.parametrize("column", [c for c in COLUMNS if c.at_origination and c.kind == "number"], ids=lambda c: c.name)
def test_a_number_may_be_at_its_ends_and_not_beyond(column):
    low, high = column.minimum, column.maximum
    for value in (low, high):
        table = read_application(body(SMALLEST | {column.name: value}))
        assert table.number(column.name).tolist() == [value]
    for value, reason in ((low - 0.01, "greater than or equal to"), (high + 0.01, "less than or equal to")):
        (error,) = errors(**{column.name: value}).values()
        assert reason in error["message"] and error["allowed"] == column.allowed and error["value"] == value
        assert error["message"].endswith(f" {low:.0f}" if value < low else f" {high:.0f}")


@pytest.mark.parametrize("column", [c for c in COLUMNS if c.values and c.at_origination], ids=lambda c: c.name)
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


@pytest.mark.parametrize("value", ["Dec-2015", " Dec-2015 ", "Jan-1900", "Dec-2099"])
def test_months(value):
    assert read_application(body(SMALLEST | {"issue_d": value})).text("issue_d").tolist() == [value.strip()]


@pytest.mark.parametrize("value", ["Dec-15", "2015-12", "dec-2015", "Dec-1899", "Jan-2100", "December-2015", ""])
def test_what_is_no_month(value):
    assert errors(issue_d=value)["issue_d"] == {
        "value": value,
        "message": "not a month",
        "allowed": "a month written like Dec-2015",
    }


def test_texts_have_a_length():
    longest = "x" * MAX_TEXT
    assert read_application(body(SMALLEST | {"title": longest})).text("title").tolist() == [longest]
    error = errors(title=longest + "x")["title"]
    assert error["message"] == "String should have at most 1000 characters" and error["value"] == "x" * 100


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


@pytest.mark.parametrize("value", ["12", True, [12], {"a": 1}, "13.56%"], ids=str)
def test_what_is_no_number(value):
    assert errors(dti=value)["dti"]["message"] == "Input should be a valid number"


@pytest.mark.parametrize("value", [5, True, ["car"], {"a": 1}, 1.5], ids=str)
def test_what_is_no_text(value):
    assert errors(purpose=value, title=value, issue_d=value).keys() == {"purpose", "title", "issue_d"}


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


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_json_knows_no_such_number(text):
    error = refused(read_application, json.dumps(SMALLEST).replace("5000", text).encode())
    assert error.status == 400 and str(error).startswith("the body is not valid JSON: ")


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
    assert [table.text(name)[0] for name in ("purpose", "grade", "title")] == [None, "B", None]
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


def test_colons_in_texts_are_no_fields():
    table = read_application(body(SMALLEST | {"title": "a: b", "desc": 'quoted ":"', "emp_title": "\\:"}))
    assert [table.text(n)[0] for n in ("title", "desc", "emp_title")] == ["a: b", 'quoted ":"', "\\:"]
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
    assert batch.table.text("term").tolist() == [" 36 months", " 60 months"] and batch.table.text("emp_title").tolist() == [
        "a, b",
        None,
    ]
    assert np.isnan(batch.table.number("dti")).tolist() == [True, False] and not batch.refused
    assert read_csv_batch(b"loan_amnt,term,annual_inc\n", 10).table.n == 0


def test_csv_errors_name_lines():
    rows = b'5000,36 months,5e4,"two\r\nlines"\r\n5000,36 months,\r\n\r\n"5,000",48 months,nan,\r\n'
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
    assert document["properties"]["dti"]["anyOf"] == [{"type": "number", "minimum": -1, "maximum": 9999}, {"type": "null"}]
    assert document["properties"]["loan_amnt"]["minimum"] == 500 and document["properties"]["loan_amnt"]["type"] == "number"
    assert document["properties"]["grade"]["anyOf"][0] == {"type": "string", "enum": list("ABCDEFG")}
    assert document["properties"]["issue_d"]["anyOf"][0]["pattern"].endswith("-(19|20)[0-9][0-9]$")
    assert document["properties"]["title"]["anyOf"][0] == {"type": "string", "maxLength": 1000}
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
