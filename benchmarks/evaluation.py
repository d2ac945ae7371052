"""The evaluation at two dates: the network with its default parameters beside the baselines, overall and within each term.

    python benchmarks/evaluation.py ../shared/data/accepted_2007_to_2011.csv.gz

Writes benchmarks/results/evaluation.json and evaluation.png. Needs no registry: nothing is recorded or promoted.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd

from lending_club.clean import load_clean, temporal_split
from lending_club.core.hyperparameters import default_parameters
from lending_club.core.plots import use_style
from lending_club.core.settings import Settings, scratch_settings
from lending_club.train import compare, compare_by_term, fit_pipeline, score_models

HERE = Path(__file__).resolve().parent
CUTS = {
    "A: train before 2010-07, validation to 2010-12, test 2011": (date(2010, 7, 1), date(2011, 1, 1)),
    "B: train before 2011-01, validation to 2011-03, test from 2011-04": (date(2011, 1, 1), date(2011, 4, 1)),
}
SHOWN = {
    "loans": "loans",
    "bad_rate": "bad rate",
    "roc_auc": "ROC-AUC",
    "roc_auc_lower": "from",
    "roc_auc_upper": "to",
    "pr_auc": "PR-AUC",
    "ks": "KS",
    "brier": "Brier",
    "log_loss": "log-loss",
    "ece": "ECE",
    "calibration_slope": "slope",
    "calibration_slope_lower": "slope from",
    "calibration_slope_upper": "slope to",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a file of real loans, 2007 to 2011")
    options = parser.parse_args()
    settings = scratch_settings(data_path=str(options.data.resolve()), epochs=Settings.epochs, target="final_status")
    loans = load_clean(settings).loans
    use_style()
    figure, axes = plt.subplots(1, len(CUTS), figsize=(12, 4), sharey=True)
    tables, sizes = {}, {}
    for axis, (title, (train_end, val_end)) in zip(axes, CUTS.items(), strict=True):
        splits = temporal_split(loans, train_end, val_end)
        pipeline = fit_pipeline(splits, default_parameters(settings.network), settings)
        scored = score_models(splits, pipeline, settings.seed)
        overall = compare(splits, scored).assign(loans=len(splits.test), bad_rate=splits.test["default"].mean())
        overall.index = pd.MultiIndex.from_product([["all"], overall.index], names=["term", "model"])
        tables[title] = pd.concat([overall, compare_by_term(splits, scored)])[list(SHOWN)].rename(columns=SHOWN)
        sizes[title] = splits.summary().to_dict(orient="index")
        draw(axis, tables[title], title)
    figure.savefig(HERE / "results" / "evaluation.png", dpi=90)
    result = {
        title: {"splits": sizes[title], "table": table.reset_index().to_dict(orient="records")} for title, table in tables.items()
    }
    (HERE / "results" / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    for title, table in tables.items():
        print(f"\n{title}\n")
        print(table.reset_index().to_markdown(index=False, floatfmt=".4f"))


def draw(axis, table: pd.DataFrame, title: str):
    "ROC-AUC with its interval, by term and model."
    models = table.index.get_level_values("model").unique()
    terms = table.index.get_level_values("term").unique()
    for i, model in enumerate(models):
        own = table.xs(model, level="model").loc[terms]
        place = [k + 0.15 * (i - (len(models) - 1) / 2) for k in range(len(terms))]
        error = [own["ROC-AUC"] - own["from"], own["to"] - own["ROC-AUC"]]
        axis.errorbar(place, own["ROC-AUC"], yerr=error, fmt="o", ms=4, label=model)
    axis.set_xticks(range(len(terms)), terms)
    axis.set(xlabel="term", ylabel="ROC-AUC, 95 % interval", title=title)
    axis.legend(fontsize="small")


if __name__ == "__main__":
    main()
