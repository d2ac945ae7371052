"""The settings `incomplete` and `inconsistent` over HTTP, with the newest version that the repository keeps."""

import csv
import io
import json
import tracemalloc

import pytest
from conftest import REPO
from fastapi.testclient import TestClient

from lending_club.core.schema import EXAMPLE_APPLICATION
from lending_club.core.settings import scratch_settings
from lending_club.serving.app import create_app
from lending_club.serving.gate import Gate
from lending_club.serving.refusals import MAX_ERRORS, RequestError
from lending_club.serving.requests import read_json_batch
from lending_club.serving.scorer import Scorer

USUAL = {"fico_range_low": 700, "fico_range_high": 704, "delinq_2yrs": 0, "inq_last_6mths": 0, "disbursement_method": "Cash"}
WHOLE = EXAMPLE_APPLICATION | USUAL  # has all fields that practically every training loan had
GAPS = {name: value for name, value in WHOLE.items() if name not in ("dti", "revol_util")} | {"id": "gaps"}
DOUBTFUL = WHOLE | {"installment": 500, "id": "doubtful"}
BATCH = [WHOLE, GAPS, DOUBTFUL]
MINIMAL = {"loan_amnt": 5000, "term": "36 months", "annual_inc": 50_000}
PARTIAL = "/predict/batch?partial=true"


@pytest.fixture(scope="module")
def scorer():
    return Scorer.load(REPO / "tests" / "golden" / "0.3.0", "1")


@pytest.fixture(scope="module")
def client_with(scorer):
    "A function from settings to a client of an app with the golden version as its champion."

    def make(**settings) -> TestClient:
        app = create_app(scratch_settings(**settings))
        app.state.poller.scorer = scorer
        return TestClient(app)

    return make


def as_csv(applications: list[dict]) -> dict:
    "What a client sends of applications as CSV."
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for one in applications for name in one)))
    writer.writeheader()
    writer.writerows(applications)
    return {"content": text.getvalue().encode(), "headers": {"Content-Type": "text/csv"}}


def as_json(applications: list[dict]) -> dict:
    return {"json": applications}


both_forms = pytest.mark.parametrize("form", [as_json, as_csv])


# --- incomplete ---


@both_forms
def test_by_default_gaps_are_imputed_and_named(client_with, form):
    client = client_with()
    single = [client.post("/predict", json=one).json() for one in BATCH]
    for answers in (single, client.post("/predict/batch", **form(BATCH)).json()):
        assert [sorted(answer["imputed"]) for answer in answers] == [[], ["dti", "revol_util"], []]
        assert all(answer["decision"] != "refer" and "referred_for" not in answer for answer in answers)


@both_forms
def test_an_incomplete_application_is_referred(client_with, form):
    client, plain = client_with(incomplete="refer"), client_with()
    single = [client.post("/predict", json=one) for one in BATCH]
    assert [answer.status_code for answer in single] == [200] * 3
    for path in ("/predict/batch", PARTIAL):
        answers = client.post(path, **form(BATCH)).json()
        assert [answer["decision"] == "refer" for answer in answers] == [False, True, False]
        same = plain.post(path, **form(BATCH)).json()
        assert answers == [same[0], same[1] | {"decision": "refer", "referred_for": ["usual fields are missing"]}, same[2]]
    assert [answer.json()["decision"] == "refer" for answer in single] == [False, True, False]


def test_an_incomplete_application_is_refused(client_with):
    client = client_with(incomplete="refuse")
    assert client.post("/predict", json=WHOLE).status_code == 200
    refusal = client.post("/predict", json=GAPS)
    assert refusal.status_code == 422 and refusal.json()["detail"] == "the application is refused for 2 reasons"
    assert sorted(refusal.json()["errors"], key=lambda error: error["field"]) == [
        {"field": name, "value": None, "message": "this field is needed for a decision"} for name in ("dti", "revol_util")
    ]


@both_forms
def test_a_batch_with_an_incomplete_application_is_refused_in_whole_or_in_part(client_with, form):
    client = client_with(incomplete="refuse")
    whole = client.post("/predict/batch", **form(BATCH))
    assert whole.status_code == 422 and whole.json()["detail"] == "1 of 3 applications are refused"
    assert [(error["index"], error["field"]) for error in whole.json()["errors"]] in (
        [(1, "dti"), (1, "revol_util")],
        [(1, "revol_util"), (1, "dti")],
    )
    answer = client.post(PARTIAL, **form(BATCH))
    assert answer.status_code == 200
    first, second, third = answer.json()
    assert second["id"] == "gaps" and second["error"] == {
        "detail": "the application is refused for 2 reasons",
        "errors": whole.json()["errors"],
    }
    assert first["imputed"] == third["imputed"] == [] and third["id"] == "doubtful" and third["inconsistent"]


# --- inconsistent ---


@both_forms
def test_a_contradiction_is_named_or_refused(client_with, form):
    named, strict = client_with(), client_with(inconsistent="refuse")
    single = [client.post("/predict", json=DOUBTFUL) for client in (named, strict)]
    assert [answer.status_code for answer in single] == [200, 422]
    (found,) = single[0].json()["inconsistent"]
    assert found["fields"] == ["installment", "loan_amnt", "int_rate", "term"]
    assert single[1].json()["errors"] == [{"field": "installment", "message": found["message"]}]
    assert ["inconsistent" in answer for answer in named.post("/predict/batch", **form(BATCH)).json()] == [False, False, True]
    whole = strict.post("/predict/batch", **form(BATCH))
    assert whole.status_code == 422 and whole.json()["detail"] == "1 of 3 applications are refused"
    line = {"line": 4} if form is as_csv else {}
    assert whole.json()["errors"] == [{"index": 2, **line, "field": "installment", "message": found["message"]}]
    answers = strict.post(PARTIAL, **form(BATCH)).json()
    assert ["error" in answer for answer in answers] == [False, False, True]
    assert answers[2]["id"] == "doubtful" and answers[2]["error"]["errors"] == whole.json()["errors"]


@both_forms
def test_all_kinds_of_refusals_keep_their_places(client_with, form):
    client = client_with(incomplete="refuse", inconsistent="refuse")
    unusable = {"id": "unusable", "loan_amnt": 1}
    twice = {name: value for name, value in DOUBTFUL.items() if name != "dti"}
    batch = [unusable, GAPS, WHOLE, DOUBTFUL, unusable, WHOLE, twice]
    answers = client.post(PARTIAL, **form(batch)).json()
    errors = [sorted(error["field"] for error in answer.get("error", {}).get("errors", [])) for answer in answers]
    wrong = ["annual_inc", "loan_amnt", "term"]
    assert errors == [wrong, ["dti", "revol_util"], [], ["installment"], wrong, [], ["dti", "installment"]]
    for place, answer in enumerate(answers):
        where = (place, place + 2 if form is as_csv else None)
        assert {(error["index"], error.get("line")) for error in answer.get("error", {}).get("errors", [])} <= {where}


# --- unusual values ---


def test_a_value_far_outside_the_usual_range_is_named(client_with):
    "The range is that of 99.8 % of the training loans; a tenfold low income is still within it."
    client = client_with()
    earner = WHOLE | {"annual_inc": 65_000}
    assert "unusual" not in client.post("/predict", json=earner).json()
    ten_times = earner | {"annual_inc": 650_000}
    assert client.post("/predict", json=ten_times).json()["unusual"] == ["annual_inc"]
    for form in (as_json, as_csv):
        answers = client.post("/predict/batch", **form([earner, ten_times, WHOLE])).json()
        assert [answer.get("unusual") for answer in answers] == [None, ["annual_inc"], None]


# --- what a large batch costs ---


@pytest.mark.parametrize("partial", [False, True])
def test_at_most_a_thousand_errors_are_built(scorer, partial):
    "10,000 applications that lack 26 fields each, and contradict themselves, are counted and not explained."
    row = MINIMAL | {"installment": 500, "int_rate": 10.0, "fico_range_low": 700, "fico_range_high": 690}
    batch, gate = read_json_batch(json.dumps([row] * 10_000).encode(), 10_000), Gate("refuse", "refuse")
    tracemalloc.start()
    try:
        errors = refused_by(gate, scorer, batch, partial)
        highest = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(errors) == MAX_ERRORS and highest < 30e6


def refused_by(gate, scorer, batch, partial: bool) -> list[dict]:
    "All errors that are listed, checked to be in the order of the applications."
    if partial:
        rest = gate.check_batch(scorer, batch, True)
        assert rest.table.n == 0 and len(rest.refused) == batch.table.n
        assert all(int(str(error).split()[-2]) > 20 for error in rest.refused.values())
        errors = [error for one in rest.refused.values() for error in one.errors or ()]
    else:
        with pytest.raises(RequestError, match="10000 of 10000 applications are refused") as caught:
            gate.check_batch(scorer, batch, False)
        errors = caught.value.errors
    places = [error["index"] for error in errors]
    assert places == sorted(places)
    return errors


def test_errors_of_a_request_are_bounded_together(client_with):
    "Those of unusable applications and those by setting."
    client = client_with(incomplete="refuse")
    answers = client.post(PARTIAL, json=[MINIMAL, {}] * 1_000).json()
    assert len(answers) == 2_000 and all("error" in answer for answer in answers)
    assert sum(len(answer["error"].get("errors", ())) for answer in answers) == MAX_ERRORS
    one = client.post(PARTIAL, json=[{}] * 100 + [MINIMAL] * 100).json()
    assert [len(answer["error"].get("errors", ())) for answer in one[:100]] == [3] * 100
    assert sum(len(answer["error"].get("errors", ())) for answer in one[100:]) == MAX_ERRORS - 300
