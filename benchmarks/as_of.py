"""What a lender could have learnt by a date, on real loans: networks of hazards against what is usual.

    python benchmarks/as_of.py accepted_2007_to_2011.csv.gz --choose    # early dates: compare choices, write as_of_config.json
    python benchmarks/as_of.py accepted_2007_to_2011.csv.gz             # the three test dates; ten minutes on one core

For each date T: fit on what was known before T, test on the loans issued in the six months from T on, with their outcomes over
the full term. Five ways: LightGBM on the loans that had ended by T (usual); LightGBM on discrete hazards in quarters; the network
of hazards (defaults of the project, five seeds); and as bounds that no lender reaches, LightGBM and the network of final statuses
with labels from the future. Choices are made on T = 2009-07, 2009-10 and 2010-01, whose test loans were all issued before
2010-07, and are written to as_of_config.json before the loans of a later date are opened. Writes as_of.json and as_of.png.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

import lightgbm
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import log_loss, roc_auc_score

from lending_club.clean import clean_loans, temporal_split
from lending_club.core.data import read_loans
from lending_club.core.evaluation import ended_parts
from lending_club.core.hazard_calibration import level_table
from lending_club.core.hazard_estimators import curves_of, expected_charge_offs
from lending_club.core.horizons import outcome_at
from lending_club.core.hyperparameters import default_parameters
from lending_club.core.parsing import parse_term
from lending_club.core.plots import ACCENT, INK, use_style
from lending_club.core.preprocess import FeatureBuilder
from lending_club.core.settings import scratch_settings
from lending_club.core.timeline import CHARGE_OFF, exposure, months_since_year_0
from lending_club.train import fit_networks

RESULTS = Path(__file__).resolve().parent / "results"
EARLY, DATES = ("2009-07", "2009-10", "2010-01"), ("2010-07", "2011-01", "2011-07")
MONTHS = 6  # of test loans from a date on, and of validation before it
SEEDS, TREE_SEEDS, RESAMPLES = 5, 3, 1_000
PERIOD = 3  # months of LightGBM's periods
TREES = {
    "learning_rate": 0.03,
    "num_leaves": 12,
    "min_child_samples": 50,
    "colsample_bytree": 0.4,
    "subsample": 0.9,
    "subsample_freq": 1,
    "reg_lambda": 5,
    "n_estimators": 200,
    "verbose": -1,
    "n_jobs": 1,
}
HAZARD_TREES = TREES | {"objective": "multiclass", "num_class": 3, "n_estimators": 150, "min_child_samples": 200}
# what was compared on the early dates: changes of the defaults, each with its level kept, moved, and with trends
CHOICES = {
    "default": {},
    "width 64, two blocks": {"width": 64, "blocks": 2},
    "two blocks, dropout .2": {"blocks": 2, "dropout": 0.2},
    "dropout .2": {"dropout": 0.2},
    "dropout .1": {"dropout": 0.1},
    "16 members": {"k": 16},
}
PRIOR = 50  # charge-offs that no trend is worth


def frame(loans: pd.DataFrame) -> pd.DataFrame:
    "Features as LightGBM takes them: numbers, and categories as codes."
    features = FeatureBuilder().fit_transform(loans)
    coded = {name: pd.Categorical(own).codes if not pd.api.types.is_numeric_dtype(own) else own for name, own in features.items()}
    table = pd.DataFrame(coded, index=loans.index).astype(float)
    return table[[name for name in table if table[name].notna().mean() > 0.05 and table[name].nunique() > 1]]


def average(models, predict) -> np.ndarray:
    return np.mean([predict(model) for model in models], axis=0)


def trees(X: pd.DataFrame, train, y, test) -> np.ndarray:
    models = [lightgbm.LGBMClassifier(**TREES, random_state=seed).fit(X.loc[train], y) for seed in range(TREE_SEEDS)]
    return average(models, lambda model: model.predict_proba(X.loc[test])[:, 1])


def in_quarters(splits) -> pd.DataFrame:
    "A row for each loan and period that is over: the loan, the period, and 0 went on, 1 charged off, 2 paid off."
    own = splits.refit
    age = months_since_year_0(splits.val_end) - 1 - months_since_issue(splits.loans.loc[own.index])
    ended = own["event"] > 0
    last = own["exit"] // PERIOD  # the period of the ending, or the one that is running
    over = np.where(last == own["term"] // PERIOD - 1, age >= own["term"] + 6, (last + 1) * PERIOD <= age)
    rows = last + (ended & over)
    loan = np.repeat(own.index.to_numpy(), rows)
    period = np.concatenate([np.arange(n) for n in rows]) if rows.sum() else np.empty(0, int)
    event, at = (pd.Series(values, own.index).loc[loan].to_numpy() for values in (own["event"] * (ended & over), last))
    return pd.DataFrame({"loan": loan, "period": period, "event": np.where(period == at, event, 0)})


def months_since_issue(loans: pd.DataFrame) -> np.ndarray:
    return (loans["issue_month"].dt.year * 12 + loans["issue_month"].dt.month - 1).to_numpy()


def hazard_trees(X: pd.DataFrame, splits) -> np.ndarray:
    "Competing hazards by quarter on book; the PD of the test loans over their term."
    rows, term = in_quarters(splits), pd.Series(parse_term(splits.loans["term"].to_numpy()), splits.loans.index)

    def matrix(loan, period):
        return X.loc[loan].assign(period=period, term=term.loc[loan].to_numpy())

    table, test = matrix(rows["loan"], rows["period"].to_numpy()), splits.test.index
    result = []
    for seed in range(TREE_SEEDS):
        model = lightgbm.LGBMClassifier(**HAZARD_TREES, random_state=seed).fit(table, rows["event"])
        alive, pd_ = np.ones(len(test)), np.zeros(len(test))
        for period in range(60 // PERIOD):
            hazards, on = model.predict_proba(matrix(test, period)), period * PERIOD < term.loc[test].to_numpy()
            pd_ += np.where(on, alive * hazards[:, 1], 0)
            alive = np.where(on, alive * hazards[:, 0], alive)
        result.append(pd_)
    return np.mean(result, axis=0)


def charge_offs(splits, cumulative: np.ndarray, by: str) -> pd.DataFrame:
    "Observed and expected charge-offs before `val_end`, by month of issue or quarter of the calendar, as `years` from `val_end`."
    if by == "vintage":
        y = splits.refit.to_numpy()
        years = (months_since_issue(splits.loans.loc[splits.refit.index]) - months_since_year_0(splits.val_end)) / 12
        rows = [pd.DataFrame({"years": years, "seen": y[:, 2] == CHARGE_OFF, "due": expected_charge_offs(cumulative, y)})]
    else:
        rows, end = [], splits.val_end
        place = pd.Series(np.arange(len(splits.refit)), splits.refit.index)
        while len(own := exposure(splits.loans, end, since=end - pd.DateOffset(months=3))):
            y, ago = own.to_numpy(), (months_since_year_0(end) - months_since_year_0(splits.val_end) - 1.5) / 12
            due = expected_charge_offs(cumulative[place.loc[own.index]], y)
            rows.append(pd.DataFrame({"years": ago, "seen": y[:, 2] == CHARGE_OFF, "due": due}))
            end -= pd.DateOffset(months=3)
    return pd.concat(rows).groupby("years", as_index=False).sum().astype(float)


def trend(table: pd.DataFrame) -> PoissonRegressor:
    "A log-linear trend of observed over expected charge-offs, with a prior of `PRIOR` charge-offs as expected."
    weight = table["due"] * (1 + PRIOR / table["due"].sum())
    seen = table["seen"] + table["due"] * PRIOR / table["due"].sum()
    own = weight > 0
    ratio = (seen[own] / weight[own]).to_numpy()
    return PoissonRegressor(alpha=0).fit(table.loc[own, ["years"]].to_numpy(), ratio, sample_weight=weight[own])


def trends(net, fitted, splits, X, factors: np.ndarray) -> dict:
    "PDs of the test loans with a trend over vintages, extended to their month of issue or held at `val_end`, or over quarters."
    cumulative = net.predict_cumulative(fitted[:-1].transform(splits.loans.loc[splits.refit.index]))
    later = (months_since_issue(splits.test) - months_since_year_0(splits.val_end)) / 12
    models, result = {by: trend(charge_offs(splits, cumulative, by)) for by in ("vintage", "quarter")}, {}
    for by, name, years in (
        ("vintage", "vintage trend", later),
        ("vintage", "vintage trend, held", 0 * later),
        ("quarter", "quarter trend, held", 0 * later),
    ):
        own = factors * np.column_stack([models[by].predict(years[:, None]), np.ones(len(years))])
        result[name] = {"p": curves_of(own, X, net.layout_)[:, -1, 0], "times a year": float(np.exp(models[by].coef_[0]))}
    return result


def network(splits, parameters: dict, seeds: int = SEEDS, with_trends: bool = False) -> dict:
    "The network of hazards: PDs of the test loans, their curves, and what moving the level would do."
    start = time.perf_counter()
    settings = scratch_settings(seeds=seeds, epochs=60, torch_device="cpu", seed=0)
    fitted = fit_networks(splits, parameters, settings, progress=False)
    net, X = fitted[-1], fitted[:-1].transform(splits.test)
    factors = net.mean_factors(X)
    at_risk = fitted[:-1].transform(splits.loans.loc[splits.calibration.index])
    level = level_table(net.predict_cumulative(at_risk), splits.calibration.to_numpy())
    curves = {"kept": curves_of(factors, X, net.layout_), "moved": curves_of(factors, X, net.layout_, tuple(level["multiplier"]))}
    return {
        "p": curves["kept"][:, -1, 0],
        "curve": curves["kept"],
        "moved": curves["moved"][:, -1, 0],
        "trends": trends(net, fitted, splits, X, factors) if with_trends else {},
        "multipliers": level["multiplier"].round(3).tolist(),
        "epochs": net.epochs_used_,
        "seconds": round(time.perf_counter() - start),
    }


def future_network(loans: pd.DataFrame, day: pd.Timestamp) -> np.ndarray:
    "The network of final statuses with labels from the future; its calibration months are left to the fit, as in the others."
    own = loans.assign(default=loans["default"].astype("int8")).drop(columns="end_month")
    splits = temporal_split(own, day - pd.DateOffset(months=MONTHS), day)
    settings = scratch_settings(seeds=SEEDS, epochs=60, torch_device="cpu", seed=0)
    known = pd.concat([splits.validation, splits.calibration])
    together = type(splits)(splits.train, known, known, splits.test)
    fitted = fit_networks(together, default_parameters("tabm"), settings, progress=False)
    return fitted.predict_proba(splits.test)[:, 1]


def split_at(loans: pd.DataFrame, date: str):
    "What was known before a date, and the test loans of the months from it on."
    day = pd.Timestamp(date)
    known = loans[loans["issue_month"] < day + pd.DateOffset(months=MONTHS)]
    return temporal_split(known, day - pd.DateOffset(months=MONTHS), day), known, day


def figures(y: np.ndarray, p: np.ndarray) -> dict:
    p = np.clip(p, 1e-5, 1 - 1e-5)
    return {
        "roc_auc": roc_auc_score(y, p),
        "mean_pd": p.mean(),
        "bad_rate": y.mean(),
        "off": p.mean() / y.mean() - 1,
        "log_loss": log_loss(y, p),
    }


def paired(y, p, other, seed: int = 0) -> dict:
    "Differences of two models with the 95 % interval of paired resampling of loans."
    rng, found = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        i = rng.integers(len(y), size=len(y))
        one, two = figures(y[i], p[i]), figures(y[i], other[i])
        found.append((one["roc_auc"] - two["roc_auc"], one["log_loss"] - two["log_loss"]))
    low, high = np.quantile(found, (0.025, 0.975), axis=0)
    one, two = figures(y, p), figures(y, other)
    return {
        name: {"difference": one[name] - two[name], "lower": low[k], "upper": high[k]}
        for k, name in enumerate(("roc_auc", "log_loss"))
    }


def measure(loans: pd.DataFrame, date: str, parameters: dict) -> tuple[dict, dict]:
    "All ways at one date, over all test loans and by term; and what the pictures need."
    splits, known, day = split_at(loans, date)
    X, test = frame(known), splits.test
    if (running := test["default"].isna()).any():
        raise SystemExit(f"{running.sum():,} of the test loans from {date} on are running: take earlier dates")
    y, terms = outcome_at(test, "term"), parse_term(test["term"].to_numpy()).astype(int)
    ended, before = ended_parts(splits).refit, splits.known
    net = network(splits, parameters)
    models = {
        "LightGBM, ended loans": trees(X, ended.index, ended["default"], test.index),
        "LightGBM, hazards": hazard_trees(X, splits),
        "network, hazards": net["p"],
        "network, level moved": net["moved"],
        "LightGBM, labels from the future": trees(X, before.index, before["default"].astype(int), test.index),
        "network, labels from the future": future_network(known, day),
    }
    result = {
        "train_loans": len(before),
        "ended": len(ended),
        "charge_offs": int((splits.refit["event"] == CHARGE_OFF).sum()),
        "test_loans": len(test),
        "network": {k: net[k] for k in ("multipliers", "epochs", "seconds")},
    }
    parts = {"all": np.ones(len(y), bool)} | {f"{term} months": terms == term for term in np.unique(terms)}
    result["models"] = {part: {name: figures(y[own], p[own]) for name, p in models.items()} for part, own in parts.items()}
    losses = {name: own["log_loss"] for name, own in result["models"]["all"].items()}
    usual, bound = losses["LightGBM, ended loans"], losses["LightGBM, labels from the future"]
    result["gap_closed"] = {name: (usual - losses[name]) / (usual - bound) for name in models}
    result["against_hazard_trees"] = paired(y, models["network, hazards"], models["LightGBM, hazards"])
    return result, {"splits": splits, "curve": net["curve"], "terms": terms}


def choose(loans: pd.DataFrame):
    "Compare the choices on the early dates, and write the configuration."
    table = {}
    for name, change in CHOICES.items():
        base = default_parameters("tabm", "time_to_event")
        rows = []
        for date in EARLY:
            splits = split_at(loans, date)[0]
            net, y = network(splits, base | change, with_trends=True), outcome_at(splits.test, "term")
            levels = {"kept": net["p"], "moved": net["moved"]} | {name: own["p"] for name, own in net["trends"].items()}
            rows.append(
                {level: figures(y, p) for level, p in levels.items()}
                | {"multipliers": net["multipliers"]}
                | {"times a year": {name: own["times a year"] for name, own in net["trends"].items()}}
            )
        table[name] = dict(zip(EARLY, rows, strict=True))
        means = {
            level: {k: float(np.mean([row[level][k] for row in rows])) for k in ("roc_auc", "off", "log_loss")}
            for level in levels
        }
        print(name, pd.DataFrame(means).T.round(4).to_string(), sep="\n", flush=True)
        table[name]["mean"] = means
    content = {"parameters": default_parameters("tabm", "time_to_event"), "level": "kept", "seeds": SEEDS, "early_dates": table}
    (RESULTS / "as_of_config.json").write_text(json.dumps(content, indent=1, default=float) + "\n")


def draw(pictures: dict):
    "Observed and predicted charge-offs by term and date, by months on book."
    use_style()
    figure, axes = plt.subplots(2, len(pictures), figsize=(4 * len(pictures), 6), sharex="row", squeeze=False)
    for column, (date, own) in zip(axes.T, pictures.items(), strict=True):
        for ax, term in zip(column, (36, 60), strict=True):
            loans = own["splits"].test[own["terms"] == term]
            months = np.arange(1, term + 1)
            ends = months_since_issue(loans.assign(issue_month=loans["end_month"])) - months_since_issue(loans)
            ends = np.where(loans["default"] == 1, np.minimum(ends, term), np.inf)
            ax.plot(months, 100 * (ends[:, None] <= months).mean(0), color=INK, label="observed")
            curve = own["curve"][own["terms"] == term][:, :term, 0].mean(0)
            ax.plot(months, 100 * curve, color=ACCENT, ls="--", label="predicted")
            ax.set(title=f"{term} months, known by {date}", xlabel="months on book", ylim=(0, None))
    for ax in axes[:, 0]:
        ax.set_ylabel("charged off (%)")
    axes[0, 0].legend()
    figure.savefig(RESULTS / "as_of.png", dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a file of real loans, 2007 to 2011")
    parser.add_argument("--choose", action="store_true", help="compare choices on the early dates and write them down")
    parser.add_argument("--dates", nargs="+", default=DATES, help="dates of the test (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loans = clean_loans(read_loans(options.data), target="time_to_event")
    if options.choose:
        return choose(loans)
    config = json.loads((RESULTS / "as_of_config.json").read_text())
    result, pictures = {"data": options.data.name, "config": config["parameters"], "dates": {}}, {}
    for date in options.dates:
        result["dates"][date], pictures[date] = measure(loans, date, config["parameters"])
        own = result["dates"][date]
        print(f"\n{date}: {own['train_loans']:,} loans, {own['ended']:,} ended; network {own['network']}")
        for part, models in own["models"].items():
            print(part, pd.DataFrame(models).T.round(4).to_string(), sep="\n")
        print({name: round(gap, 3) for name, gap in own["gap_closed"].items()})
        print(own["against_hazard_trees"], flush=True)
    ours = [own["models"]["all"]["network, hazards"] for own in result["dates"].values()]
    result["mean"] = {
        "gap_closed": float(np.mean([own["gap_closed"]["network, hazards"] for own in result["dates"].values()])),
        "roc_auc": float(np.mean([own["roc_auc"] for own in ours])),
        "off": float(np.mean([abs(own["off"]) for own in ours])),
    }
    print(result["mean"])
    (RESULTS / "as_of.json").write_text(json.dumps(result, indent=1, default=float) + "\n")
    draw(pictures)


if __name__ == "__main__":
    main()
