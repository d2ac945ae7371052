"""Cumulative curves from the graph to the answer: of a version that has them, and of those that have none."""

import asyncio
import csv
import io
import json
from pathlib import Path

import httpx
import jsonschema_rs
import numpy as np
import pytest
from fastapi.testclient import TestClient

from lending_club.core.compiled import CompiledModel
from lending_club.core.curve_example import version_with_curves
from lending_club.core.graph import ExportError, Graph
from lending_club.core.schema import EXAMPLE_APPLICATION
from lending_club.core.settings import scratch_settings
from lending_club.serving.app import create_app
from lending_club.serving.scorer import NoCurvesError, Scorer, ServingError, read_files

GOLDEN = Path(__file__).parent / "golden"
RELEASES = ("0.1.0", "0.2.0", "0.3.0")  # which had no curves
SMALLEST = {"loan_amnt": 5000, "term": "36 months", "annual_inc": 50_000, "issue_d": "Jan-2015"}
CURVES = {"cumulative_pd", "cumulative_payoff"}


@pytest.fixture(scope="module")
def content():
    "The files of a version with curves."
    return version_with_curves(read_files(GOLDEN / "0.3.0"))


@pytest.fixture(scope="module")
def applications(content):
    return [example["application"] for example in json.loads(content["examples.json"])["examples"]]


def client_of(scorer: Scorer, **settings) -> TestClient:
    "A client of an app whose champion is this version; no poller starts, as it is not entered."
    app = create_app(scratch_settings(**settings))
    app.state.poller.scorer = scorer
    return TestClient(app)


@pytest.fixture(scope="module")
def client(content):
    return client_of(Scorer.from_content(content, "8"), max_batch_rows=100)


@pytest.fixture(scope="module")
def plain():
    return client_of(Scorer.load(GOLDEN / "0.3.0", "3"))


def check_curves(answer: dict, term: int):
    "An answer's curves have the term's length, rise, end at the PD, and leave room for loans that run to their end."
    pd, payoff = answer["cumulative_pd"], answer["cumulative_payoff"]
    assert len(pd) == len(payoff) == term
    assert pd == sorted(pd) and payoff == sorted(payoff) and pd[0] >= 0 and payoff[0] >= 0
    assert pd[-1] == answer["probability_of_default"]
    assert all(a + b <= 1 + 2e-7 for a, b in zip(pd, payoff, strict=True))
    assert all(value == round(value, 7) for value in pd + payoff)


def term_of(application: dict) -> int:
    return 60 if "60" in application["term"] else 36


def test_the_curve_ends_at_the_pd(content, applications):
    compiled = CompiledModel(json.loads(content["encoder.json"]), content["model.onnx"])
    pds, cumulative = compiled.probabilities_and_cumulative(applications)
    assert cumulative.shape == (len(applications), 60, 2) and cumulative.dtype == np.float64
    at_term = cumulative[range(len(applications)), [term_of(a) - 1 for a in applications], 0]
    np.testing.assert_allclose(at_term, compiled.probabilities(applications), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(pds, compiled.probabilities(applications))
    assert np.ptp(pds) > 0.3 and {term_of(a) for a in applications} == {36, 60}
    for few in (applications[:1], applications[:3], applications[:7]):  # alone, a few one by one, and as arrays
        np.testing.assert_allclose(compiled.cumulative(few), cumulative[: len(few)], rtol=0, atol=1e-6)


@pytest.mark.parametrize("release", RELEASES)
def test_an_older_version_has_no_curves(release):
    files = read_files(GOLDEN / release)
    graph = Graph(files["model.onnx"])
    assert not graph.has_curves
    with pytest.raises(ExportError, match="target = final_status or by an earlier release; train .* target = time_to_event"):
        graph.run_cumulative(np.zeros((1, graph.width), np.float32))
    scorer = Scorer.load(GOLDEN / release, "5")
    with pytest.raises(NoCurvesError, match="version 5 has no cumulative curves: leave out curve=true, or promote"):
        scorer.score([SMALLEST], curve=True)
    assert not CURVES & set(scorer.score([SMALLEST])[0])


def test_each_answer_has_its_curves(content, applications):
    scorer = Scorer.from_content(content, "8")
    answers = scorer.score(applications, curve=True)
    for application, answer, without in zip(applications, answers, scorer.score(applications), strict=True):
        check_curves(answer, term_of(application))
        assert {name: value for name, value in answer.items() if name not in CURVES} == without


def test_a_version_whose_curves_end_elsewhere_is_refused(content):
    tables, examples = json.loads(content["encoder.json"]), json.loads(content["examples.json"])
    tables["calibration"]["intercept"] = 0.01
    pds = CompiledModel(tables, content["model.onnx"]).probabilities([e["application"] for e in examples["examples"]])
    for example, pd in zip(examples["examples"], pds.tolist(), strict=True):
        example["probability_of_default"] = pd
    shifted = {"encoder.json": json.dumps(tables).encode(), "examples.json": json.dumps(examples).encode()}
    with pytest.raises(ServingError, match="version 8 contradicts itself: the curve of example .* train and register it anew"):
        Scorer.from_content({**content, **shifted}, "8")


@pytest.mark.parametrize("term", [36, 60])
def test_one_application(client, term):
    application = EXAMPLE_APPLICATION | {"term": f"{term} months", "id": "A-17"}
    answer = client.post("/predict?curve=true", json=application)
    assert answer.status_code == 200, answer.text
    check_curves(answer.json(), term)
    for path in ("/predict", "/predict?curve=false"):
        without = client.post(path, json=application)
        assert without.json() == {name: value for name, value in answer.json().items() if name not in CURVES}
    large = client.post("/predict?curve=true", content=json.dumps(application).ljust(2**14).encode())  # read in a thread
    assert large.json() == answer.json()


def as_csv(applications: list[dict]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, sorted({name for application in applications for name in application}))
    writer.writeheader()
    writer.writerows(applications)
    return text.getvalue().encode()


def test_json_and_csv_batches(client):
    batch = [SMALLEST | {"term": f"{term} months", "id": str(term)} for term in (60, 36, 60, 36, 36, 60, 36)]
    as_json = client.post("/predict/batch?curve=true", json=batch)
    table = client.post("/predict/batch?curve=true", content=as_csv(batch), headers={"content-type": "text/csv"})
    assert as_json.status_code == table.status_code == 200 and as_json.json() == table.json()
    for application, answer in zip(batch, as_json.json(), strict=True):
        check_curves(answer, int(application["id"]))
    assert not any(CURVES & set(answer) for answer in client.post("/predict/batch?partial=true", json=batch).json())
    assert client.post("/predict/batch?curve=true", json=[]).json() == []


def test_a_partial_batch_keeps_places(client):
    answer = client.post("/predict/batch?curve=true&partial=true", json=[SMALLEST, {"loan_amnt": 1, "id": 7}, SMALLEST])
    first, refused, last = answer.json()
    assert set(refused) == {"error", "id"} and first == last
    check_curves(first, 36)


MISSPELT = ("curve=1", "curve=", "curve", "curve=True", "curve=true&curve=true", "curves=true", "CURVE=true")


@pytest.mark.parametrize("query", MISSPELT)
def test_a_misspelt_flag_is_refused(client, query):
    shown = "unknown query parameter" if query.startswith(("curves", "CURVE")) else "send curve=true or curve=false"
    for path, body in (("/predict", SMALLEST), ("/predict/batch", [SMALLEST])):
        answer = client.post(f"{path}?{query}", json=body)
        assert answer.status_code == 422 and shown in answer.json()["detail"], answer.text


def test_other_parameters_of_a_single_request_are_ignored_as_before(client):
    assert client.post("/predict?who=somebody&trace=1", json=SMALLEST).status_code == 200
    assert client.post("/predict/batch?who=somebody", json=[SMALLEST]).status_code == 422


def test_curves_of_a_version_without_them(plain):
    requests = [("/predict", SMALLEST), ("/predict/batch", [SMALLEST]), ("/predict/batch", [])]
    for path, body in requests:
        answer = plain.post(f"{path}?curve=true", json=body)
        assert answer.status_code == 422
        assert answer.json() == {
            "detail": "version 3 has no cumulative curves: leave out curve=true, or promote a version trained with "
            "target = time_to_event"
        }
        assert plain.post(path, json=body).status_code == plain.post(f"{path}?curve=false", json=body).status_code == 200
    partial = plain.post("/predict/batch?curve=true&partial=true", json=[SMALLEST])
    assert partial.status_code == 422  # the request as a whole, not each application


def test_the_contract_names_flag_and_fields(client):
    document = client.get("/openapi.json").json()
    names = {path: [p["name"] for p in document["paths"][path]["post"]["parameters"]] for path in ("/predict", "/predict/batch")}
    assert names == {"/predict": ["curve", "money"], "/predict/batch": ["partial", "curve", "money"]}
    decision = document["components"]["schemas"]["Decision"]
    assert set(decision["properties"]) >= CURVES and not CURVES & set(decision["required"])
    holds = jsonschema_rs.validator_for({"$ref": "#/components/schemas/Decision", "components": document["components"]})
    for path in ("/predict", "/predict?curve=true"):
        holds.validate(client.post(path, json=EXAMPLE_APPLICATION).json())


def test_requests_with_and_without_curves_in_one_turn(content):
    app = create_app(scratch_settings())
    app.state.poller.scorer = Scorer.from_content(content, "8")

    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as asking:
            paths = ["/predict?curve=true", "/predict"] * 8
            return await asyncio.gather(*(asking.post(path, json=SMALLEST) for path in paths))

    answers = [answer.json() for answer in asyncio.run(ask())]
    assert [CURVES <= set(answer) for answer in answers] == [True, False] * 8
    assert len({round(answer["probability_of_default"], 6) for answer in answers}) == 1
