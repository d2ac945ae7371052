"""What the scalar path of `core.single` is worth: /predict with it and without it, over HTTP.

    python benchmarks/single.py                 # two minutes; needs wrk
    python benchmarks/single.py --seconds 2 --rounds 3

The same champion is served twice, each by one process on the loopback: by `lending-club serve`, and by the same with requests
of one application going through arrays as batches do. One connection asks without pause, the two servers in turn; medians of
several rounds. The scalar path stays as long as it makes /predict at least 1.3 times faster. Groups of one to eight applications
are scored both ways without HTTP, which gives `FEW`. Writes benchmarks/results/single.json.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, chdir
from pathlib import Path

from servers import free_port, process, wait_for
from serving import load, prepare, write_bodies

RESULTS = Path(__file__).resolve().parent / "results"
SERVE = "import sys; from lending_club.cli import main; sys.exit(main(['serve', '--port', '{port}']))"
BY_ARRAYS = "import lending_club.core.single; lending_club.core.single.FEW = 0; "
WAYS = {"scalar path": SERVE, "arrays": BY_ARRAYS + SERVE}


GROUPS = range(1, 9)


def groups(scorer, applications: list[dict]) -> dict:
    "Microseconds to score a few applications at once, without HTTP: one by one, and as arrays."
    from lending_club.core import single
    from lending_club.core.applications import table_of

    usual, result = single.FEW, {}
    for n in GROUPS:
        table, times = table_of(applications[:n]), {"one by one": [], "arrays": []}
        for _ in range(300):
            for way, few in zip(times, (n, 0), strict=True):
                single.FEW = few
                start = time.perf_counter()
                scorer.score(table)
                times[way].append(1e6 * (time.perf_counter() - start))
        result[n] = {way: round(statistics.median(own)) for way, own in times.items()}
    single.FEW = usual
    return result


def measure(options) -> dict:
    "Requests a second of both ways, and their ratio in each round; then groups of applications."
    with tempfile.TemporaryDirectory(prefix="lending-club-single-") as folder, ExitStack() as stack:
        root = Path(folder)
        stack.enter_context(chdir(root))
        settings, scorers, applications, columns = prepare(root, options)
        few = groups(next(iter(scorers.values())), applications)
        bodies = write_bodies(root, applications, columns)["single"]
        environment = os.environ | {"MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri, "OMP_NUM_THREADS": "1"}
        urls = {}
        for way, code in WAYS.items():
            port, log = free_port(), root / f"{way}.log"
            urls[way] = f"http://127.0.0.1:{port}"
            command = [sys.executable, "-c", code.format(port=port)]
            wait_for(f"{urls[way]}/ready", stack.enter_context(process(command, root, log, environment)), log)
        rates: dict = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way, url in urls.items():
                cell = load(url, "/predict", bodies, 1, options.seconds)
                assert not cell["errors"], cell
                rates[way].append(cell["rps"])
    ratios = [scalar / arrays for scalar, arrays in zip(*rates.values(), strict=True)]
    return {
        "requests a second, 1 connection": {way: round(statistics.median(own)) for way, own in rates.items()},
        "scalar path, times faster": round(statistics.median(ratios), 2),
        "microseconds to score a group": few,
        "by round": [round(ratio, 2) for ratio in ratios],
        "setting": {"seconds a cell": options.seconds, "rounds": options.rounds, "client": "wrk, one thread"},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="of load a cell")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=12_000, help="loans in the built-in sample")
    parser.add_argument("--epochs", type=int, default=3)
    result = measure(parser.parse_args())
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "single.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
