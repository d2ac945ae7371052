"""The service as its user meets it: a process of its own, over HTTP, while the registry changes."""

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
from conftest import clean_environment, last_error, lending_club, offer, register_files, service, wait_until

from lending_club.core.registry import connect
from lending_club.core.schema import EXAMPLE_APPLICATION
from lending_club.promote import promote
from lending_club.train import train


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def predict(url, application):
    data = application if isinstance(application, bytes) else json.dumps(application).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/predict", data), timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def new_champion(settings, stock, second: bool, how: str):
    "A version that is registered and promoted now; returns what its training gave."
    if how == "trained":
        trained = train(replace(settings, seed=1) if second else settings)
    else:
        trained = stock.second if second else stock.first
        offer(settings, register_files(settings, stock.files[second]))
    promote(settings)
    return trained


@pytest.mark.parametrize("how", ["registered", pytest.param("trained", marks=pytest.mark.slow)])
def test_from_nothing_to_a_second_champion_under_load(settings, stock, tmp_path, how):
    with service(settings.root, tmp_path) as url:
        status, health = get(f"{url}/health")
        assert (status, health["model_loaded"], health["current_version"]) == (200, False, None)
        assert predict(url, EXAMPLE_APPLICATION)[0] == 503
        wait_until(lambda: "promote a candidate" in (get(f"{url}/health")[1]["last_error"] or ""), what="the reason")

        trained = new_champion(settings, stock, second=False, how=how)
        wait_until(lambda: get(f"{url}/ready")[0] == 200, what="the first champion")
        status, answer = predict(url, EXAMPLE_APPLICATION | {"id": "A-17"})
        assert status == 200
        assert answer["model_version"] == trained.version and answer["id"] == "A-17"
        assert answer["threshold"] == trained.card["threshold"]
        assert answer["prediction"] == int(answer["probability_of_default"] >= answer["threshold"])
        assert answer["label"] == ("Good Loan", "Bad Loan")[answer["prediction"]]
        assert {"fico_range_low", "fico_range_high"} <= set(answer["imputed"])

        answers, stop = [], threading.Event()

        def ask_on():
            while not stop.is_set():
                answers.append(predict(url, EXAMPLE_APPLICATION))

        asking = [threading.Thread(target=ask_on) for _ in range(2)]
        for thread in asking:
            thread.start()
        try:
            second = new_champion(settings, stock, second=True, how=how)
            wait_until(lambda: answers[-1][1].get("model_version") == second.version, what="the second champion")
        finally:
            stop.set()
            for thread in asking:
                thread.join(60)
        assert {status for status, _ in answers} == {200}
        seen = {}  # applications of one moment are scored together, which may change a probability's eighth digit
        for _, a in answers:
            seen.setdefault((a["model_version"], a["threshold"]), set()).add(a["probability_of_default"])
        assert sorted(version for version, _ in seen) == sorted([trained.version, second.version])
        spread = {key: max(found) - min(found) for key, found in seen.items()}
        assert max(spread.values()) < 1e-7, f"version, threshold and probability do not belong together: {spread}"


def test_the_old_champion_stays_when_the_next_cannot_be_loaded(stocked, stock, tmp_path):
    settings, trained, second = stocked, stock.first, stock.second
    promote(settings)
    with service(settings.root, tmp_path) as url:
        wait_until(lambda: get(f"{url}/ready")[0] == 200, what="the champion")
        before = predict(url, EXAMPLE_APPLICATION)

        offer(settings, second.version)
        cards = (settings.var / "artifacts").rglob("card.json")
        (card,) = (p for p in cards if json.loads(p.read_text())["settings"]["seed"] == 1)
        card.write_text(card.read_text() + " ")  # still JSON, no longer what was registered
        promote(settings)
        reason = wait_until(lambda: get(f"{url}/health")[1]["last_error"], what="the refusal")
        assert f"card.json of version {second.version} is not what was registered" in reason
        health = get(f"{url}/health")[1]
        assert (health["status"], health["current_version"]) == ("degraded", trained.version)
        assert predict(url, EXAMPLE_APPLICATION) == before

        (settings.var / "mlflow.db").rename(settings.var / "gone.db")
        (settings.var / "mlflow.db").mkdir()
        wait_until(lambda: "cannot be opened" in (get(f"{url}/health")[1]["last_error"] or ""), what="the registry's error")
        assert predict(url, EXAMPLE_APPLICATION) == before


def test_port_that_is_taken(settings, tmp_path):
    with service(settings.root, tmp_path) as url:
        error = last_error(lending_club("serve", "--port", url.rsplit(":", 1)[1], cwd=settings.root))
    assert "choose another --port" in error


def test_curl_as_the_readme_writes_it(stocked, tmp_path):
    promote(stocked)
    loan = stocked.root / "loan.json"
    loan.write_text(json.dumps(EXAMPLE_APPLICATION))
    with service(stocked.root, tmp_path) as url:
        wait_until(lambda: get(f"{url}/ready")[0] == 200, what="the champion")
        done = subprocess.run(["curl", "-sS", f"{url}/predict", "-d", f"@{loan}"], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["label"] in ("Good Loan", "Bad Loan")
        status, refused = predict(url, EXAMPLE_APPLICATION | {"anual_inc": 5, "fico_range_low": 9000})
        assert status == 422
        errors = {error["field"]: error for error in refused["errors"]}
        assert errors["anual_inc"]["message"] == "unknown field. Did you mean 'annual_inc'?"
        assert errors["fico_range_low"]["value"] == 9000 and errors["fico_range_low"]["allowed"].startswith("a number from 300")


@pytest.mark.slow
def test_pyfunc_loads_where_the_package_is_not_installed(stocked, stock, tmp_path):
    settings, trained = stocked, stock.first
    raw = trained.splits.test[trained.card["inputs"]["columns"]].head(20)
    raw.to_parquet(tmp_path / "raw.parquet")
    expected = trained.pipeline.predict(raw).tolist()
    code = f"""
import importlib.util, json, sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
assert importlib.util.find_spec("lending_club") is None, "the package is still there"
import mlflow, pandas as pd
mlflow.set_tracking_uri({settings.mlflow_tracking_uri!r})
model = mlflow.pyfunc.load_model("models:/{settings.registered_model_name}@candidate")
print(json.dumps(model.predict(pd.read_parquet({str(tmp_path / "raw.parquet")!r})).tolist()))
minimal = pd.DataFrame({{"loan_amnt": [5000.0], "term": [" 36 months"], "annual_inc": [5e4]}})
print(json.dumps(model.predict(minimal).tolist()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean_environment(PYTHONPATH=""), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.strip().split("\n")[-2:]
    assert json.loads(first) == expected
    assert json.loads(second)[0] in (0, 1)


def test_signature_asks_only_for_what_no_application_can_lack(stocked, stock):
    import mlflow

    connect(stocked)
    model = mlflow.pyfunc.load_model(f"models:/{stocked.registered_model_name}/{stock.first.version}")
    inputs = model.metadata.get_input_schema().inputs
    assert [c.name for c in inputs if c.required] == ["loan_amnt", "term", "annual_inc"]
    assert {str(c.type) for c in inputs} == {"DataType.double", "DataType.string"}
    assert not {"total_pymnt", "recoveries", "zip_code", "emp_title", "addr_state"} & {c.name for c in inputs}
    with pytest.raises(Exception, match="annual_inc"):
        import pandas as pd

        model.predict(pd.DataFrame({"loan_amnt": [5000.0], "term": [" 36 months"]}))
