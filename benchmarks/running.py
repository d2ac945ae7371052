"""The network against the truth where most loans are still running: the built-in sample as of a date.

    python benchmarks/running.py           # three seeds; five minutes on one core

The sample's file is of March 2019; the network learns time to event from what had happened by 2017-01, when 37 % of the
loans issued had ended. The true PD of every later loan is known. Beside it stands the network of final statuses on the
same loans with all outcomes known, as nobody has them, and the project's LightGBM on the ended loans. Judges the learner, not
its quality on real loans. Writes benchmarks/results/running.json.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import pandas as pd
from truth import known_sample

from lending_club.core.evaluation import ended_parts
from lending_club.core.hyperparameters import default_parameters
from lending_club.core.parsing import parse_term
from lending_club.core.sample_truth import true_cumulative
from lending_club.core.settings import scratch_settings
from lending_club.train import fit_pipeline, score_models

RESULTS = Path(__file__).resolve().parent / "results"
AGES = (12, 24, 36)  # months on book of the curves that are compared


def figures(p: np.ndarray, true_pd: np.ndarray, test: pd.DataFrame) -> dict:
    "Distance to the truth, and the mean PD over the mean true PD: of all, by term and by year of issue."
    groups = {f"{term} months": parse_term(test["term"].to_numpy()) == term for term in (36, 60)}
    groups |= {str(year): (test["issue_month"].dt.year == year).to_numpy() for year in (2017, 2018)}
    ratios = {name: p[own].mean() / true_pd[own].mean() for name, own in groups.items() if own.any()}
    return {"mean_abs_difference": np.abs(p - true_pd).mean(), "mean_pd": p.mean(), "ratio": p.mean() / true_pd.mean()} | ratios


def curves(pipeline, test: pd.DataFrame, true_pd: np.ndarray) -> dict:
    "Mean cumulative default and payoff, predicted and true, by term and month on book."
    term = parse_term(test["term"].to_numpy()).astype(int)
    predicted, true = pipeline.predict_cumulative(test), true_cumulative(true_pd, term)
    return {
        f"{months} months, by month {age}": {
            kind: [predicted[term == months, age - 1, k].mean(), true[term == months, age - 1, k].mean()]
            for k, kind in enumerate(("default", "payoff"))
        }
        for months in (36, 60)
        for age in (*AGES, months)
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000, help="size of the sample (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], help="seeds of the fits (default: %(default)s)")
    options = parser.parse_args()
    known = {target: known_sample(options.rows, target)[1:] for target in ("time_to_event", "final_status")}
    names = {"time_to_event": "as of 2017-01", "final_status": "all outcomes known"}
    timed, true_pd = known["time_to_event"]
    result = {
        "rows": options.rows,
        "mean_true_pd": true_pd.mean(),
        "known_loans": len(timed.known),
        "ended": len(ended_parts(timed).refit),
        "fits": {},
    }
    for seed in options.seeds:
        settings = scratch_settings(epochs=60, torch_device="cpu", seed=seed)
        for target, (splits, truth) in known.items():
            start = time.perf_counter()
            pipeline = fit_pipeline(splits, default_parameters("tabm", target), settings)
            own = figures(pipeline.predict_proba(splits.test)[:, 1], truth, splits.test)
            result["fits"][f"network, {names[target]}, seed {seed}"] = own | {"seconds": round(time.perf_counter() - start)}
            if target == "time_to_event" and seed == options.seeds[0]:
                result["curves"] = curves(pipeline, splits.test, truth)
                usual = score_models(splits, pipeline, seed)["LightGBM, ended loans"].p
                result["fits"]["LightGBM, ended loans"] = figures(usual, truth, splits.test)
        print(pd.DataFrame(result["fits"]).T.round(4).to_string(), flush=True)
    apart = pd.DataFrame(result["fits"]).T["mean_abs_difference"]
    means = [apart[apart.index.str.contains(way)].mean() for way in names.values()]
    result["times_that_with_all_outcomes"] = means[0] / means[1]
    print(pd.DataFrame(result["curves"]).T.map(lambda pair: "{:.3f} of {:.3f}".format(*pair)).to_string())
    print(f"mean absolute difference {means[0]:.4f}, with all outcomes known {means[1]:.4f}: {means[0] / means[1]:.3f} times")
    (RESULTS / "running.json").write_text(json.dumps(result, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
