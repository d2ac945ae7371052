"""What policies would have earned on real loans, decided by what was known as of a date.

    python benchmarks/money.py accepted_2007_to_2011.csv.gz               # as of 2011-01, tested on 2011; two minutes on one core
    python benchmarks/money.py accepted_2007_to_2011.csv.gz --early       # as of 2010-01, whose loans choices may be made on

The network of hazards (the project's defaults, five seeds) is fitted on what was known at the date; nothing later is used,
neither for the fit nor for the threshold, the latest PDs or the share recovered. Each policy decides about the loans of the next
twelve months (six with --early), and is measured by what they paid. At five funding costs the policy `profit` stands beside
approving all loans and F1, and `return` asks for three points more; at no cost a ranking by expected return approves as many as
F1. Writes money.json, money.png and money-deciles.png (money-early.json).
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

import matplotlib.pyplot as plt
import pandas as pd
from as_of import MONTHS, SEEDS

from lending_club.clean import clean_with_rows, temporal_split
from lending_club.core.backtest import ALL, Plan, backtest_tables, decide_as_of
from lending_club.core.data import read_loans
from lending_club.core.hazard_calibration import assemble_timed
from lending_club.core.hyperparameters import default_parameters
from lending_club.core.money_plots import plot_approval, plot_money_deciles
from lending_club.core.payments import payments_of
from lending_club.core.plots import use_style
from lending_club.core.repeats import drop_repeated_ids
from lending_club.core.settings import scratch_settings
from lending_club.train import fit_networks

RESULTS = Path(__file__).resolve().parent / "results"
COSTS = (0.0, 0.03, 0.06, 0.08, 0.10)
ABOVE = 0.03  # of the hurdle rate over the funding cost


def interval(row: pd.Series, name: str) -> dict:
    "A figure in USD million with its interval."
    return {"value": row[name] / 1e6, "lower": row[f"{name}_lower"] / 1e6, "upper": row[f"{name}_upper"] / 1e6}


def at_cost(settings, plan, pipeline, payments, cost: float) -> tuple[dict, dict]:
    "All policies at one funding cost."
    own = dataclasses.replace(settings, funding_cost=cost, hurdle_rate=cost + ABOVE)
    backtest = decide_as_of(own, plan, pipeline, payments)
    tables = backtest_tables(backtest, "profit")
    policies = tables["policies"]
    rows = {
        name: {
            "approval_rate": row["approval_rate"],
            "bad_rate": row["bad_rate"],
            "lent": row["lent"] / 1e6,
            "annual_return": row["annual_return"],
            "expected": row["expected"] / 1e6,
            "profit": interval(row, "profit"),
            "gain": interval(row, "gain"),
            "npv": interval(row, "npv"),
        }
        for name, row in policies.iterrows()
    }
    f1, ranked, every = (policies.loc[name, "profit"] for name in ("f1", "expected return, as many as f1", ALL))
    terms = tables["terms"]
    figures = {
        "policies": rows,
        "expected return to f1, same approvals": ranked / f1,
        "profit policy to all": policies.loc["profit", "profit"] / every,
        "expected to realised": {
            term: {"expected": row["expected"] / 1e6, "realised": row["profit"] / 1e6, "ratio": row["expected"] / row["profit"]}
            for term, row in terms.iterrows()
        },
    }
    return figures, tables | {"recoveries": backtest.money["recoveries"], "pds": backtest.pds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="accepted loans of 2007 to 2011")
    parser.add_argument("--early", action="store_true", help="as of 2010-01 instead of 2011-01")
    options = parser.parse_args()
    day, tested = (pd.Timestamp("2010-01-01"), MONTHS) if options.early else (pd.Timestamp("2011-01-01"), 12)
    raw = drop_repeated_ids(read_loans(options.file))
    loans, rows = clean_with_rows(raw, target="time_to_event")
    payments = payments_of(raw).iloc[rows].reset_index(drop=True)
    known = loans[loans["issue_month"] < day + pd.DateOffset(months=tested)]
    splits = temporal_split(known, day - pd.DateOffset(months=MONTHS), day)
    settings, start = scratch_settings(seeds=SEEDS, epochs=60, torch_device="cpu", seed=0), time.perf_counter()
    fitted = fit_networks(splits, default_parameters("tabm", "time_to_event"), settings, progress=False)
    pipeline = assemble_timed(splits, fitted)
    seconds, found, tables = round(time.perf_counter() - start), {}, {}
    for cost in COSTS:
        found[f"{cost:.0%}"], tables[cost] = at_cost(settings, Plan(splits), pipeline, payments, cost)
        gains = {name: round(own["gain"]["value"], 2) for name, own in found[f"{cost:.0%}"]["policies"].items()}
        print(f"gain over all at {cost:.0%}, USD million:", json.dumps(gains), flush=True)
    result = {
        "as_of": f"{day:%Y-%m}",
        "loans": len(splits.test),
        "bad_rate": float(splits.test["default"].mean()),
        "mean_pd": float(tables[0.0]["pds"].mean()),
        "recoveries": tables[0.0]["recoveries"],
        "fit_seconds": seconds,
        "funding costs": found,
    }
    name = "money-early" if options.early else "money"
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, default=float) + "\n")
    print(
        json.dumps(
            {
                key: found["0%"][key]
                for key in ("expected return to f1, same approvals", "profit policy to all", "expected to realised")
            },
            indent=1,
        )
    )
    if not options.early:
        use_style()
        title = f"{len(splits.test):,} loans of 2011, decided as of {day:%Y-%m}; no funding cost"
        plot_approval(tables[0.0]["approval_curves"], tables[0.0]["policies"], title).savefig(RESULTS / "money.png", dpi=110)
        plot_money_deciles(tables[0.0]["deciles"], tables[0.0]["terms"], title).savefig(RESULTS / "money-deciles.png", dpi=110)
        plt.close("all")


if __name__ == "__main__":
    main()
