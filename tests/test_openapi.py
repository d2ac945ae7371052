"""The service against its own contract: requests drawn from the OpenAPI document, applications drawn from the schema."""

import csv
import io
import json
from dataclasses import replace

import hypothesis
import jsonschema_rs
import mlflow
import pandas as pd
import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from lending_club.core.applications import NUMBER_FIELDS
from lending_club.core.months import month_today
from lending_club.core.preprocess import application_frame
from lending_club.core.schema import BY_NAME, COLUMNS, EXAMPLE_APPLICATION, REQUIRED_IN_APPLICATION
from lending_club.core.settings import load_settings
from lending_club.core.spellings import canonical, is_missing_text, parse_number_text
from lending_club.promote import promote
from lending_club.serving.app import create_app
from lending_club.serving.checker import CREDIT_LINES, FIELDS, Reason
from lending_club.serving.csv_requests import read_csv_batch
from lending_club.serving.document import application_schema
from lending_club.serving.requests import RequestError, check_objects, read_application, read_json_batch

MONTHS = [f"{m}-{y}" for y in range(1900, 2100) for m in "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()]
REPEATABLE = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}


def field_values(column):
    "Any value of a column that the schema admits."
    if column.kind == "number":
        inside = {"min_value": column.minimum, "max_value": column.maximum}
        whole = st.integers(int(column.minimum), int(column.maximum))
        return st.floats(**inside) | whole | st.sampled_from([column.minimum, column.maximum])
    if column.values:
        return st.sampled_from([*column.values, *(value.strip() for value in column.values)])
    return st.sampled_from(MONTHS) if column.kind == "month" else st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def drawn_applications(columns=COLUMNS):
    "Any application that the schema admits, in the file's spelling."
    drawn = {c.name: field_values(c) for c in columns if c.at_origination}
    required = {name: drawn.pop(name) for name in REQUIRED_IN_APPLICATION}
    optional = {name: st.none() | values for name, values in drawn.items()}
    return st.fixed_dictionaries(required, optional=optional).map(with_older_credit_lines)


def with_older_credit_lines(application: dict) -> dict:
    "The same with no credit line younger than the loan."
    latest = MONTHS.index(application.get("issue_d") or month_today())
    lines = {name: application[name] for name in CREDIT_LINES if application.get(name)}
    return application | {name: MONTHS[min(MONTHS.index(month), latest)] for name, month in lines.items()}


@pytest.fixture(scope="module")
def served(stock, tmp_path_factory):
    "Settings, the trained model and an app that answers with it."
    settings = replace(stock.copy_to(tmp_path_factory.mktemp("contract") / "project"), webhook_secret="s3cret")
    promote(settings)
    app = create_app(settings)
    app.state.poller.poll()
    assert app.state.poller.scorer is not None, app.state.poller.last_error
    yield settings, stock.first, app
    app.state.poller.stop()  # schemathesis starts the app and never ends it


def some_csv(applications: list[dict]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS)
    writer.writeheader()
    writer.writerows(applications)
    return text.getvalue().encode()


# what a CSV table may be cannot be said in an OpenAPI document, so that part is drawn from the schema
schemathesis.openapi.media_type("text/csv", st.lists(drawn_applications(), max_size=3).map(some_csv), aliases=["application/csv"])


def only_late_lines(response) -> bool:
    "Whether a request was refused only because of credit lines that are younger than the loan."
    errors = response.json().get("errors", []) if response.status_code == 422 else []
    return bool(errors) and all(error["message"].startswith("later than ") for error in errors)


def only_without_curves(response) -> bool:
    "Whether a request was refused only because the version has no cumulative curves."
    return response.status_code == 422 and "has no cumulative curves" in response.json()["detail"]


def ask(operation, mode, examples: int, statuses: dict):
    "One operation, with what the document admits or with what it does not, through all of schemathesis' checks."
    no_rejection, no_acceptance = CHECKS.get_one("negative_data_rejection"), CHECKS.get_one("positive_data_acceptance")

    @hypothesis.settings(max_examples=examples, **REPEATABLE)
    @given(operation.as_strategy(generation_mode=mode))
    def ask_once(case):
        response = case.call()
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        # a partial batch answers what violates the document with error objects
        partial = (case.query or {}).get("partial") == "true"
        # and 413, for more applications than the document allows, is a refusal that the check does not count as one
        refused = response.status_code == 413
        # no document can say that one month must not be after another, nor whether the champion has curves
        valid = only_late_lines(response) or only_without_curves(response)
        excluded = [no_rejection] * (partial or refused) + [no_acceptance] * valid
        case.validate_response(response, excluded_checks=excluded or None)

    ask_once()


def ask_all(app, examples: int) -> dict:  # status counts by operation
    "Every operation of the document."
    load_all_checks()
    statuses = {}
    for result in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations():
        operation = result.ok()
        seen = statuses[operation.label] = {}
        ask(operation, GenerationMode.POSITIVE, examples, seen)
        if operation.method == "post":  # there is nothing that could be wrong about the others
            ask(operation, GenerationMode.NEGATIVE, examples, seen)
    return statuses


def check_statuses(statuses: dict):
    assert set(statuses) == {"POST /predict", "POST /predict/batch", "GET /health", "GET /ready", "GET /metrics", "POST /webhook"}
    assert not [label for label, seen in statuses.items() if any(status >= 500 for status in seen)], statuses
    assert {200, 400, 422} <= set(statuses["POST /predict"]) and {200, 422} <= set(statuses["POST /predict/batch"]), statuses


def test_the_document_holds(served):
    check_statuses(ask_all(served[2], 50))


@pytest.mark.slow
def test_the_document_holds_for_thousands_of_requests(served):
    statuses = ask_all(served[2], 500)
    check_statuses(statuses)
    assert sum(sum(seen.values()) for seen in statuses.values()) >= 2_000, statuses


def test_the_document_asks_for_a_key_where_one_is_needed(served):
    locked = create_app(load_settings(served[0].root, api_keys="k1,k2"))
    locked.state.poller.poll()
    operations = [result.ok() for result in schemathesis.openapi.from_asgi("/openapi.json", locked).get_all_operations()]
    guarded = {o.label for o in operations if o.definition.raw.get("security")}
    assert guarded == {"POST /predict", "POST /predict/batch"}
    (predict,) = (o for o in operations if o.label == "POST /predict")

    @hypothesis.settings(max_examples=20, **REPEATABLE)
    @given(case=predict.as_strategy())
    def ask(case):
        case.headers = {**(case.headers or {}), "X-API-Key": "k2"}
        response = case.call()
        assert response.status_code == 200 or only_without_curves(response), response.text
        excluded = [CHECKS.get_one("positive_data_acceptance")] * only_without_curves(response)
        case.validate_response(response, excluded_checks=excluded or None)

    ask()
    locked.state.poller.stop()


def probabilities(scorer, applications):
    return [answer["probability_of_default"] for answer in scorer.score(applications)]


@pytest.mark.slow
def test_any_application_gets_one_probability(served):
    settings, trained, app = served
    scorer = app.state.poller.scorer
    pipeline, columns = trained.pipeline, trained.card["inputs"]["columns"]
    pyfunc = mlflow.pyfunc.load_model(f"models:/{settings.registered_model_name}/{trained.version}")

    @hypothesis.settings(max_examples=40, **REPEATABLE)
    @given(st.lists(drawn_applications(), min_size=1, max_size=12))
    def agree(drawn):
        own = probabilities(scorer, read_json_batch(json.dumps(drawn).encode(), 100).table)
        dated = [a if a.get("issue_d") else {**a, "issue_d": month_today()} for a in drawn]
        raw = application_frame(dated, columns)
        theirs = pipeline.predict_proba(raw)[:, 1]
        assert own == pytest.approx(theirs, abs=1e-6)
        alone = probabilities(scorer, read_application(json.dumps(drawn[0]).encode()))
        assert alone == pytest.approx(own[:1], abs=1e-6)

        frame = pd.DataFrame(raw)
        loaded = pyfunc.get_raw_model().predict_proba(frame)[:, 1]
        assert own == pytest.approx(loaded, abs=1e-6)
        clear = abs(loaded - scorer.threshold) > 1e-6
        decided = [answer["prediction"] for answer in scorer.score(drawn)]
        assert pyfunc.predict(frame)[clear].tolist() == [d for d, c in zip(decided, clear, strict=True) if c]

    agree()


ODD = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from(["36 months ", "10+  years", "Dec-2015", " dec-2015", "Dec-20१५", 10**400, 2**63, "x" * 1_001, {}, 0, -1])
    | st.sampled_from(["36m", 36, "5", "rent", "NA", "nan", r"\N", " 10.65%", "$1,234.50", "1,5,0", "1e3", "2015-12-01"])
)


def in_table(table) -> list[dict]:
    "The applications of a table, without what is missing."
    columns = dict(zip(NUMBER_FIELDS, table.block.tolist(), strict=True)) | table.columns
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [{name: value for name, value in row.items() if value is not None and value == value} for row in rows]


def accepted(read, *given):
    "What a reader makes of its input; None where it refuses."
    try:
        return read(*given)
    except RequestError:
        return None


@hypothesis.settings(max_examples=600, **REPEATABLE)
@given(drawn_applications(), st.dictionaries(st.sampled_from([*BY_NAME, "anual_inc", ""]), ODD, max_size=2))
def test_the_quick_and_the_general_reader_accept_the_same(application, odd):
    application = application | odd
    try:
        body = json.dumps(application, allow_nan=False).encode()
    except ValueError:
        return  # NaN
    checked = check_objects([json.loads(body)])  # what the general reader does with parsed JSON
    general = None if checked.wrong else in_table(checked.table)[0]
    one = accepted(read_application, body)
    assert (None if one is None else in_table(one)[0]) == general, application
    many = accepted(read_json_batch, b"[%b,%b]" % (body, body), 2)
    assert (None if many is None else in_table(many.table)) == (None if general is None else [general] * 2)
    # a backslash and a colon that is no name's send the body to the general reader
    escaped = accepted(read_application, body[:-1].rstrip(b" ") + b', "recoveries": "\\n:"}')
    if "recoveries" not in application:
        assert (None if escaped is None else in_table(escaped)[0]) == general
    partial = read_json_batch(b"[%b,%b]" % (body, json.dumps(EXAMPLE_APPLICATION).encode()), 2, True)
    assert list(partial.refused) == ([0] if general is None else []) and partial.table.n + len(partial.refused) == 2


def usual(name: str, value):
    "A value in the spelling that the document lists, by the rules that files are read by; itself where it has none."
    column = BY_NAME.get(name)
    if column is None or column.role == "excluded" or isinstance(value, bool):
        return value
    if column.kind == "category" and isinstance(value, int) and abs(value) < 1_000:
        value = str(value)
    if not isinstance(value, str) or len(value) > 100:
        return value
    if is_missing_text(value, column):
        return None
    read = parse_number_text(column, value) if column.kind == "number" else canonical(column, value)
    return value if read is None else read


@hypothesis.settings(max_examples=600, **REPEATABLE)
@given(drawn_applications(), st.dictionaries(st.sampled_from([*FIELDS, "anual_inc", ""]), ODD, max_size=2))
def test_the_document_and_the_checker_accept_the_same(application, odd):
    application = application | odd
    try:
        body = json.dumps(application, allow_nan=False).encode()
    except ValueError:
        return
    checked = check_objects([json.loads(body)])
    late = {Reason.AFTER_ISSUE, Reason.AFTER_TODAY}  # which no document can say
    wrong = any(checked.unknown) or any(reason not in late for reasons in checked.reasons.values() for reason in reasons.values())
    if DOCUMENT.is_valid(json.loads(body)):
        assert not wrong, application
    else:  # the document lists the usual spellings only: others that mean the same are accepted besides
        assert wrong or DOCUMENT.is_valid({name: usual(name, value) for name, value in application.items()}), application


DOCUMENT = jsonschema_rs.validator_for(application_schema())


@hypothesis.settings(max_examples=100, **REPEATABLE)
@given(st.lists(drawn_applications(), min_size=1, max_size=4))
def test_csv_reads_what_json_does(applications):
    texts = [{n: v for n, v in a.items() if v is not None and v != ""} for a in applications]
    texts = [{n: v if BY_NAME[n].kind == "number" else v.replace("\r", "") for n, v in a.items()} for a in texts]
    texts = [{n: v for n, v in a.items() if v != ""} for a in texts]
    as_json = read_json_batch(json.dumps(texts).encode(), 10).table
    assert in_table(read_csv_batch(some_csv(texts), 10).table) == in_table(as_json)


def test_the_document_shows_an_application_that_is_accepted(served):
    (example,) = served[2].openapi()["components"]["schemas"]["Application"]["examples"]
    assert example == EXAMPLE_APPLICATION and read_application(json.dumps(example).encode()).n == 1
