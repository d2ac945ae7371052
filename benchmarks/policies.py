"""What a policy costs the service: `/predict` and batches under `return`, beside `f1`, on one machine in turns.

    python benchmarks/policies.py        # five minutes on two cores

Two versions of the same fit, one with each policy, are served by a process each. Blocks of requests go to one and to the other in
turns over one keep-alive connection; the figure is the requests a second under `return` as a share of those under `f1`, by the
median time of a request in each block. Writes policies.json.
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

from lending_club.core.applications import as_applications
from lending_club.core.settings import load_settings
from lending_club.promote import promote
from lending_club.train import train

RESULTS = Path(__file__).resolve().parent / "results"
SETTINGS = "[lending_club]\nsample_rows = 12000\nepochs = 3\nbacktest_as_of = off\npolicy = {policy}\n"
SERVE = "import sys; from lending_club.cli import main; sys.exit(main(['serve', '--port', '{port}']))"
POLICIES = ("f1", "return")


def serve(stack: ExitStack, folder: str, policy: str) -> tuple[int, list[dict]]:
    "A service whose champion has this policy: its port, and applications."
    root = Path(folder, policy)
    root.mkdir()
    (root / "settings.ini").write_text(SETTINGS.format(policy=policy))
    with chdir(root):
        settings = replace(load_settings(root), torch_device="cpu")
        trained = train(settings)
        promote(settings)
    port, log = free_port(), root / "serve.log"
    command = [sys.executable, "-c", SERVE.format(port=port)]
    started = stack.enter_context(process(command, root, log, os.environ | {"OMP_NUM_THREADS": "1"}))
    wait_for(f"http://127.0.0.1:{port}/ready", started, log)
    return port, as_applications(trained.splits.test[:1_000], trained.card["inputs"]["columns"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=30, help="blocks of requests to each service (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lending-club-policies-") as folder, ExitStack() as stack:
        ports = {}
        for policy in POLICIES:
            ports[policy], applications = serve(stack, folder, policy)
        single = [json.dumps(one).encode() for one in applications[:100]]
        batch = [json.dumps(applications).encode()]
        ways = {
            "/predict": ("/predict", single, 200),
            "batch of 1,000": ("/predict/batch", batch, 10),
            "/predict, with money": ("/predict?money=true", single, 200),
        }
        result: dict = {}
        for way, (path, bodies, count) in ways.items():
            times: dict = {policy: [] for policy in POLICIES}
            for block in range(options.blocks + 1):
                for policy in POLICIES if block % 2 else POLICIES[::-1]:
                    times[policy].append(statistics.median(milliseconds(ports[policy], path, bodies, count)))
            pairs = list(zip(times["f1"], times["return"], strict=True))[1:]  # the first block does not count
            shares = [f1 / own for f1, own in pairs]
            result[way] = {
                "milliseconds": {policy: round(statistics.median(own[1:]), 3) for policy, own in times.items()},
                "requests a second under return, share of f1": round(statistics.median(shares), 3),
                "quartiles": [round(value, 3) for value in statistics.quantiles(shares)],
            }
    result["machine"] = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps(result, indent=1))
    (RESULTS / "policies.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
