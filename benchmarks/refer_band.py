"""Refer bands on real loans: what their sets hold a year later, and how many applications they refer.

    python benchmarks/refer_band.py accepted_2007_to_2011.csv.gz                      # two minutes on one core
    python benchmarks/refer_band.py accepted_2007_to_2011.csv.gz --as-of 2010-07      # another date

The networks of hazards (defaults of the project, five seeds) are fitted on what was known at the date. The thresholds come from
five folds of the loans that had been observed for 12 months by then. They are tested on the loans issued in the twelve months
from the date on, with their outcomes after 12 months on book: both kinds of sets at three levels. `median_p12_of_bad` tells
whether the charged-off loans of the test look like those of the past. Writes refer_band.json and refer_band.png.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from lending_club.clean import clean_loans, temporal_split
from lending_club.core.conformal import BAND_KINDS, HORIZON, fit_sets
from lending_club.core.data import read_loans
from lending_club.core.horizons import outcome_at, pd_at
from lending_club.core.hyperparameters import default_parameters
from lending_club.core.plots import use_style
from lending_club.core.refer_band import band_report, out_of_fold_pds, plot_refer_band
from lending_club.core.settings import scratch_settings
from lending_club.train import fit_networks

RESULTS = Path(__file__).resolve().parent / "results"
LEVELS, SHOWN = (0.8, 0.9, 0.95), 0.9
VALIDATION, TESTED = 6, 12  # months before the date and from it on
SEEDS, FOLDS = 5, 5


def measure(loans: pd.DataFrame, date: str) -> tuple[dict, dict]:
    "Thresholds and reports by level and kind; and the reports as tables."
    day, start = pd.Timestamp(date), time.perf_counter()
    known = loans[loans["issue_month"] < day + pd.DateOffset(months=TESTED)]
    splits = temporal_split(known, day - pd.DateOffset(months=VALIDATION), day)
    settings = scratch_settings(seeds=SEEDS, epochs=60, torch_device="cpu", seed=0)
    fitted = fit_networks(splits, default_parameters("tabm", "time_to_event"), settings, progress=False)
    middle = time.perf_counter()
    unseen = out_of_fold_pds(splits, fitted, settings, FOLDS)
    end = time.perf_counter()
    p12 = pd_at(fitted[-1].predict_cumulative(fitted[:-1].transform(splits.test))[:, :, 0], HORIZON)
    p12_of_bad = {"counted": unseen.loc[unseen["bad"] == 1, "p12"], "tested": p12[outcome_at(splits.test, HORIZON) == 1]}
    result = {
        "known_loans": len(splits.known),
        "counted_loans": len(unseen),
        "counted_charge_offs": int(unseen["bad"].sum()),
        "test_loans": len(splits.test),
        "mean_p12": {"counted": unseen["p12"].mean(), "tested": p12.mean()},
        "median_p12_of_bad": {name: float(np.median(own)) for name, own in p12_of_bad.items()},
        "epochs": fitted[-1].epochs_used_,
        "seconds": {"fit": round(middle - start), "folds": round(end - middle)},
        "levels": {},
    }
    reports = {}
    for level in LEVELS:
        for kind in BAND_KINDS:
            table = fit_sets(unseen["p12"], unseen["bad"], level, kind)
            reports[level, kind] = band_report(splits.test, splits.snapshot, p12, table)
            tables = {name: own.drop(columns="level", errors="ignore") for name, own in reports[level, kind].items()}
            rows = {name: json.loads(own.to_json(orient="index", double_precision=6)) for name, own in tables.items()}
            result["levels"].setdefault(str(level), {})[kind] = {"table": table} | rows
    return result, reports


def summary(reports: dict) -> pd.DataFrame:
    "One row a level and kind."
    rows = {}
    for (level, kind), own in reports.items():
        whole, each = own["overall"].loc["all"], own["by_outcome"]["coverage"]
        rows[level, kind] = {"coverage": whole["coverage"], "of good": each["not charged off"], "of bad": each["charged off"]}
        rows[level, kind] |= {name: whole[name] for name in ("referred", "good", "bad", "both", "none")}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["level", "kind"])


def draw(reports: dict, date: str):
    "The pictures of both kinds at one level, one above the other."
    use_style()
    parts = []
    for kind in BAND_KINDS:
        own = reports[SHOWN, kind]
        loans = own["overall"].loc["all", "loans"]
        title = f"{kind.replace('_', '-').capitalize()} sets, level {100 * SHOWN:g} %: {loans:,} loans issued from {date} on"
        figure = plot_refer_band(own, title)
        figure.canvas.draw()
        parts.append(np.asarray(figure.canvas.buffer_rgba())[:, :, :3])
        plt.close(figure)
    plt.imsave(RESULTS / "refer_band.png", np.concatenate(parts))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a file of real loans, 2007 to 2011")
    parser.add_argument("--as-of", default="2011-01", help="month in which the lender decides (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plt.switch_backend("Agg")
    loans = clean_loans(read_loans(options.data), target="time_to_event")
    result, reports = measure(loans, options.as_of)
    print(json.dumps({name: own for name, own in result.items() if name != "levels"}, default=float))
    print(summary(reports).round(3).to_string())
    for kind in BAND_KINDS:
        print(kind, pd.concat([reports[SHOWN, kind][name] for name in ("by_term", "by_grade")]).round(3).to_string(), sep="\n")
    content = {"data": options.data.name, "as_of": options.as_of} | result
    (RESULTS / "refer_band.json").write_text(json.dumps(content, indent=1, default=float) + "\n")
    draw(reports, options.as_of)


if __name__ == "__main__":
    main()
