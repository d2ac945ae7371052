"""What the service says over HTTP: to requests of every kind, to whoever operates it, and when it is told to go."""

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import COMMAND, answers, free_port, lending_club, process, wait_until, without_pd
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, generate_latest

from lending_club.core.applications import as_applications
from lending_club.core.registry import connect, download_version
from lending_club.core.schema import BY_NAME, EXAMPLE_APPLICATION
from lending_club.promote import promote
from lending_club.serving.app import create_app
from lending_club.serving.observability import BatchHistogram
from lending_club.serving.scorer import Scorer
from lending_club.serving.webhook import sign_webhook

BODY = json.dumps(EXAMPLE_APPLICATION).encode()
SMALLEST = {"loan_amnt": 5000, "term": "36 months", "annual_inc": 50_000}


@pytest.fixture(scope="module")
def champion(stock, tmp_path_factory):
    "A project with a champion; settings and what was trained."
    settings = stock.copy_to(tmp_path_factory.mktemp("api") / "project")
    promote(settings)
    return settings, stock.first


@pytest.fixture(scope="module")
def client(champion):
    with TestClient(create_app(replace(champion[0], max_batch_rows=50, webhook_secret="s3cret"))) as client:
        wait_until(lambda: client.get("/ready").status_code == 200, what="the champion")
        yield client


def served(champion, tmp_path, *words, **environment):
    "`lending-club serve` as a process; yields the process, its port and its log."
    port, log = free_port(), tmp_path / "serve.log"
    running = process(COMMAND, "serve", "--port", port, *words, cwd=champion[0].root, log=log, **environment)
    return running, port, log


def ready(port: int, log):
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/ready"), what=f"the service ({log})")


def raw(port: int, *parts: bytes, pause: float = 0.05, half_close: bool = False) -> tuple[int, bytes]:
    "The first answer to these bytes, sent one after the other: status and body."
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
        except http.client.HTTPException:  # the connection was closed without an answer
            return 0, b""
        return response.status, response.read()


def post(port: int, path: str, body: bytes, **headers) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    return response.status, json.load(response)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "empty"),
        (b"\xff\xfe{", 400, "the body is UTF-16"),
        ("{}".encode("utf-16"), 400, "the body is UTF-16"),
        (b'{"loan_amnt": NaN}', 400, "not valid JSON"),
        (b'{"loan_amnt": Infinity}', 400, "not valid JSON"),
        (b'{"loan_amnt":' * 50_000, 400, "recursion"),
        (b"[" * 200_000, 400, "recursion"),
        (b'{"id": "\\ud800"}', 400, "not valid JSON"),
        (b'{"id": "\x00"}', 400, "control character"),
        (b'{"term": 1, "term": 2}', 400, "'term' occurs twice"),
        (json.dumps(SMALLEST).encode()[:-1] + b', "loan_amnt": 9000}', 400, "'loan_amnt' occurs twice"),
        (b"[]", 422, "not an array"),
        (b"null", 422, "not null"),
        (b"1e999", 422, "not a number"),
        (b"{}", 422, "3 fields"),
        (json.dumps(SMALLEST | {"dti": 10**30}).encode(), 422, "1 field"),
        (json.dumps(SMALLEST).encode().replace(b"5000,", b"5" + b"0" * 10_000 + b","), 0, ""),
        (json.dumps(SMALLEST).encode().replace(b"5000,", b"1e999,"), 0, ""),
        (json.dumps(SMALLEST | {"issue_d": "12/1/2015"}).encode(), 422, "1 field"),
        (json.dumps(SMALLEST | {"issue_d": "Dec-2015", "earliest_cr_line": "Jan-2016"}).encode(), 422, "1 field"),
        (json.dumps(SMALLEST | {"id": [1]}).encode(), 422, "1 field"),
        (json.dumps(SMALLEST | {"purpose": "x" * 10_000_000}).encode(), 422, "1 field"),
        (json.dumps({f"field{i}": i for i in range(500_000)}).encode(), 422, "more than 1,000 values"),
        (json.dumps(SMALLEST | {"x" * 1_000_000: 1}).encode(), 422, "1 field"),
        (b" " * (16 * 2**20 + 1), 413, "16 MiB"),
    ],
    ids=lambda value: str(value)[:25],
)
def test_body_that_cannot_be_used(client, body, status, reason):
    answer = client.post("/predict", content=body)
    assert answer.status_code == status or (not status and 400 <= answer.status_code < 500), answer.text[:300]
    assert reason in answer.json()["detail"]
    assert len(answer.content) < 100_000
    body = body if body.strip() else body + b"-"  # an array of nothing would be right
    batch = client.post("/predict/batch", content=b"[" + body + b"]")
    assert 400 <= batch.status_code < 500 and batch.json()["detail"]
    partial = client.post("/predict/batch?partial=true", content=b"[" + body + b"]")
    assert partial.status_code < 500
    json.loads(partial.text, parse_constant=pytest.fail)  # NaN


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": "image/svg+json"}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"content-type": "text/csv"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"content-encoding": "br, gzip"}, 415),
        ({"content-type": "application/json; charset=UTF-8"}, 200),
        ({"content-type": "application/vnd.loan+json"}, 200),
        ({"content-encoding": "identity"}, 200),
        ({"content-type": "application/x-www-form-urlencoded"}, 200),
    ],
    ids=str,
)
def test_content_types(client, headers, status):
    answer = client.post("/predict", content=BODY, headers=headers)
    assert answer.status_code == status, answer.text
    assert status == 200 or answer.json()["detail"]


def test_errors_are_named_with_value_allowed_and_nearest_name(client):
    application = SMALLEST | {"anual_inc": 1, "grade": "Z", "dti": "twelve", "total_pymnt": 5, "recoveries": "anything"}
    answer = client.post("/predict", json=application)
    errors = {error["field"]: error for error in answer.json()["errors"]}
    assert answer.status_code == 422 and set(errors) == {"anual_inc", "grade", "dti"}
    assert errors["anual_inc"]["message"] == "unknown field. Did you mean 'annual_inc'?"
    assert errors["grade"]["value"] == "Z" and errors["grade"]["allowed"] == "one of A, B, C, D, E, F, G"
    assert errors["dti"]["allowed"] == BY_NAME["dti"].allowed


def test_what_happened_after_the_decision_changes_nothing(client):
    alone = client.post("/predict", json=SMALLEST).json()
    assert client.post("/predict", json=SMALLEST | {"total_pymnt": 5, "loan_status": {"deep": [1]}}).json() == alone
    both = client.post("/predict/batch", json=[SMALLEST, SMALLEST | {"recoveries": 1}]).json()
    assert close(both, [alone, alone])


@pytest.mark.parametrize("given", [17, "A-17", "", "ü\u0000\u2028", -(2**63)], ids=repr)
def test_id_comes_back(client, given):
    assert client.post("/predict", json=SMALLEST | {"id": given}).json()["id"] == given
    assert client.post("/predict/batch", json=[SMALLEST | {"id": given}]).json()[0]["id"] == given


def test_csv_and_json_and_single_agree(client, champion):
    loans = champion[1].splits.test[champion[1].card["inputs"]["columns"]].head(40)
    applications = as_applications(loans, loans.columns)
    single = [client.post("/predict", json=application).json() for application in applications]
    assert close(client.post("/predict/batch", json=applications).json(), single)
    table = loans.to_csv(index=False).encode()
    assert close(client.post("/predict/batch", content=table, headers={"content-type": "text/csv"}).json(), single)


def close(some: list[dict], others: list[dict]) -> bool:
    "Whether answers are the same; a graph that gets more rows at once may differ in the last digits."
    return len(some) == len(others) and all(
        a["probability_of_default"] == pytest.approx(b["probability_of_default"], abs=1e-6) and without_pd(a) == without_pd(b)
        for a, b in zip(some, others, strict=True)
    )


def test_csv_errors_name_lines(client):
    table = (
        "id,loan_amnt,term,annual_inc,title\r\n"
        '1,5000,36 months,50000,"two\r\nlines"\r\n'
        "2,5000,36 months,\r\n"
        "\r\n"
        '3,"5,00",48 months,50000,\r\n'
    )
    ask = {"content": table.encode(), "headers": {"content-type": "text/csv; charset=utf-8"}}
    whole = client.post("/predict/batch", **ask)
    assert whole.status_code == 422 and whole.json()["detail"] == "2 of 3 applications cannot be used"
    assert [(f["index"], f["line"], f.get("field")) for f in whole.json()["errors"]] == [
        (1, 4, None),
        (2, 6, "loan_amnt"),
        (2, 6, "term"),
    ]
    partial = client.post("/predict/batch?partial=true", **ask)
    assert partial.status_code == 200
    first, second, third = partial.json()
    assert first["id"] == "1" and 0 < first["probability_of_default"] < 1
    assert "4 cells, where the header has 5" in second["error"]["detail"]
    assert third["id"] == "3" and {f["field"] for f in third["error"]["errors"]} == {"loan_amnt", "term"}


def test_csv_header(client):
    def ask(header):
        return client.post("/predict/batch", content=header + b"\n", headers={"content-type": "text/csv"})

    errors = {f["field"]: f["message"] for f in ask(b"loan_amnt,term,anual_inc,term").json()["errors"]}
    assert errors["anual_inc"] == "unknown field. Did you mean 'annual_inc'?"
    assert errors["term"] == "this field occurs twice in the header" and "required" in errors["annual_inc"]
    assert ask(b"loan_amnt,term,annual_inc,total_pymnt").json() == []
    assert ask(b"").status_code == 400


def test_partial_batch_keeps_places(client):
    batch = [SMALLEST, {"loan_amnt": 1, "id": 7}, 5, SMALLEST | {"id": "x"}]
    answer = client.post("/predict/batch?partial=true", json=batch)
    assert answer.status_code == 200
    good, bad, number, last = answer.json()
    assert good["label"] and last["id"] == "x" and bad["id"] == 7
    assert {f["field"] for f in bad["error"]["errors"]} == {"loan_amnt", "term", "annual_inc"}
    assert number == {
        "error": {
            "detail": "an application must be a JSON object of raw fields, not a number",
            "errors": [{"index": 2, "message": "an application must be a JSON object of raw fields, not a number"}],
        }
    }
    whole = client.post("/predict/batch?partial=false", json=batch)
    assert whole.status_code == 422 and {f["index"] for f in whole.json()["errors"]} == {1, 2}
    for query in ("partial=1", "partial=", "partial=true&partial=false", "partal=true", "PARTIAL=true"):
        assert client.post(f"/predict/batch?{query}", json=batch).status_code == 422, query


def test_limits_of_a_batch(client):
    assert len(client.post("/predict/batch", json=[SMALLEST] * 50).json()) == 50
    for body, kind in (
        (json.dumps([SMALLEST] * 51), "application/json"),
        ("loan_amnt,term,annual_inc\n" + "1,2,3\n" * 51, "text/csv"),
    ):
        answer = client.post("/predict/batch", content=body, headers={"content-type": kind})
        assert answer.status_code == 413 and "more than 50 applications" in answer.json()["detail"]


def test_a_thousand_errors_are_enough(champion):
    with TestClient(create_app(champion[0])) as client:
        wait_until(lambda: client.get("/ready").status_code == 200, what="the champion")
        awful = [{f"name{i}{j}": "x" for j in range(100)} for i in range(9_000)]
        answer = client.post("/predict/batch", json=awful)
        assert answer.status_code == 422 and answer.json()["detail"].startswith("at least ")
        assert len(answer.json()["errors"]) == 1_000
        partial = client.post("/predict/batch?partial=true", json=awful)
        assert partial.status_code == 200 and len(partial.json()) == 9_000 and len(partial.content) < 5_000_000


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_the_contract_can_be_read_without_the_internet(client, page):
    html = client.get(page).text
    parts = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert len(parts) >= 2 and not re.search(r"https?://", html), parts
    for part in parts:
        assert client.get(part).status_code == 200, part


def test_request_ids(client):
    assert client.get("/health", headers={"X-Request-ID": "a-1.b_c:/+="}).headers["x-request-id"] == "a-1.b_c:/+="
    for odd in ("", "x" * 101, "with space", "ü".encode("latin-1")):
        made = client.post("/predict", content=b"", headers={"X-Request-ID": odd}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{16}", made)
    assert client.get("/nowhere").headers["x-request-id"] != client.get("/nowhere").headers["x-request-id"]


def test_what_breaks_is_answered_and_told_without_data(champion, caplog):
    class Broken:
        version = "9"

        def score(self, applications, curve=False, money=False):
            raise KeyError(f"no {applications.ids()[0]}")

    app = create_app(champion[0])
    app.state.poller.scorer = Broken()
    client = TestClient(app)  # no lifespan: nothing replaces it
    for path, body in (("/predict", SMALLEST | {"id": "Zweig"}), ("/predict/batch", [SMALLEST | {"id": "Zweig"}])):
        answer = client.post(path, json=body, headers={"X-Request-ID": "r-1"})
        assert answer.status_code == 500 and "r-1" in answer.json()["detail"]
        assert answer.headers["x-request-id"] == "r-1"
    (first, _) = (r for r in caplog.records if r.levelname == "ERROR")
    assert first.fields["error"] == "KeyError" and any("test_api.py" in place for place in first.fields["at"])
    assert "Zweig" not in caplog.text and "Zweig" not in str([r.__dict__ for r in caplog.records])


def test_contradictions_are_named_or_refused(champion):
    doubtful = EXAMPLE_APPLICATION | {"installment": 500, "id": "d"}
    strict = create_app(replace(champion[0], inconsistent="refuse"))
    strict.state.poller.poll()
    clients = TestClient(create_app(champion[0])), TestClient(strict)
    clients[0].app.state.poller.poll()
    named, refused = (client.post("/predict", json=doubtful) for client in clients)
    assert (named.status_code, refused.status_code) == (200, 422)
    (only,) = named.json()["inconsistent"]
    assert only["fields"] == ["installment", "loan_amnt", "int_rate", "term"] and "installment is 500.00" in only["message"]
    assert refused.json()["detail"] == "the application is refused for 1 reason"
    assert refused.json()["errors"] == [{"field": "installment", "message": only["message"]}]
    batch = [EXAMPLE_APPLICATION, doubtful]
    named, refused = (client.post("/predict/batch", json=batch) for client in clients)
    assert ["inconsistent" in answer for answer in named.json()] == [False, True]
    assert refused.status_code == 422 and refused.json()["detail"] == "1 of 2 applications are refused"
    assert refused.json()["errors"] == [{"index": 1, "field": "installment", "message": only["message"]}]
    first, second = clients[1].post("/predict/batch?partial=true", json=batch).json()
    assert "probability_of_default" in first and second["id"] == "d"
    assert second["error"]["errors"][0]["message"] == only["message"]


def test_two_apps_count_for_themselves(champion):
    some, other = (TestClient(create_app(champion[0])) for _ in range(2))
    some.get("/health")
    line = 'lending_club_requests_total{path="/health",status="200"} 1.0'
    assert line in some.get("/metrics").text and line not in other.get("/metrics").text
    some.get("/a-path-of-nobody")
    assert 'path="other",status="404"' in some.get("/metrics").text


def test_metrics_follow_predictions(champion):
    with TestClient(create_app(replace(champion[0], cache_champion=False))) as client:
        wait_until(lambda: client.get("/ready").status_code == 200, what="the champion")
        version = client.post("/predict", json=SMALLEST).json()["model_version"]
        client.post("/predict/batch?partial=true", json=[SMALLEST] * 4 + [{}])
        page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    counts = re.findall(rf'lending_club_predictions_total{{label="\w+ Loan",model_version="{version}"}} (\d+)', page.text)
    assert sum(map(int, counts)) == 5
    assert f'lending_club_probability_of_default_count{{model_version="{version}"}} 5.0' in page.text
    assert 'lending_club_polls_total{outcome="swapped"} 1.0' in page.text
    assert f'lending_club_champion{{model_version="{version}"}} 1.0' in page.text


@pytest.mark.parametrize("n", [0, 1, 2, 1_000])
def test_many_values_count_as_one_by_one(n):
    "`BatchHistogram` uses private parts of prometheus-client: this fails when they change."
    values = np.concatenate([np.random.default_rng(n).beta(1, 5, n), [0.02, 0.5, 1.0, 0.0][:n]])
    pages = []
    for many in (True, False):
        registry = CollectorRegistry()
        histogram = BatchHistogram("pd", "PDs", ["version"], registry=registry, buckets=(0.02, 0.1, 0.5, 1.0)).labels("7")
        if many:
            histogram.observe_many(values[: n // 2])
            histogram.observe_many(values[n // 2 :])
        else:
            for value in values.tolist():
                histogram.observe(value)
        lines = generate_latest(registry).decode().splitlines()
        pages.append({name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith("pd_"))})
    created = {name for name in pages[0] if "created" in name}
    assert len(pages[0]) - len(created) == 7
    assert {k: v for k, v in pages[0].items() if k not in created} == pytest.approx(
        {k: v for k, v in pages[1].items() if k not in created}
    )


def test_webhook(client, champion):
    settings, poller = champion[0], client.app.state.poller
    data = {"name": settings.registered_model_name, "alias": settings.champion_alias, "version": "1"}

    def call(data, secret="s3cret"):
        body = json.dumps({"entity": "model_version_alias", "action": "created", "data": data}).encode()
        now = str(int(time.time()))
        headers = {"X-MLflow-Delivery-Id": "d1", "X-MLflow-Timestamp": now}
        return client.post(
            "/webhook", content=body, headers=headers | {"X-MLflow-Signature": sign_webhook(secret, "d1", now, body)}
        )

    woken = []
    poller.wake, wake = lambda: woken.append(1), poller.wake
    try:
        assert call(data).status_code == 204 and woken == [1]
        for other in (data | {"name": "another"}, data | {"alias": "candidate"}, {}, None, [1]):
            assert call(other).status_code == 204 and woken == [1]
    finally:
        poller.wake = wake
    forged = call(data, "another")
    assert forged.status_code == 401 and "signature" in forged.json()["detail"]
    assert client.post("/webhook", json=data).status_code == 401
    assert TestClient(create_app(settings)).post("/webhook", json=data).status_code == 404


def test_keys(champion):
    with TestClient(create_app(replace(champion[0], api_keys="first, zwölf"))) as client:
        wait_until(lambda: client.get("/ready").status_code == 200, what="the champion")
        for path in ("/health", "/metrics", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
        for path, body in (("/predict", SMALLEST), ("/predict/batch", [SMALLEST])):
            for key in (None, b"", b"firs", b"first,", b"first, zw\xc3\xb6lf", b"\xff"):
                answer = client.post(path, json=body, headers={} if key is None else {"X-API-Key": key})
                assert answer.status_code == 401 and "X-API-Key" in answer.json()["detail"]
                assert answer.headers["www-authenticate"]
            for key in (b"first", "zwölf".encode()):
                assert client.post(path, json=body, headers={"X-API-Key": key}).status_code == 200


def test_on_the_wire(champion, tmp_path):
    running, port, log = served(champion, tmp_path, MAX_BODY_MIB="0.5")
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with running:
        ready(port, log)
        half = len(BODY) // 2
        chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:half], BODY[half:])]
        status, body = raw(port, head + b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n")
        assert status == 200 and json.loads(body)["label"]

        big = b"%x\r\n%b\r\n" % (2**18, b" " * 2**18)
        status, body = raw(port, head + b"Transfer-Encoding: chunked\r\n\r\n", big, big, big)
        assert status == 413 and "0.5 MiB" in json.loads(body)["detail"]
        # by its announced length alone: not a byte of the body has been sent
        status, body = raw(port, head + b"Content-Length: 10000000000\r\n\r\n")
        assert status == 413 and json.loads(body)["detail"]

        # too much or too little: what is left over is no request, and the web server itself says so
        offer = head + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
        offer += b"Content-Length: %d\r\n\r\n" % len(BODY)  # as Java's HttpClient makes it
        assert [raw(port, *parts)[0] for parts in ([offer + BODY], [offer, BODY])] == [200, 200]
        assert raw(port, head + b"Content-Length: %d\r\n\r\n" % (len(BODY) - 10) + BODY)[0] == 400
        assert raw(port, head + b"Content-Length: %d\r\n\r\n" % (len(BODY) + 10) + BODY, half_close=True)[0] in (0, 400)
        assert raw(port, head + b"Content-Length: -1\r\n\r\n" + BODY)[0] == 400
        assert raw(port, b"\x16\x03\x01 this is TLS\r\n\r\n")[0] in (0, 400)
        status, _ = raw(port, head + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(BODY), BODY)
        assert status in (100, 200)
        assert post(port, "/predict", BODY)[0] == 200
    assert "Traceback" not in log.read_text()


def test_logs_are_json_and_hold_no_data(champion, tmp_path):
    running, port, log = served(champion, tmp_path)
    with running:
        ready(port, log)
        secret = {"emp_title": "Zweigstellenleiter", "annual_inc": 123_457}
        assert post(port, "/predict?who=Zweigstellenleiter", json.dumps(EXAMPLE_APPLICATION | secret).encode())[0] == 200
        assert (
            post(port, "/predict", json.dumps(secret | {"grade": "Zweigstellenleiter"}).encode(), **{"X-Request-ID": "r-9"})[0]
            == 422
        )
        assert post(port, "/predict", b'{"Zweigstellenleiter"')[0] == 400
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert "Zweigstellenleiter" not in log.read_text() and "123457" not in log.read_text()
    asked = [line for line in lines if line.get("path") == "/predict"]
    assert [line["status"] for line in asked] == [200, 422, 400]
    assert asked[0]["model_version"] == "1" and asked[0]["ms"] > 0 and asked[0]["method"] == "POST"
    assert asked[1]["request_id"] == "r-9" and {"time", "level", "logger"} <= set(asked[1])
    assert any(line["logger"].startswith("uvicorn") for line in lines)


def test_log_as_text_and_wrong_settings(champion, tmp_path):
    running, port, log = served(champion, tmp_path, LOG_FORMAT="text")
    with running:
        ready(port, log)
        post(port, "/predict", BODY)
    assert re.search(
        r"lending_club.access: request method=POST path=/predict status=200 ms=[\d.]+ model_version=1", log.read_text()
    )
    for environment, reason in (({"LOG_FORMAT": "xml"}, "'json' or 'text'"), ({"API_KEYS": " ,"}, "holds no key")):
        done = lending_club("serve", "--port", free_port(), cwd=champion[0].root, **environment)
        assert done.returncode == 1 and reason in done.stderr and "Traceback" not in done.stderr


class Asking:
    "Connections that ask without pause, each in a thread, and keep what became of every request."

    def __init__(self, port: int, count: int, bodies: list[bytes], path: str = "/predict"):
        self.port, self.bodies, self.path = port, bodies, path
        self.answers, self.failed, self.stop = [], [], threading.Event()
        self.threads = [threading.Thread(target=self._ask, args=(i,), daemon=True) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def _ask(self, place: int):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.connect()
        while not self.stop.is_set():
            place = (place + 1) % len(self.bodies)
            try:
                connection.request("POST", self.path, self.bodies[place], {"Content-Type": "application/json"})
                response = connection.getresponse()
                self.answers.append((place, response.status, response.read()))
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                return
            if response.getheader("connection") == "close":
                return

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self.threads)


@pytest.mark.parametrize("workers", [1, 2])
def test_told_to_go_under_load_it_cuts_no_answer_off(champion, tmp_path, workers):
    running, port, log = served(champion, tmp_path, "--workers", workers)
    with running as service:
        ready(port, log)
        single = Asking(port, 8, [BODY])
        batches = Asking(port, 4, [json.dumps([EXAMPLE_APPLICATION] * 2_000).encode()], "/predict/batch")
        wait_until(lambda: len(single.answers) > 100 and len(batches.answers) > 4, what="the load")
        os.kill(service.pid, signal.SIGTERM)
        service.wait(60)
        single.end()
        batches.end()
    assert not single.failed and not batches.failed, (single.failed, batches.failed, log.read_text()[-2000:])
    assert {status for _, status, _ in single.answers + batches.answers} == {200}
    assert all(len(json.loads(body)) == 2_000 for _, _, body in batches.answers)
    assert "Traceback" not in log.read_text()


def test_workers_count_together(champion, tmp_path):
    running, port, log = served(champion, tmp_path, "--workers", "2", CACHE_CHAMPION="no")

    def pids():
        return set(re.findall(r"Started server process \[(\d+)\]", log.read_text()))

    def page():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()

    with running as service:
        ready(port, log)
        wait_until(lambda: len(pids()) == 2, what="the second worker")
        wait_until(lambda: 'polls_total{outcome="swapped"} 2.0' in page(), what="both workers' champion")
        for _ in range(30):  # each over a connection of its own, so that either worker gets some
            assert post(port, "/predict", BODY)[0] == 200
        counted = 'requests_total{path="/predict",status="200"} 30.0'
        wait_until(lambda: counted in page(), 10, "the count of the last, which is made after its answer")
        assert all(counted in page() for _ in range(6))
        assert page().count('lending_club_champion{model_version="1"} 1.0') == 1
        os.kill(service.pid, signal.SIGTERM)
        assert service.wait(60) == 0


@pytest.mark.slow
def test_ten_promotions_under_load_mix_nothing(champion, stock, tmp_path):
    settings, first = champion
    second = stock.second
    registry, scorers = connect(settings), {}
    for version in (first.version, second.version):
        files = download_version(settings, registry, version, str(tmp_path / version), "extra_files")
        scorers[version] = Scorer.load(files, version)
    loans = first.splits.test[first.card["inputs"]["columns"]].head(20)
    applications = as_applications(loans, loans.columns)
    expected = {version: [scorer.score([a])[0] for a in applications] for version, scorer in scorers.items()}

    running, port, log = served(champion, tmp_path)
    with running:
        ready(port, log)
        asking = Asking(port, 16, [json.dumps(a).encode() for a in applications])
        target = first.version
        for _ in range(10):
            target = second.version if target == first.version else first.version
            registry.set_registered_model_alias(settings.registered_model_name, settings.champion_alias, target)
            own = f'"model_version":"{target}"'.encode()
            wait_until(lambda own=own: own in asking.answers[-1][2], what=f"version {target}")
        asking.end()
    assert not asking.failed
    versions = set()
    for place, status, body in asking.answers:
        assert status == 200
        answer = json.loads(body)
        versions.add(answer["model_version"])
        own = expected[answer["model_version"]][place]
        assert answer["probability_of_default"] == pytest.approx(own["probability_of_default"], abs=1e-6)
        assert without_pd(answer) == without_pd(own)
    assert versions == {first.version, second.version}
