"""Fit the built-in sample's tables on a raw file, and show how close the sample comes to it.

    python benchmarks/sample_fit.py ../shared/data/accepted_sample_2007_to_2018.csv.gz [--write-tables]

Writes benchmarks/results/sample_fit.json and .png; with --write-tables also lending_club/core/sample_tables.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lending_club.clean import load_clean, sample_truth, temporal_split
from lending_club.core.data import read_loans
from lending_club.core.months import parse_month
from lending_club.core.parsing import parse_sub_grade
from lending_club.core.preprocess import preprocessing
from lending_club.core.sample import TABLES, draw, load_tables
from lending_club.core.sample_fit import compare_with_real, fit_tables, plot_with_real
from lending_club.core.settings import scratch_settings

RESULTS = Path(__file__).resolve().parent / "results"
COPIES = 20  # drawn loans for each real one, so that chance in the sample is small
MILLION = """
import resource, sys, time
from lending_club.core.sample import write_sample
start = time.perf_counter()
write_sample(sys.argv[1], 1_000_000)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def auc_on_the_sample(rows: int = 60_000) -> dict:
    "ROC-AUC of the truth and of models on the final loans of the default test period."
    settings = scratch_settings(sample_rows=rows, target="final_status")
    splits = temporal_split(load_clean(settings).loans, settings.train_end, settings.val_end)
    truth = sample_truth(settings).loc[splits.test.index]
    y = splits.test["default"].to_numpy()
    prepare = preprocessing(seed=0).fit(splits.train)
    X, X_test = prepare.transform(splits.train), prepare.transform(splits.test)
    trees = HistGradientBoostingClassifier(learning_rate=0.04, max_leaf_nodes=12, max_iter=300, random_state=0)
    models = {"trees": trees, "logistic regression": LogisticRegression(C=0.1, max_iter=3_000)}
    result = {"truth": roc_auc_score(y, truth["true_pd"]), "truth given final": roc_auc_score(y, truth["pd_given_resolved"])}
    for name, model in models.items():
        result[name] = roc_auc_score(y, model.fit(X, splits.train["default"]).predict_proba(X_test)[:, 1])
    result["sub-grade alone"] = roc_auc_score(y, parse_sub_grade(splits.test["sub_grade"].to_numpy()))
    return {name: float(value) for name, value in result.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a raw file with every column")
    parser.add_argument("--write-tables", action="store_true", help="put the fitted tables into the package")
    options = parser.parse_args()
    real = read_loans(options.data, columns="all")
    start = time.perf_counter()
    tables = fit_tables(real)
    seconds = {"fit": time.perf_counter() - start}
    if options.write_tables:
        TABLES.write_text(json.dumps(tables, separators=(",", ":")) + "\n")
        load_tables.cache_clear()
    drawn = draw(COPIES * len(real), 7, tables, np.tile(parse_month(real["issue_d"].to_numpy()), COPIES)).loans
    compared = compare_with_real(real, drawn)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        draw(60_000)
        times.append(time.perf_counter() - start)
    seconds["draw 60,000 loans"] = sorted(times)[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", MILLION, f"{folder}/loans.parquet"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds["1,000,000 loans to Parquet"], peak = map(float, done.stdout.split())
    result = {
        "data": options.data.name,
        "real_loans": len(real),
        "columns": compared["columns"].to_dict(),
        "grades": compared["grades"].to_dict(),
        "largest": {
            "KS of a main column": float(compared["columns"]["KS"].max()),
            "rank correlation": float(compared["correlations"].abs().max().max()),
            "missing share": float(compared["missing"]["difference"].abs().max()),
            "bad rate, grades of 500 real loans or more": _largest(compared["grades"], 500, np.inf),
            "bad rate, smaller grades": _largest(compared["grades"], 0, 500),
        },
        "roc_auc": auc_on_the_sample(),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "peak_MiB_of_a_million": round(peak),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sample_fit.json").write_text(json.dumps(result, indent=1) + "\n")
    plot_with_real(real, drawn).savefig(RESULTS / "sample_fit.png", dpi=80)
    print(pd.Series(result["largest"] | result["roc_auc"] | result["seconds"]).round(4).to_string())
    print(f"peak memory of a million loans: {peak:.0f} MiB")


def _largest(grades: pd.DataFrame, least: float, below: float) -> float:
    own = grades[(grades["real loans"] >= least) & (grades["real loans"] < below)]
    return float(own["difference"].abs().max())


if __name__ == "__main__":
    main()
