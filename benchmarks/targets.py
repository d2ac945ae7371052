"""What time to event costs beside the final status: an epoch of training, and a plain /predict.

    python benchmarks/targets.py            # three minutes on two cores

Epochs: both networks with their defaults on the built-in sample, each on the loans that it learns from, in turns. Requests: a
version of each target, each served by one process on the loopback; one connection asks without pause, the two in turn, in blocks
of requests. A request for the curves stands beside them. Medians count. Writes benchmarks/results/targets.json.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from contextlib import ExitStack, chdir
from dataclasses import replace
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

from servers import free_port, milliseconds, process, wait_for

from lending_club.clean import load_clean, split_loans
from lending_club.core.applications import as_applications
from lending_club.core.estimators import SeedAverage
from lending_club.core.hazard_estimators import HazardAverage
from lending_club.core.hyperparameters import default_parameters, make_net
from lending_club.core.matrices import fit_preprocessing
from lending_club.core.settings import load_settings, scratch_settings
from lending_club.promote import promote
from lending_club.train import train

RESULTS = Path(__file__).resolve().parent / "results"
SETTINGS = "[lending_club]\nsample_rows = {rows}\nepochs = 3\ntarget = {target}\n"
TARGETS = ("final_status", "time_to_event")
SERVE = "import sys; from lending_club.cli import main; sys.exit(main(['serve', '--port', '{port}']))"
BLOCK = 200  # requests in a row to one of the servers


def prepare_fit(target: str, rows: int, epochs: int):
    "A function that trains the default network anew and gives the seconds of each of its epochs; and the loans of an epoch."
    settings = scratch_settings(sample_rows=rows, epochs=epochs, target=target, torch_device="cpu")
    clean = load_clean(settings)
    prepare, parts = fit_preprocessing(split_loans(settings, clean), settings)
    parameters = default_parameters(settings.network, target)
    net = make_net(parameters, prepare["encode"].layout_, settings.network, settings.epochs).set_params(callbacks__progress=None)

    def fit() -> list[float]:
        average = HazardAverage(net).find_epochs(*parts[:4]) if target == "time_to_event" else SeedAverage(net).fit(*parts)
        return [epoch["dur"] for epoch in average.histories_[0]]

    return fit, len(parts[0])


def epochs(options) -> dict:
    "Seconds of an epoch by target, and their ratio in each round."
    fits = {target: prepare_fit(target, options.rows, options.epochs) for target in TARGETS}
    seconds: dict = {target: [] for target in TARGETS}
    for _ in range(options.rounds):
        for target, (fit, _loans) in fits.items():
            seconds[target].append(statistics.median(fit()))
    ratios = [timed / final for final, timed in zip(*seconds.values(), strict=True)]
    return {
        "loans of an epoch": {target: loans for target, (_, loans) in fits.items()},
        "seconds of an epoch": {target: round(statistics.median(own), 3) for target, own in seconds.items()},
        "time to event, times as long": round(statistics.median(ratios), 2),
        "by round": [round(ratio, 2) for ratio in ratios],
    }


def requests(options) -> dict:
    "Milliseconds of a request by target, and the ratio in each block."
    with tempfile.TemporaryDirectory(prefix="lending-club-targets-") as folder, ExitStack() as stack:
        ports, bodies = {}, []
        for target in TARGETS:
            root = Path(folder, target)
            root.mkdir()
            (root / "settings.ini").write_text(SETTINGS.format(rows=12_000, target=target))
            with chdir(root):
                settings = replace(load_settings(root), torch_device="cpu")
                trained = train(settings)
                promote(settings)
            if not bodies:
                columns = trained.card["inputs"]["columns"]
                bodies = [json.dumps(one).encode() for one in as_applications(trained.splits.test[:100], columns)]
            ports[target], log = free_port(), root / "serve.log"
            command = [sys.executable, "-c", SERVE.format(port=ports[target])]
            started = stack.enter_context(process(command, root, log, os.environ | {"OMP_NUM_THREADS": "1"}))
            wait_for(f"http://127.0.0.1:{ports[target]}/ready", started, log)
        ways = {target: (ports[target], "/predict") for target in TARGETS}
        ways["time_to_event, with curves"] = (ports["time_to_event"], "/predict?curve=true")
        for port, path in ways.values():
            milliseconds(port, path, bodies, BLOCK)  # does not count
        times: dict = {way: [] for way in ways}
        for _ in range(options.blocks):
            for way, (port, path) in ways.items():
                times[way].append(statistics.median(milliseconds(port, path, bodies, BLOCK)))
    ratios = [timed / final for final, timed in zip(times["final_status"], times["time_to_event"], strict=True)]
    return {
        "milliseconds of /predict": {way: round(statistics.median(own), 3) for way, own in times.items()},
        "time to event, times as long": round(statistics.median(ratios), 3),
        "by block, quartiles": [round(value, 3) for value in statistics.quantiles(ratios)],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000, help="loans of the sample that is trained on (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="of each fit (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="fits of each target (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=30, help=f"blocks of {BLOCK} requests (default: %(default)s)")
    options = parser.parse_args()
    result = {"epoch": epochs(options), "request": requests(options)}
    result["machine"] = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps(result, indent=1))
    (RESULTS / "targets.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
