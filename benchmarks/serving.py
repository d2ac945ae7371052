"""The service beside what one would take instead of it, over HTTP: requests a second and how long they take.

    python benchmarks/serving.py               # about ten minutes; needs wrk
    python benchmarks/serving.py --seconds 3 --rounds 1
    python benchmarks/serving.py --before ../earlier   # beside the service of another checkout, in pairs of a second or two

The same champion, the default network on a small built-in sample, is served in four ways, each by one process on the
loopback: by `lending-club serve`, by `mlflow models serve`, and by FastAPI calling mlflow.pyfunc; the fourth is a bare
FastAPI endpoint with the same request model that answers a constant, which is the limit. Every cell is measured by wrk in
several rounds, the ways taking turns; medians count. What a batch costs beside its graph does not depend on the network, so
batches are measured once more with a network of wide embeddings, whose graph has more to do. Then ten promotions in a row under
load from 16 connections, every answer compared with that of its version's own Scorer. Writes benchmarks/results/serving.json
and serving.png.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack, chdir
from pathlib import Path

from servers import free_port, process, wait_for

os.environ["TQDM_DISABLE"] = "1"

HERE = Path(__file__).resolve()
RESULTS = HERE.parent / "results"
NAMES = {
    "ours": "lending-club serve",
    "mlflow": "mlflow models serve",
    "pyfunc": "FastAPI on mlflow.pyfunc",
    "bare": "bare FastAPI, a constant",
}
BEFORE = "before"  # the service of another checkout, with a champion that its own pipeline has trained
CLI = "import sys; from lending_club.cli import main; sys.exit(main(sys.argv[1:]))"
SETTINGS = "[lending_club]\nsample_rows = {rows}\nepochs = {epochs}\ntarget = final_status\n"
WIDE = {"embedding": 12, "bins": 24}  # parameters that differ from the default network's
COMMANDS = Path(sys.executable).parent  # of the environment

WRK = """
local requests, next = {}, 1
function init()
  for line in io.lines("%s") do
    requests[#requests + 1] = wrk.format("POST", "%s", {["Content-Type"] = "application/json"}, line)
  end
end
function request()
  next = next %% #requests + 1
  return requests[next]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %%d %%d %%f %%f %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def request_model():
    "A pydantic model of an application, as one writes it for FastAPI: types, ranges and categories of the schema."
    from typing import Annotated, Literal, NotRequired

    from pydantic import ConfigDict, Field, with_config
    from typing_extensions import TypedDict

    from lending_club.core.schema import COLUMNS, REQUIRED_IN_APPLICATION

    def kind(column):
        if column.kind == "number":
            return Annotated[float, Field(ge=column.minimum, le=column.maximum)]
        if column.kind == "category":
            return Literal[tuple({*column.values, *(value.strip() for value in column.values)})]
        return Annotated[str, Field(max_length=1_000)]

    fields = {c.name: kind(c) for c in COLUMNS if c.at_origination}
    optional = {name: NotRequired[own | None] for name, own in fields.items() if name not in REQUIRED_IN_APPLICATION}
    return with_config(ConfigDict(extra="forbid"))(TypedDict("Application", fields | optional))


def bare_app():
    "FastAPI with a request model, answering a constant."
    from fastapi import FastAPI

    Application = request_model()
    answer = {
        "prediction": 0,
        "label": "Good Loan",
        "probability_of_default": 0.1,
        "threshold": 0.2,
        "model_version": "1",
        "imputed": [],
    }
    app = FastAPI()

    @app.post("/predict")
    async def predict(application: Application):
        return answer

    @app.post("/predict/batch")
    async def predict_batch(applications: list[Application]):
        return [answer] * len(applications)

    return app


def pyfunc_app():
    "FastAPI calling mlflow.pyfunc on a DataFrame, as tutorials write it."
    import mlflow
    import pandas as pd
    from fastapi import FastAPI

    model = mlflow.pyfunc.load_model(os.environ["BENCHMARK_MODEL"])
    app = FastAPI()

    @app.post("/predict")
    def predict(application: dict):
        return {"prediction": int(model.predict(pd.DataFrame([application]))[0])}

    @app.post("/predict/batch")
    def predict_batch(applications: list[dict]):
        return [{"prediction": int(p)} for p in model.predict(pd.DataFrame(applications))]

    return app


def load(url: str, path: str, bodies: Path, connections: int, seconds: float) -> dict:
    "What wrk measures."
    script = bodies.with_suffix(".lua")
    script.write_text(WRK % (bodies, path))
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "-s", script, url]
    output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    requests, duration, p50, p99, errors = map(float, re.search(r"RESULT (.+)", output)[1].split())
    rates = {"rps": requests / duration * 1e6, "p50 ms": p50 / 1e3, "p99 ms": p99 / 1e3}
    return {"requests": requests, **rates, "errors": int(errors)}


def check_client(url: str, bodies: Path, seconds: float) -> float:
    "Requests a second that wrk reaches where nothing is computed: `/health`'s 404 twin of the bare app."
    return load(url, "/nothing", bodies, 16, seconds)["rps"]


def prepare(root: Path, options):
    "Two versions in a registry under `root`; returns settings, the two Scorers by version and the applications."
    from dataclasses import replace

    from lending_club.core.applications import as_applications
    from lending_club.core.registry import connect, download_version
    from lending_club.core.settings import load_settings
    from lending_club.promote import promote
    from lending_club.serving.scorer import Scorer
    from lending_club.train import train

    (root / "settings.ini").write_text(SETTINGS.format(rows=options.rows, epochs=options.epochs))
    settings = load_settings(root)
    trained = train(settings)
    promote(settings)
    second = train(replace(settings, seed=1))
    client = connect(settings)
    scorers = {}
    for version in (trained.version, second.version):
        with tempfile.TemporaryDirectory() as folder:
            scorers[version] = Scorer.load(download_version(settings, client, version, folder, "extra_files"), version)
    columns = trained.card["inputs"]["columns"]
    applications = as_applications(trained.splits.test[:1_000], columns)
    assert len(applications) == 1_000, f"only {len(applications)} test loans: take more --rows"
    return settings, scorers, applications, columns


def prepare_before(checkout: Path, root: Path, options) -> dict:
    "A champion of another checkout's own pipeline in a project of its own; the environment that its service needs."
    root.mkdir()
    own = SETTINGS.format(rows=options.rows, epochs=options.epochs).replace("target = final_status\n", "")  # 0.3.0 has no target
    (root / "settings.ini").write_text(own)
    (root / "nbs").symlink_to(checkout / "nbs")
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "POLL_INTERVAL": "0.5"}
    for words in (["run"], ["promote"]):
        subprocess.run([sys.executable, "-c", CLI, *words], cwd=root, env=environment, check=True, capture_output=True)
    return environment


def write_bodies(root: Path, applications: list[dict], columns) -> dict:
    "Request bodies by kind, a line each."
    split = {"columns": list(columns), "data": [[a.get(name) for name in columns] for a in applications]}
    ones = [{"dataframe_split": {"columns": split["columns"], "data": [row]}} for row in split["data"][:100]]
    content = {
        "single": map(json.dumps, applications[:100]),
        "batch": [json.dumps(applications)],
        "mlflow-single": map(json.dumps, ones),
        "mlflow-batch": [json.dumps({"dataframe_split": split})],
    }
    paths = {}
    for kind, lines in content.items():
        paths[kind] = root / f"{kind}.txt"
        paths[kind].write_text("\n".join(lines) + "\n")
    return paths


def onnx_rows(scorer, applications) -> float:
    "Rows a second of onnxruntime alone on the encoded matrix of 1,000 applications."
    compiled = scorer._compiled
    matrix = compiled.encode(applications)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        compiled.run_graph(matrix)
        times.append(time.perf_counter() - start)
    return len(applications) / statistics.median(times)


def stages(scorer, applications) -> dict:
    "Milliseconds of each step to a single answer and to 1,000, without HTTP."
    from pydantic_core import to_json

    from lending_club.serving.observability import Metrics
    from lending_club.serving.requests import read_application, read_json_batch

    metrics, result = Metrics(), {}
    for name, body, read in (
        ("single", json.dumps(applications[0]).encode(), read_application),
        ("batch", json.dumps(applications).encode(), lambda b: read_json_batch(b, 10_000).table),
    ):
        rows = read(body)
        given = scorer.score(rows)
        steps = {
            "parse and validate": lambda read=read, body=body: read(body),
            "score": lambda rows=rows: scorer.score(rows),
            "serialize": lambda given=given: to_json(given),
            "count": lambda given=given: metrics.observe_answers(given),
        }
        runs = 500 if name == "single" else 20
        result[name] = {}
        for step, call in steps.items():
            times = []
            for _ in range(runs):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            result[name][step] = round(1e3 * statistics.median(times), 4)
    return result


class Client(threading.Thread):
    "Sixteen connections that ask without pause in a process' thread of its own; keeps every answer's time and what it said."

    def __init__(self, port: int, applications: list[dict], connections: int = 16):
        super().__init__(daemon=True)
        self.port, self.connections = port, connections
        self.bodies = [json.dumps(a | {"id": i}).encode() for i, a in enumerate(applications)]
        self.times, self.seen, self.failed, self.stopping = [], {}, [], False

    def run(self):
        async def all_of_them():
            await asyncio.gather(*(self._ask(i) for i in range(self.connections)))

        asyncio.run(all_of_them())

    async def _ask(self, number: int):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        place = number
        while not self.stopping:
            place = (place + 1) % len(self.bodies)
            body = self.bodies[place]
            start = time.perf_counter()
            try:
                writer.write(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"content-length: (\d+)", head)[1])
                content = await reader.readexactly(length)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failed.append(repr(error))
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                continue
            end = time.perf_counter()
            self.times.append((start, end - start))
            if not head.startswith(b"HTTP/1.1 200 "):
                self.failed.append(content.decode())
            self.seen[content] = self.seen.get(content, 0) + 1
        writer.close()


def answering(url: str) -> str:
    "The version that answers."
    with urllib.request.urlopen(f"{url}/health", timeout=30) as response:
        return json.load(response)["current_version"]


def make_champion(settings, version: str, url: str) -> float:
    "Promote a version; returns the seconds until it answers."
    from lending_club.core.registry import connect

    start = time.perf_counter()
    connect(settings).set_registered_model_alias(settings.registered_model_name, settings.champion_alias, version)
    while answering(url) != version:
        assert time.perf_counter() < start + 60, f"version {version} did not come"
        time.sleep(0.05)
    return time.perf_counter() - start


def wide_batches(settings, applications: list[dict], bodies: Path, url: str, options) -> dict:
    "Batches by a network with wide embeddings, beside its graph alone."
    from lending_club.core import hyperparameters
    from lending_club.core.registry import connect, download_version
    from lending_club.serving.scorer import Scorer
    from lending_club.train import train

    narrow = hyperparameters.DEFAULTS["tabm"]
    hyperparameters.DEFAULTS["tabm"] = narrow | WIDE
    try:
        version = train(settings).version
    finally:
        hyperparameters.DEFAULTS["tabm"] = narrow
    with tempfile.TemporaryDirectory() as folder:
        scorer = Scorer.load(download_version(settings, connect(settings), version, folder, "extra_files"), version)
    make_champion(settings, version, url)
    alone, rows = [], {1: [], 16: []}
    for _ in range(options.rounds):
        alone.append(onnx_rows(scorer, applications))
        for connections, found in rows.items():
            found.append(1_000 * load(url, "/predict/batch", bodies, connections, options.seconds)["rps"])
    onnx = statistics.median(alone)
    rates = {connections: statistics.median(found) for connections, found in rows.items()}
    return {
        "network": WIDE,
        "onnxruntime alone, rows a second": round(onnx),
        "rows a second": {str(connections): round(rate) for connections, rate in rates.items()},
        "share of onnxruntime alone": {str(connections): round(rate / onnx, 3) for connections, rate in rates.items()},
    }


def promotions(root: Path, settings, scorers: dict, applications: list[dict], port: int, count: int = 10) -> dict:
    "Promotions in a row under load, and what they did to the answers."
    url, versions = f"http://127.0.0.1:{port}", list(scorers)
    make_champion(settings, versions[0], url)
    load_client = Client(port, applications[:50])
    load_client.start()
    time.sleep(6)
    swapping, seconds = time.perf_counter(), []
    for i in range(count):
        seconds.append(make_champion(settings, versions[(i + 1) % 2], url))
        time.sleep(0.2)
    swapped = time.perf_counter()
    load_client.stopping = True
    load_client.join(30)

    expected = {
        version: [(a["threshold"], a["probability_of_default"]) for a in scorer.score(applications[:50])]
        for version, scorer in scorers.items()
    }
    mixed, by_version = 0, dict.fromkeys(versions, 0)
    for content, times in load_client.seen.items():
        answer = json.loads(content)
        threshold, probability = expected[answer["model_version"]][answer["id"]]
        right = answer["threshold"] == threshold and abs(answer["probability_of_default"] - probability) < 1e-6
        mixed += 0 if right and answer["prediction"] == int(answer["probability_of_default"] >= threshold) else times
        by_version[answer["model_version"]] += times

    def p99(first, last):
        times = sorted(seconds for start, seconds in load_client.times if first <= start < last)
        return round(1e3 * times[int(0.99 * len(times))], 3)

    first = load_client.times[0][0]
    return {
        "promotions": count,
        "answers": len(load_client.times),
        "answers by version": by_version,
        "failed": len(load_client.failed),
        "mixed": mixed,
        "seconds from promotion to answer": [round(s, 2) for s in seconds],
        "p99 ms before": p99(first + 1, swapping),
        "p99 ms during": p99(swapping, swapped),
    }


PAIRS = 50


def processor_seconds(pid: int) -> float:
    "What a process has used of the processor; Linux only."
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def before_and_after(urls: dict, bodies: dict, pids: dict) -> dict:
    """Requests a second, and requests a second of processor time, as multiples of the other checkout's.

    Medians of many short pairs, since a shared machine's speed drifts; processor time leaves out what others take."""
    result = {}
    for kind, path, seconds in (("single", "/predict", 1), ("batch", "/predict/batch", 2)):
        for connections in (1, 16):
            ratios: dict = {"throughput": [], "of processor time": []}
            for pair in range(PAIRS):
                both, rates, efforts = ("ours", BEFORE) if pair % 2 else (BEFORE, "ours"), {}, {}
                for system in both:
                    used = processor_seconds(pids[system])
                    cell = load(urls[system], path, bodies[kind], connections, seconds)
                    rates[system] = cell["rps"]
                    efforts[system] = cell["requests"] / (processor_seconds(pids[system]) - used)
                for measure, values in zip(ratios, (rates, efforts), strict=True):
                    ratios[measure].append(values["ours"] / values[BEFORE])
            name = f"{kind}, {connections} connections"
            result[name] = {}
            for measure, own in ratios.items():
                low, middle, high = (round(ratio, 3) for ratio in statistics.quantiles(own, n=4))
                result[name][measure] = {"median": middle, "quartiles": [low, high]}
            print("times the one before:", name, result[name], flush=True)
    return {"times the one before": result}


def picture(result: dict, path: Path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"ours": "#1f5fa8", "mlflow": "#d1812c", "pyfunc": "#8a8a8a", "bare": "#c9d6e4"}
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.4), layout="constrained")
    titles = {"single": "one application a request", "batch": "1,000 applications a request"}
    for row, (kind, title) in zip(axes, titles.items(), strict=True):
        for ax, (unit, what) in zip(row, (("rps", "requests a second"), ("p99 ms", "99 % are answered within, ms")), strict=True):
            places, labels = [], []
            for group, connections in enumerate((1, 16)):
                for i, (system, name) in enumerate(NAMES.items()):
                    value = result["cells"][f"{kind}, {connections} connections"][system][unit]
                    place = group * (len(NAMES) + 1) + i
                    ax.barh(place, value, color=colours[system], label=name if not group and ax is axes[0][0] else None)
                    text = f"{value:,.0f}" if value >= 20 else f"{value:.2g}" if value < 1 else f"{value:.1f}"
                    ax.annotate(text, (value, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
                places.append(group * (len(NAMES) + 1) + 1.5)
                labels.append(f"{connections} connection{'s' * (connections > 1)}")
            ax.set(yticks=places, yticklabels=labels, xscale="log", xlabel=what, title=title)
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter("")
            ax.margins(x=0.12)
            ax.invert_yaxis()
            ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)


def measure(options) -> dict:
    with tempfile.TemporaryDirectory(prefix="lending-club-serving-") as folder, ExitStack() as stack:
        root = Path(folder)
        stack.enter_context(chdir(root))
        settings, scorers, applications, columns = prepare(root, options)
        bodies = write_bodies(root, applications, columns)
        version, scorer = next(iter(scorers.items()))
        model = f"models:/{settings.registered_model_name}/{version}"
        environment = os.environ | {"MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri, "BENCHMARK_MODEL": model}
        environment["POLL_INTERVAL"] = "0.5"
        environment["PATH"] = f"{COMMANDS}{os.pathsep}{os.environ['PATH']}"  # where mlflow looks for uvicorn
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        ports = {system: free_port() for system in NAMES}
        uvicorn = [sys.executable, "-m", "uvicorn", "--factory", "--no-access-log", "--log-level", "warning", "--port"]
        words = {
            "ours": [COMMANDS / "lending-club", "serve", "--port", ports["ours"]],
            "mlflow": [COMMANDS / "mlflow", "models", "serve", "-m", model, "--env-manager", "local", "-p", ports["mlflow"]],
            "pyfunc": [*uvicorn, ports["pyfunc"], "serving:pyfunc_app"],
            "bare": [*uvicorn, ports["bare"], "serving:bare_app"],
        }
        ready = {"ours": "/ready", "mlflow": "/ping", "pyfunc": "/docs", "bare": "/docs"}
        folders, environments = dict.fromkeys(NAMES, root), dict.fromkeys(NAMES, environment)
        if options.before:
            ports[BEFORE], ready[BEFORE], folders[BEFORE] = free_port(), "/ready", root / BEFORE
            words[BEFORE] = [sys.executable, "-c", CLI, "serve", "--port", ports[BEFORE]]
            environments[BEFORE] = prepare_before(options.before.resolve(), folders[BEFORE], options)
        started, pids = {}, {}
        for system in words:
            start = time.perf_counter()
            url = f"http://127.0.0.1:{ports[system]}{ready[system]}"
            log = root / f"{system}.log"
            running = stack.enter_context(process(words[system], folders[system], log, environments[system]))
            pids[system] = running.pid
            wait_for(url, running, log)
            started[system] = round(time.perf_counter() - start, 2)

        steps = stages(scorer, applications)
        urls = {system: f"http://127.0.0.1:{port}" for system, port in ports.items()}
        beside = before_and_after(urls, bodies, pids) if options.before else {}
        rounds, alone = {}, []
        for turn in range(options.rounds):
            alone.append(onnx_rows(scorer, applications))
            for kind in ("single", "batch"):
                for connections in (1, 16):
                    for system in NAMES:
                        path = "/invocations" if system == "mlflow" else "/predict/batch" if kind == "batch" else "/predict"
                        own = bodies[f"mlflow-{kind}" if system == "mlflow" else kind]
                        cell = load(urls[system], path, own, connections, options.seconds)
                        rounds.setdefault(f"{kind}, {connections} connections", {}).setdefault(system, []).append(cell)
                        print(turn + 1, kind, connections, system, {k: round(v, 2) for k, v in cell.items()}, flush=True)
        cells = {
            name: {
                system: {unit: round(statistics.median(cell[unit] for cell in turns), 3) for unit in turns[0]}
                for system, turns in systems.items()
            }
            for name, systems in rounds.items()
        }
        client_limit = check_client(urls["bare"], bodies["single"], options.seconds)
        wide = wide_batches(settings, applications, bodies["batch"], urls["ours"], options)
        swaps = promotions(root, settings, scorers, applications, ports["ours"])

    one, many = cells["single, 1 connections"], cells["single, 16 connections"]
    onnx = statistics.median(alone)
    return {
        "cells": cells,
        "claims": {
            "single, times mlflow models serve": [round(c["ours"]["rps"] / c["mlflow"]["rps"], 1) for c in (one, many)],
            "single, share of the bare endpoint": [round(c["ours"]["rps"] / c["bare"]["rps"], 3) for c in (one, many)],
            "single, 16 connections, p99 ms": many["ours"]["p99 ms"],
            "batch, rows a second as share of onnxruntime alone": [
                round(1_000 * cells[f"batch, {n} connections"]["ours"]["rps"] / onnx, 3) for n in (1, 16)
            ],
        },
        **beside,
        "onnxruntime alone, rows a second": round(onnx),
        "batches with wide embeddings": wide,
        "steps, ms": steps,
        "promotions under load": swaps,
        "start to ready, s": started,
        "wrk's own limit, requests a second": round(client_limit),
        "fields of an application": round(statistics.mean(map(len, applications)), 1),
        "setting": {"seconds a cell": options.seconds, "rounds": options.rounds, "client": "wrk, one thread"},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6, help="of load a cell")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=12_000, help="loans in the built-in sample")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--before", type=Path, help="another checkout of the project, whose service is measured beside this one")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("wrk is not on the path: install it (Debian, Ubuntu and Homebrew have it as wrk)")
    result = measure(options)
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "serving.json").write_text(json.dumps(result, indent=1) + "\n")
    picture(result, RESULTS / "serving.png")


if __name__ == "__main__":
    main()
