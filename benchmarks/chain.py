"""The whole chain on a real file: run, promote, serve, curl. What the README shows as its answer.

The run is repeated: once with nothing changed, when every stage is skipped, and once from the start with `--force`, when
every metric must come out the same to the last digit.

    python benchmarks/chain.py ../shared/data/accepted_2007_to_2011.csv.gz

Works in a temporary folder, so that it touches nobody's registry; writes benchmarks/results/chain.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pandas as pd
from servers import free_port, process, wait_for

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHOWN = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "ks": "KS", "brier": "Brier", "log_loss": "log-loss", "ece": "ECE"}


def ask(url: str, application: dict) -> dict:
    "The service's answer."
    request = urllib.request.Request(f"{url}/predict", json.dumps(application).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def cards_of_all(folder: str) -> list[dict]:
    "The card of every version that was registered."
    return [json.loads(path.read_text()) for path in Path(folder, "var", "artifacts").rglob("card.json")]


def same(one: dict, other: dict) -> bool:
    "Whether two runs have the same metrics, to the last digit."
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a file of real loans, 2007 to 2011")
    parser.add_argument("--train-end", default="2010-07-01")
    parser.add_argument("--val-end", default="2011-01-01")
    options = parser.parse_args()
    command = Path(sys.executable).with_name("lending-club")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "nbs", Path(folder, "nbs"))
        shutil.copy(ROOT / "settings.ini", folder)
        environment = {k: v for k, v in os.environ.items() if k not in ("IN_TEST", "DATA_PATH", "MLFLOW_TRACKING_URI")}

        def call(*words):
            start = time.perf_counter()
            subprocess.run([command, *words], cwd=folder, env=environment, check=True)
            return time.perf_counter() - start

        dates = ("--train-end", options.train_end, "--val-end", options.val_end)
        seconds = call("run", "--data", str(options.data.resolve()), *dates)
        unchanged = call("run", "--data", str(options.data.resolve()), *dates)
        call("run", "--data", str(options.data.resolve()), *dates, "--force")
        cards = cards_of_all(folder)
        assert len(cards) == 2 and same(cards[0]["metrics"], cards[1]["metrics"]), "the second run has other metrics"
        call("promote")
        card = cards[0]
        port, log = free_port(), Path(folder, "serve.log")
        with process([command, "serve", "--port", port], folder, log, environment) as server:
            wait_for(f"http://127.0.0.1:{port}/ready", server, log)
            answer = ask(f"http://127.0.0.1:{port}", json.loads((ROOT / "service" / "loan.json").read_text()))
    metrics = pd.DataFrame.from_dict(card["metrics"], orient="index")
    table = metrics[list(SHOWN)].rename(columns=SHOWN)
    result = {
        "data": options.data.name,
        "split": {"train_end": options.train_end, "val_end": options.val_end},
        "splits": card["splits"],
        "run_seconds": round(seconds, 1),
        "unchanged_run_seconds": round(unchanged, 1),
        "metrics_compared": sum(map(len, card["metrics"].values())),
        "metrics": card["metrics"],
        "answer": answer,
        "table": table.to_markdown(floatfmt=".4f"),
    }
    target = HERE / "results" / "chain.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(result["table"])
    print(f"pipeline: {seconds:.0f} s, unchanged {unchanged:.0f} s; answer: {json.dumps(answer)}")


if __name__ == "__main__":
    main()
