"""The network against the truth: on the built-in sample the true probability of default of every loan is known.

    python benchmarks/truth.py --rows 60000 200000

In the file of March 2019 that the sample imitates, most young loans have not ended, so that labels there follow another
probability than the true PD. Here all loans are drawn as ended, so that the two agree. Judges the learner, not its quality on
real loans. Writes benchmarks/results/truth.json.
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

from lending_club.clean import clean_loans, target, temporal_split
from lending_club.features import parse_month
from lending_club.hpo import default_parameters
from lending_club.sample import draw
from lending_club.settings import Settings
from lending_club.train import fit_pipeline, score_models

RESULTS = Path(__file__).resolve().parent / "results"
ALL_ENDED = 2025 * 12.0  # January 2025, in months since the beginning of year 0: six years after the last loan was issued


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[60_000], help="sizes of the sample")
    parser.add_argument("--seeds", type=int, default=1, help="networks averaged (default: %(default)s)")
    options = parser.parse_args()
    result = {}
    for rows in options.rows:
        sample = draw(rows, 42, snapshot=ALL_ENDED)
        loans = clean_loans(sample.loans)
        final = np.flatnonzero(target(sample.loans["loan_status"]).notna())
        order = final[np.argsort(parse_month(sample.loans["issue_d"].to_numpy())[final], kind="stable")]
        splits = temporal_split(loans, date(2016, 1, 1), date(2017, 1, 1))
        true_pd = sample.true_pd[order][splits.test.index]
        settings = Settings(seeds=options.seeds, torch_device="cpu")
        start = time.perf_counter()
        pipeline, networks = fit_pipeline(splits, default_parameters(settings), settings)
        seconds = time.perf_counter() - start
        y = splits.test["default"]
        table = {"truth": {"roc_auc": roc_auc_score(y, true_pd), "mean_abs_difference": 0.0}}
        for name, scored in score_models(splits, pipeline).items():
            difference = float(np.mean(np.abs(scored.p - true_pd)))
            table[name] = {"roc_auc": roc_auc_score(y, scored.p), "mean_abs_difference": difference}
        result[str(rows)] = {
            "train_loans": len(splits.train), "test_loans": len(y), "seeds": options.seeds, "epochs": networks.epochs_,
            "fit_seconds": round(seconds, 1), "models": table,
        }  # fmt: skip
        print(f"{rows} loans, {seconds:.0f} s, epochs {networks.epochs_}")
        print(pd.DataFrame(table).T.to_markdown(floatfmt=".4f"), flush=True)
    (RESULTS / "truth.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
