"""The network against the truth: on the built-in sample the true probability of default of every loan is known.

    python benchmarks/truth.py                       # 60,000 and 200,000 loans; forty minutes on one core
    python benchmarks/truth.py --rows 60000 --trials 1

In the file of March 2019 that the sample imitates, most young loans have not ended, so that labels there follow another
probability than the true PD. Here all loans are drawn as ended, so that the two agree. The network has its defaults, and once
more the parameters that the project's own search finds on the validation loans of one of these samples. Judges the learner,
not its quality on real loans. Writes benchmarks/results/truth.json.
"""

import argparse
import json
import os
import time
from datetime import date
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from lending_club.clean import clean_with_rows, temporal_split
from lending_club.core.hyperparameters import default_parameters
from lending_club.core.loans import CleanLoans
from lending_club.core.sample import draw
from lending_club.core.settings import scratch_settings
from lending_club.core.study import best_parameters
from lending_club.hpo import search
from lending_club.train import fit_pipeline, score_models

RESULTS = Path(__file__).resolve().parent / "results"
ALL_ENDED = 2025 * 12.0  # January 2025, in months since the beginning of year 0: six years after the last loan was issued


def known_sample(rows: int, target: str = "final_status"):
    "Splits of a sample and the true PDs of its test loans; with final statuses every loan has ended."
    sample = draw(rows, 42, **({"snapshot": ALL_ENDED} if target == "final_status" else {}))
    loans, order = clean_with_rows(sample.loans, target=target)
    splits = temporal_split(loans, date(2016, 1, 1), date(2017, 1, 1))
    return loans, splits, sample.true_pd[order][splits.test.index]


def search_parameters(rows: int, settings) -> dict:
    "What the project's search finds on the validation loans of a sample."
    loans, splits, _ = known_sample(rows)
    clean = CleanLoans(loans, f"all ended, {rows}", f"sample of {rows}")
    search(settings, clean, splits)
    return best_parameters(settings, clean.data_hash)[0]


def measure(splits, true_pd, parameters: dict, settings, others: bool) -> dict:
    "How near the network comes to the truth; and the other models, where they are wanted."
    start = time.perf_counter()
    pipeline = fit_pipeline(splits, parameters, settings)
    networks = pipeline[-1].estimator.net
    seconds = time.perf_counter() - start
    y = splits.test["default"]
    scored = {name: one.p for name, one in score_models(splits, pipeline).items()} if others else {}
    scored |= {"network": pipeline.predict_proba(splits.test)[:, 1]}
    table = {"truth": {"roc_auc": roc_auc_score(y, true_pd), "mean_abs_difference": 0.0}} | {
        name: {"roc_auc": roc_auc_score(y, p), "mean_abs_difference": float(np.mean(np.abs(p - true_pd)))}
        for name, p in scored.items()
    }
    print(f"{seconds:.0f} s, epochs {networks.epochs_}, {parameters}")
    print(pd.DataFrame(table).T.to_markdown(floatfmt=".4f"), flush=True)
    return {"epochs": networks.epochs_, "fit_seconds": round(seconds, 1), "parameters": parameters, "models": table}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[60_000, 200_000], help="sizes of the sample")
    parser.add_argument("--seeds", type=int, default=1, help="networks averaged (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=16, help="of the search; 1: defaults alone (default: %(default)s)")
    parser.add_argument("--search-rows", type=int, default=200_000, help="size of the searched sample (default: %(default)s)")
    options = parser.parse_args()
    settings = scratch_settings(epochs=60, seeds=options.seeds, trials=options.trials, torch_device="cpu")
    ways = {"defaults": default_parameters(settings.network)}
    if options.trials > 1:
        ways["searched"] = search_parameters(options.search_rows, settings)
        print("the search took", ways["searched"], flush=True)
    result = {"seeds": options.seeds, "trials": options.trials, "search_rows": options.search_rows, "samples": {}}
    for rows in options.rows:
        _, splits, true_pd = known_sample(rows)
        own = {"train_loans": len(splits.train), "test_loans": len(splits.test)}
        for way, parameters in ways.items():
            own[way] = measure(splits, true_pd, parameters, settings, others=way == "defaults")
        result["samples"][str(rows)] = own
        (RESULTS / "truth.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
