"""One application and a thousand: the compiled form against the scikit-learn Pipeline that it was made from.

    python benchmarks/scoring.py                        # the built-in sample, the network of the settings' size
    python benchmarks/scoring.py --rows 60000 --seeds 3

Everything on one thread. Each figure is the median of several runs, in milliseconds of CPU time, which other processes on
the machine disturb less than the time on the clock. Writes benchmarks/results/scoring.json.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import onnxruntime
import torch

from lending_club.clean import load_clean, temporal_split
from lending_club.core.applications import as_applications
from lending_club.core.bundle import always_present
from lending_club.core.compile import check_compiled, compile_pipeline
from lending_club.core.encoding import calibrate
from lending_club.core.hyperparameters import default_parameters
from lending_club.core.preprocess import application_frame
from lending_club.core.settings import scratch_settings
from lending_club.serving.scorer import Scorer
from lending_club.train import fit_pipeline

RESULTS = Path(__file__).resolve().parent / "results"
RUNS = 7


def run(call, seconds: float = 0.2) -> float:
    "Milliseconds of one call, over as many as fit in `seconds`."
    calls, start = 0, time.thread_time()
    while (passed := time.thread_time() - start) < seconds:
        call()
        calls += 1
    return 1e3 * passed / calls


def measure(pipeline, compiled, scorer, applications, columns) -> dict:
    "Milliseconds of each way to the same answers, and of the steps of the compiled one."
    matrix = compiled.encode(applications)
    p = compiled.run_graph(matrix)
    times = {
        "Scorer: dictionaries to answers": lambda: scorer.score(applications),
        "compiled: dictionaries to probabilities": lambda: compiled.probabilities(applications),
        "compiled: numeric features": lambda: compiled.features(applications),
        "compiled: features and encoding": lambda: compiled.encode(applications),
        "onnxruntime alone on the encoded matrix": lambda: compiled.run_graph(matrix),
        "compiled: calibration": lambda: calibrate(p, compiled.tables["calibration"]),
        "Pipeline: dictionaries to probabilities": lambda: pipeline.predict_proba(application_frame(applications, columns)),
    }
    for call in times.values():
        call()  # does not count
    rounds = [{name: run(call) for name, call in times.items()} for _ in range(RUNS)]  # in turns: a machine's mood hits all
    shares = [r["onnxruntime alone on the encoded matrix"] / r["Scorer: dictionaries to answers"] for r in rounds]
    medians = {name: round(statistics.median(r[name] for r in rounds), 4) for name in times}
    return medians | {"Scorer's speed, share of onnxruntime alone": round(statistics.median(shares), 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=12_000, help="loans in the built-in sample")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--network", choices=("tabm", "mlp"), default="tabm")
    options = parser.parse_args()
    torch.set_num_threads(1)

    settings = scratch_settings(
        sample_rows=options.rows, epochs=options.epochs, seeds=options.seeds, network=options.network, target="final_status"
    )
    splits = temporal_split(load_clean(settings).loans, settings.train_end, settings.val_end)
    pipeline = fit_pipeline(splits, default_parameters(settings.network), settings, progress=False)
    start = time.perf_counter()
    compiled = compile_pipeline(pipeline)
    seconds = {"compile": time.perf_counter() - start}
    start = time.perf_counter()
    agreement = check_compiled(compiled, pipeline, splits.test)
    seconds["check"] = time.perf_counter() - start
    start = time.perf_counter()
    type(compiled)(compiled.tables, compiled.graph)
    seconds["load"] = time.perf_counter() - start

    columns = pipeline["features"].columns_
    used = [name for name in columns if name in compiled.tables["columns"]]
    card = {"threshold": compiled.threshold, "inputs": {"always_present": always_present(splits.train, used)}}
    scorer = Scorer(compiled, card, "1")
    applications = as_applications(splits.test[:1_000], compiled.tables["columns"])
    assert len(applications) == 1_000, f"only {len(applications)} test loans: take more --rows"
    result = {
        "matrix columns": compiled.encoding.width,
        "network": options.network,
        "seeds": options.seeds,
        "graph MiB": round(len(compiled.graph) / 2**20, 2),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "agreement": agreement,
        "one application, ms": measure(pipeline, compiled, scorer, applications[:1], columns),
        "1,000 applications, ms": measure(pipeline, compiled, scorer, applications, columns),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "packages": {module.__name__: module.__version__ for module in (np, onnxruntime, torch)},
    }
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scoring.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
