"""From the start of the service to its first answer, and the memory of a worker, by what is installed and where the registry is.

    python benchmarks/service_start.py                  # makes an environment with mlflow-skinny for itself
    python benchmarks/service_start.py --skinny DIR     # or takes one that is there

A champion is trained on the built-in sample, once on an embedded SQLite registry and once through a real `mlflow server`
on the loopback that hands out the artifacts itself. The service is then started several times on each; ready is when
`/ready` says 200, of several workers the first. Medians; memory once it has answered 100 applications. PSS counts what
processes share in parts.
Writes benchmarks/results/service_start.json.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from importlib.metadata import version
from pathlib import Path

import psutil
from servers import free_port, process, status, wait_for

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
SKINNY = ("mlflow-skinny", "onnxruntime", "fastapi", "msgspec", "uvicorn", "numpy", "prometheus-client", "psutil")
TRAIN = "from lending_club.core.settings import load_settings; s = load_settings(); from lending_club.train import train; \
train(s); from lending_club.promote import promote; promote(s)"


def make_skinny(folder: Path) -> Path:
    "An environment for the service alone; returns its Python."
    venv.create(folder, with_pip=True)
    packages = [f"{name}=={version(name.removesuffix('-skinny'))}" if name == "mlflow-skinny" else name for name in SKINNY]
    command = [folder / "bin/python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *packages]
    subprocess.run(list(map(str, command)), check=True)
    return folder / "bin/python"


def start_once(python: Path, project: Path, cached: bool, workers: int, environment: dict) -> dict:
    "Start the service, wait until it is ready, ask it, weigh it."
    if not cached:
        shutil.rmtree(project / "var" / "champion", ignore_errors=True)
    port = free_port()
    app = "lending_club.serving.app:create_app"
    command = [python, "-m", "uvicorn", "--factory", app, "--port", port, "--log-level", "warning"]
    url, application = f"http://127.0.0.1:{port}", (ROOT / "service" / "loan.json").read_bytes()
    began = time.monotonic()
    own = os.environ | {"PYTHONPATH": str(ROOT), **environment}
    with process([*command, "--workers", workers], project, project / "service.log", own) as started:
        wait_for(f"{url}/ready", started, project / "service.log", pause=0.01)
        ready = time.monotonic() - began
        used = psutil.Process(started.pid).cpu_times()
        asked = [status(f"{url}/predict", application) for _ in range(100)]
        assert workers > 1 or set(asked) == {200}
        deadline = time.monotonic() + 60
        while json.load(urllib.request.urlopen(f"{url}/health", timeout=10))["status"] != "ok" and time.monotonic() < deadline:
            time.sleep(0.05)  # from the cache it is ready before MLflow is loaded: that is weighed too
        if workers > 1:
            time.sleep(10)  # which worker says that it is ready, nobody can choose
        found = psutil.Process(started.pid)
        serving = [found] if workers == 1 else [c for c in found.children() if c.memory_info().rss > 60 * 2**20]
        memory = [own.memory_full_info() for own in serving]
        return {
            "ready, s": ready,
            "of it CPU, s": used.user + used.system,
            "RSS, MiB": statistics.mean(m.rss for m in memory) / 2**20,
            "PSS, MiB": statistics.mean(m.pss for m in memory) / 2**20,
        }


def measure(python: Path, project: Path, runs: int, cached: bool = False, workers: int = 1, **environment) -> dict:
    if cached:
        start_once(python, project, False, workers, environment)
    each = [start_once(python, project, cached, workers, environment) for _ in range(runs)]
    result = {name: round(statistics.median(run[name] for run in each), 2) for name in each[0]}
    print(python.parent.parent.name, environment, "cached" if cached else "", workers, result, file=sys.stderr)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skinny", type=Path, help="folder of an environment with mlflow-skinny")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lending-club-start-") as name:
        folder = Path(name)
        skinny = options.skinny / "bin/python" if options.skinny else make_skinny(folder / "skinny")
        project = folder / "project"
        project.mkdir()
        (project / "settings.ini").write_text("[lending_club]\nsample_rows = 5000\nepochs = 3\ntarget = final_status\n")
        server = f"http://127.0.0.1:{free_port()}"
        command = [Path(sys.executable).with_name("mlflow"), "server", "--workers", 1, "--port", server.rpartition(":")[2]]
        command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", folder / "artifacts"]
        log = folder / "mlflow.log"
        with process(command, folder, log, os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}) as started:
            wait_for(f"{server}/health", started, log)
            for environment in ({}, {"MLFLOW_TRACKING_URI": server}):
                train = [sys.executable, "-c", TRAIN]
                own = os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", **environment}
                subprocess.run(train, cwd=project, env=own, check=True, capture_output=True)
            over_http = {"MLFLOW_TRACKING_URI": server}
            cases = {
                "mlflow-skinny, registry over HTTP": measure(skinny, project, options.runs, **over_http),
                "the same, started from the cache": measure(skinny, project, options.runs, cached=True, **over_http),
                "the same, each of 2 workers": measure(skinny, project, options.runs, workers=2, **over_http),
                "mlflow, registry over HTTP": measure(Path(sys.executable), project, options.runs, **over_http),
                "mlflow, embedded SQLite registry": measure(Path(sys.executable), project, options.runs),
                "the same embedded, started from the cache": measure(Path(sys.executable), project, options.runs, cached=True),
            }
    result = {
        "cases": cases,
        "runs of each": options.runs,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "packages": {name: version(name) for name in ("mlflow", "onnxruntime", "fastapi", "uvicorn", "numpy")},
    }
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "service_start.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
