"""The network beside what a practitioner would pick instead, on real loans it has not seen.

    pip install '.[dev,benchmarks]' -c constraints.txt
    python benchmarks/models.py ../shared/data/accepted_2007_to_2011.csv.gz --jobs 2
    python benchmarks/models.py ... --tuned            # take the configurations that are written already
    python benchmarks/models.py ... --beside           # the networks alone: whether the figures are as before; time to event

First every tree model and a second network are tuned, 25 Optuna trials on validation loans, at three dates; the configurations
are written to benchmarks/results/models_config.json. Only then are test loans opened: two cuts, and six quarters walking
forward, each with the latest configuration that was tuned on earlier loans. `network` has its defaults everywhere. Same loans,
same columns, same refit on the validation loans that found the number of epochs or rounds, same calibration. 5 seeds for
networks, 3 for trees, averaged. All of them learn final statuses of the file's date, labels from the future that no lender had.
The network of hazards, which learns only what was known at `val_end`, stands beside each cut. Writes models.json and models.png.
"""

import argparse
import json
import os
import time
import warnings
from datetime import date
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
os.environ["TQDM_DISABLE"] = "1"  # of the many fits; this script says where it is

import catboost
import lightgbm
import matplotlib.pyplot as plt
import numpy as np
import optuna
import pandas as pd
import torch
import xgboost
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

from lending_club.clean import Splits, clean_loans, clean_with_rows, temporal_split, walk_forward_splits
from lending_club.core.calibration import best_calibrator
from lending_club.core.data import read_loans
from lending_club.core.estimators import LoanNet, SeedAverage
from lending_club.core.hyperparameters import DEFAULTS, default_parameters, make_net
from lending_club.core.hyperparameters import suggest as suggest_network
from lending_club.core.metrics import evaluate
from lending_club.core.networks import LoanMLP
from lending_club.core.plots import use_style
from lending_club.core.preprocess import preprocessing
from lending_club.core.settings import Settings, scratch_settings
from lending_club.train import fit_pipeline

RESULTS = Path(__file__).resolve().parent / "results"
EARLY = (date(2010, 1, 1), date(2010, 7, 1))
CUTS = {
    "A: train before 2010-07, validation to 2010-12, test 2011": (date(2010, 7, 1), date(2011, 1, 1)),
    "B: train before 2011-01, validation to 2011-03, test from 2011-04": (date(2011, 1, 1), date(2011, 4, 1)),
}
TREES = ("LightGBM", "XGBoost", "CatBoost")
MODELS = ("network", "network, tuned", "plain MLP", "logistic regression", *TREES)
TRIALS, NET_SEEDS, TREE_SEEDS, RESAMPLES = 25, 5, 3, 1_000


# --- what the models see


class Inputs:
    "The same columns for all: a matrix for networks and regression, numbers with their gaps and codes for trees."

    def __init__(self, splits: Splits):
        self.prepare = preprocessing(seed=42).fit(splits.train)
        self.layout = self.prepare["encode"].layout_
        self.n_codes = len(self.layout["cardinalities"])

    def matrix(self, loans) -> np.ndarray:
        return self.prepare.transform(loans)

    def one_hot(self, loans) -> np.ndarray:
        X = self.matrix(loans)
        codes = [np.eye(size)[X[:, i - self.n_codes].astype(int)] for i, size in enumerate(self.layout["cardinalities"])]
        return np.hstack([X[:, : X.shape[1] - self.n_codes], *codes])

    def frame(self, loans) -> pd.DataFrame:
        encoder = self.prepare["encode"]
        numbers = self.prepare["features"].transform(loans)[encoder.numeric_].reset_index(drop=True)
        codes = self.matrix(loans)[:, -self.n_codes :].astype(int)
        return numbers.join(pd.DataFrame(codes, columns=encoder.categorical_))


def outcomes(loans) -> np.ndarray:
    return loans["default"].to_numpy()


# --- trees: parameters to search, and how each is fitted with early stopping or for a number of rounds


def suggest(name: str, trial) -> dict:
    number, whole = partial(trial.suggest_float, log=True), partial(trial.suggest_int, log=True)
    if name == "LightGBM":
        return {
            "learning_rate": number("learning_rate", 0.01, 0.1),
            "num_leaves": whole("num_leaves", 4, 40),
            "min_data_in_leaf": whole("min_data_in_leaf", 20, 300),
            "feature_fraction": number("feature_fraction", 0.3, 1),
            "bagging_fraction": number("bagging_fraction", 0.5, 1),
            "lambda_l2": number("lambda_l2", 0.01, 30),
        }
    if name == "XGBoost":
        return {
            "learning_rate": number("learning_rate", 0.01, 0.1),
            "max_depth": whole("max_depth", 2, 7),
            "min_child_weight": number("min_child_weight", 1, 100),
            "subsample": number("subsample", 0.5, 1),
            "colsample_bytree": number("colsample_bytree", 0.3, 1),
            "reg_lambda": number("reg_lambda", 0.1, 30),
        }
    return {
        "learning_rate": number("learning_rate", 0.03, 0.15),
        "depth": whole("depth", 2, 6),
        "l2_leaf_reg": number("l2_leaf_reg", 1, 30),
        "random_strength": number("random_strength", 0.1, 10),
        "bagging_temperature": trial.suggest_float("bagging_temperature", 0, 2),
    }


def fit_tree(name: str, parameters: dict, X, y, valid=None, rounds: int | None = None, seed: int = 0):
    "A function from inputs to PDs, and the rounds that early stopping found or was given."
    codes = [column for column in X if X[column].dtype.kind == "i"]
    most = rounds or 2_000
    if name == "LightGBM":
        own = {"objective": "binary", "verbosity": -1, "num_threads": 1, "seed": seed, "bagging_freq": 1} | parameters
        data = lightgbm.Dataset(X, y, categorical_feature=codes)
        if rounds:
            return lightgbm.train(own, data, most).predict, rounds
        stop = lightgbm.early_stopping(50, verbose=False)
        model = lightgbm.train(own, data, most, valid_sets=[lightgbm.Dataset(*valid, reference=data)], callbacks=[stop])
        return model.predict, model.best_iteration
    if name == "XGBoost":
        own = {"objective": "binary:logistic", "eval_metric": "logloss", "nthread": 1, "tree_method": "hist", "seed": seed}
        options = {"early_stopping_rounds": 50, "evals": [(xgboost.DMatrix(*valid), "valid")]} if valid else {}
        model = xgboost.train(own | parameters, xgboost.DMatrix(X, y), most, verbose_eval=False, **options)
        best = rounds or model.best_iteration + 1
        return lambda Z: model.predict(xgboost.DMatrix(Z), iteration_range=(0, best)), best
    model = catboost.CatBoostClassifier(
        iterations=most,
        cat_features=codes,
        loss_function="Logloss",
        thread_count=1,
        random_seed=seed,
        verbose=False,
        allow_writing_files=False,
        **parameters,
    )
    if rounds:
        model.fit(X, y)
    else:
        model.fit(X, y, eval_set=valid, early_stopping_rounds=50, use_best_model=True)
    return lambda Z: model.predict_proba(Z)[:, 1], rounds or model.get_best_iteration() + 1


def tune(name: str, splits: Splits) -> dict:
    "The best parameters by log-loss on the validation period, whose earlier part stops the training."
    inputs = Inputs(splits)
    make = inputs.frame if name in TREES else inputs.matrix
    X, V, C = (make(part) for part in (splits.train, splits.validation, splits.calibration))
    y, y_valid, y_later = (outcomes(part) for part in (splits.train, splits.validation, splits.calibration))

    def fit(trial):
        if name in TREES:
            return fit_tree(name, suggest(name, trial), X, y, (V, y_valid))[0]
        net = make_net(suggest_network(trial, "tabm"), inputs.layout).fit(X, y, V, y_valid)
        return lambda Z: net.predict_proba(Z)[:, 1]

    def objective(trial):
        model = fit(trial)
        return log_loss(np.r_[y_valid, y_later], np.r_[model(V), model(C)])

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    if name not in TREES:
        study.enqueue_trial(DEFAULTS["tabm"])
    study.optimize(objective, n_trials=TRIALS)
    return {"parameters": study.best_params, "validation_log_loss": study.best_value, "trials": TRIALS}


# --- one split: every model's calibrated PDs


class WeightedLoss(nn.Module):
    "What is often done: the rarer class weighs more."

    def __init__(self, weight: float):
        super().__init__()
        self.loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weight))

    def forward(self, logits, y):
        return self.loss(logits[:, 0], y)


def networks(name: str, splits: Splits, inputs: Inputs, settings: Settings, config: dict):
    if name != "plain MLP":
        parameters = DEFAULTS["tabm"] if name == "network" else config[name]["parameters"]
        net = make_net(parameters, inputs.layout, seed=settings.seed)
    else:
        y = outcomes(splits.train)
        net = LoanNet(
            LoanMLP,
            layout=inputs.layout,
            module__hidden=(256, 128, 64, 32, 16),
            module__dropout=0.3,
            module__batch_norm=True,
            criterion=WeightedLoss,
            criterion__weight=float((1 - y.mean()) / y.mean()),
            lr=1e-3,
            batch_size=512,
            averaging=0,
        )
    X, V = inputs.matrix(splits.train), inputs.matrix(splits.validation)
    average = SeedAverage(net, NET_SEEDS, n_stops=3).fit(X, outcomes(splits.train), V, outcomes(splits.validation))
    return [lambda Z, one=one: one.predict_proba(Z)[:, 1] for one in average.nets_], average.epochs_


def trees(name: str, splits: Splits, inputs: Inputs, parameters: dict):
    X, V = inputs.frame(splits.train), inputs.frame(splits.validation)
    y, y_valid = outcomes(splits.train), outcomes(splits.validation)
    both, y_both = pd.concat([X, V]), np.r_[y, y_valid]
    models, rounds = [], []
    for seed in range(TREE_SEEDS):
        rounds.append(fit_tree(name, parameters, X, y, (V, y_valid), seed=seed)[1])
        models.append(fit_tree(name, parameters, both, y_both, rounds=rounds[-1], seed=seed)[0])
    return models, rounds


def score(name: str, splits: Splits, inputs: Inputs, config: dict) -> dict:
    "PDs of the test loans, calibrated, and what they cost; nothing here looks at their outcomes."
    settings = Settings(torch_device="cpu")
    start = time.perf_counter()
    if name in ("network", "network, tuned", "plain MLP"):
        (models, steps), make = networks(name, splits, inputs, settings, config), inputs.matrix
    elif name in TREES:
        (models, steps), make = trees(name, splits, inputs, config[name]["parameters"]), inputs.frame
    else:
        recent = pd.concat([splits.train, splits.validation])
        model = LogisticRegression(C=0.1, max_iter=2_000).fit(inputs.one_hot(recent), outcomes(recent))
        models, steps, make = [lambda Z: model.predict_proba(Z)[:, 1]], [], inputs.one_hot
    seconds = (time.perf_counter() - start) / len(models)
    C, T = make(splits.calibration), make(splits.test)
    start = time.perf_counter()
    each = np.array([model(T) for model in models])
    rows = len(T) * len(models) / (time.perf_counter() - start)
    before, raw = np.mean([model(C) for model in models], axis=0), each.mean(axis=0)
    prior = 0 if name == "plain MLP" else 300  # its weighted loss needs a free calibration
    p = best_calibrator(before, outcomes(splits.calibration), prior=prior)[0].predict(raw)
    return {"p": p, "raw": raw, "each": each, "steps": steps, "fit_seconds": seconds, "rows_per_second": rows}


def score_all(splits: Splits, config: dict) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = Inputs(splits)
        return {name: score(name, splits, inputs, config) for name in MODELS}


def time_to_event(loans: pd.DataFrame, begin: date, end: date) -> dict:
    "The network of hazards, fitted on what was known at `end`; PDs of the test loans over their term."
    splits = temporal_split(loans, begin, end)
    settings = scratch_settings(seeds=NET_SEEDS, epochs=60, torch_device="cpu")
    start = time.perf_counter()
    pipeline = fit_pipeline(splits, default_parameters("tabm", "time_to_event"), settings, progress=False, cautious=False)
    seconds = (time.perf_counter() - start) / NET_SEEDS
    start = time.perf_counter()
    p = pipeline.predict_proba(splits.test)[:, 1]
    rows = len(p) * NET_SEEDS / (time.perf_counter() - start)
    steps = pipeline[-1].net.epochs_
    return {"p": p, "raw": p, "each": p[None], "steps": steps, "fit_seconds": seconds, "rows_per_second": rows}


# --- evaluation


def bootstrap(pairs: list, metric, seed: int = 0) -> dict:
    "Difference of two models, mean over the test sets, with the 95 % interval of paired resampling of loans."
    rng = np.random.default_rng(seed)
    differences = []
    for y, p, other in pairs:
        own = []
        while len(own) < RESAMPLES:
            i = rng.integers(len(y), size=len(y))
            if 0 < y[i].sum() < len(i):
                own.append(metric(y[i], p[i]) - metric(y[i], other[i]))
        differences.append(own)
    mean = float(np.mean([metric(y, p) - metric(y, other) for y, p, other in pairs]))
    low, high = np.quantile(np.mean(differences, axis=0), (0.025, 0.975))
    return {"difference": mean, "lower": float(low), "upper": float(high)}


def compare(sets: dict, scored: dict, network: str = "network") -> dict:
    "A network against each other model, over one or several test sets."
    result = {}
    for name in MODELS[1:]:
        if name == network:
            continue
        pairs = [(outcomes(sets[key]), scored[key][network]["p"], scored[key][name]["p"]) for key in sets]
        result[name] = {"roc_auc": bootstrap(pairs, fast_auc), "log_loss": bootstrap(pairs, fast_log_loss)}
    return result


def fast_auc(y, p) -> float:
    from scipy.stats import rankdata

    bad = y == 1
    n = bad.sum()
    return (rankdata(p)[bad].sum() - n * (n + 1) / 2) / (n * (len(y) - n))


def fast_log_loss(y, p) -> float:
    return -float(np.mean(np.log(np.where(y == 1, p, 1 - p))))


def metrics(y, model: dict) -> dict:
    full = evaluate(y, model["p"])
    names = (
        "roc_auc",
        "roc_auc_lower",
        "roc_auc_upper",
        "pr_auc",
        "ks",
        "brier",
        "log_loss",
        "calibration_slope",
        "calibration_slope_lower",
        "calibration_slope_upper",
        "ece",
    )
    single = [roc_auc_score(y, one) for one in model["each"]]
    return {name: full[name] for name in names} | {
        "raw_log_loss": float(log_loss(y, model["raw"])),
        "single_auc": float(np.mean(single)),
        "single_auc_sd": float(np.std(single, ddof=1)) if len(single) > 1 else 0.0,
        "steps": [int(step) for step in model["steps"]],
        "fit_seconds": model["fit_seconds"],
        "rows_per_second": model["rows_per_second"],
    }


def report(test: pd.DataFrame, scored: dict) -> dict:
    "Everything about one test set, over all and within each term."
    terms = test["term"].str.strip()
    result = {}
    for part in ("all", *sorted(terms.unique())):
        keep = np.ones(len(test), bool) if part == "all" else (terms == part).to_numpy()
        own = {name: {k: v[..., keep] if k in ("p", "raw", "each") else v for k, v in m.items()} for name, m in scored.items()}
        y = outcomes(test)[keep]
        sets, one = {"": test[keep]}, {"": own}
        rows = {name: metrics(y, model) for name, model in own.items()}
        result[part] = {"loans": int(keep.sum()), "bad_rate": float(y.mean()), "models": rows, "against": compare(sets, one)}
        result[part]["tuned_against"] = compare(sets, one, "network, tuned")
    return result


def beside(test: pd.DataFrame, network: dict, hazards: dict, place: np.ndarray) -> dict:
    "By term: the network of hazards on the test loans of a cut, which it has at `place`, and its difference to the other one."
    terms, result = test["term"].str.strip(), {}
    for part in ("all", *sorted(terms.unique())):
        keep = np.ones(len(test), bool) if part == "all" else (terms == part).to_numpy()
        y, own = outcomes(test)[keep], hazards | {name: hazards[name][..., place][..., keep] for name in ("p", "raw", "each")}
        full, pairs = metrics(y, own), [(y, own["p"], network["p"][keep])]
        result[part] = {name: value for name, value in full.items() if not name.startswith(("raw", "single"))}
        result[part] |= {"mean_pd": float(own["p"].mean()), "mean_pd_of_final_status": float(network["p"][keep].mean())}
        result[part] |= {"bad_rate": float(y.mean())}
        result[part]["against_network"] = {"roc_auc": bootstrap(pairs, fast_auc), "log_loss": bootstrap(pairs, fast_log_loss)}
    return result


def all_beside(raw: pd.DataFrame, final: dict, scored: dict, jobs: int) -> dict:
    "Time to event at each cut, beside the final statuses, whose splits and scores are given."
    (_, rows), (running, running_rows) = clean_with_rows(raw), clean_with_rows(raw, target="time_to_event")
    hazards = Parallel(jobs)(delayed(time_to_event)(running, begin, end) for begin, end in CUTS.values())
    result = {}
    for (title, (begin, end)), own in zip(CUTS.items(), hazards, strict=True):
        test, timed = final[title].test, temporal_split(running, begin, end).test
        place = pd.Series(np.arange(len(timed)), running_rows[timed.index]).loc[rows[test.index]].to_numpy()
        assert (timed["default"].to_numpy()[place] == outcomes(test)).all(), "the test loans differ between the targets"
        result[title] = beside(test, scored[title]["network"], own, place)
    return result


def score_network(splits: Splits) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {"network": score("network", splits, Inputs(splits), {})}


def check_unchanged(raw: pd.DataFrame, loans: pd.DataFrame, jobs: int):
    "The network of final statuses against its stored figures, and time to event beside it; adds the latter to them."
    written = RESULTS / "models.json"
    result = json.loads(written.read_text())
    final = {title: temporal_split(loans, begin, end) for title, (begin, end) in CUTS.items()}
    scored = Parallel(jobs)(delayed(score_network)(splits) for splits in final.values())
    scored = dict(zip(final, scored, strict=True))
    for title, splits in final.items():
        now, before = metrics(outcomes(splits.test), scored[title]["network"]), result["cuts"][title]["all"]["models"]["network"]
        for name in ("roc_auc", "pr_auc", "ks", "brier", "log_loss", "calibration_slope", "ece"):
            print(f"{title[0]} {name}: {now[name]:.6f}, before {before[name]:.6f}")
    result["time_to_event"] = all_beside(raw, final, scored, jobs)
    written.write_text(json.dumps(result, indent=1) + "\n")
    show_beside(result)


def best_tree(rows: dict) -> str:
    return max(TREES, key=lambda name: rows[name]["roc_auc"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a file of real loans, 2007 to 2011")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--tuned", action="store_true", help="do not tune anew: take the trees of models_config.json")
    parser.add_argument("--beside", action="store_true", help="the networks alone, at the two cuts")
    parser.add_argument("--quarters", type=int, default=6, help="quarters walking forward (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    raw = read_loans(options.data)
    loans = clean_loans(raw)
    if options.beside:
        check_unchanged(raw, loans, options.jobs)
        return
    start = time.perf_counter()

    def say(text):
        print(f"[{time.perf_counter() - start:5.0f} s] {text}", flush=True)

    dates = [EARLY, *CUTS.values()]
    written = RESULTS / "models_config.json"
    config = json.loads(written.read_text()) if options.tuned else {str(end): {} for _, end in dates}
    tuned = (*TREES, "network, tuned")
    wanted = [(name, begin, end) for begin, end in dates for name in tuned if name not in config[str(end)]]
    if wanted:
        say(f"tuning: {len(wanted)} times {TRIALS} trials")
        known = {end: loans[loans["issue_month"] < pd.Timestamp(end) + pd.DateOffset(months=3)] for _, end in dates}
        found = Parallel(options.jobs)(delayed(tune)(name, temporal_split(known[end], begin, end)) for name, begin, end in wanted)
        for (name, _, end), best in zip(wanted, found, strict=True):
            config[str(end)][name] = best
            say(f"{name}, {end}: {best}")
    config["network"] = DEFAULTS["tabm"]
    written.write_text(json.dumps(config, indent=1) + "\n")
    say("configurations are written; test loans are opened now")

    walk = walk_forward_splits(loans, options.quarters, 6)

    def tuned_before(quarter):
        return config[max(str(end) for _, end in dates if str(end) <= str(pd.Period(quarter).start_time.date()))]

    cuts = {title: (temporal_split(loans, begin, end), config[str(end)]) for title, (begin, end) in CUTS.items()}
    tasks = cuts | {quarter: (splits, tuned_before(quarter)) for quarter, splits in walk.items()}
    scored = Parallel(options.jobs)(delayed(score_all)(*task) for task in tasks.values())
    scored = dict(zip(tasks, scored, strict=True))
    say("all are fitted")
    result = {"data": options.data.name, "seeds": {"networks": NET_SEEDS, "trees": TREE_SEEDS}, "cuts": {}}
    for title in CUTS:
        result["cuts"][title] = report(cuts[title][0].test, scored[title])
    result["time_to_event"] = all_beside(raw, {title: cuts[title][0] for title in CUTS}, scored, options.jobs)
    tests = {quarter: splits.test for quarter, splits in walk.items()}
    rows = {q: {name: metrics(outcomes(tests[q]), model) for name, model in scored[q].items()} for q in tests}
    result["walk_forward"] = {
        "quarters": {q: {"loans": len(tests[q]), "models": rows[q]} for q in tests},
        "mean": {
            name: {metric: float(np.mean([rows[q][name][metric] for q in tests])) for metric in ("roc_auc", "log_loss")}
            for name in MODELS
        },
        "against": compare(tests, {q: scored[q] for q in tests}),
        "tuned_against": compare(tests, {q: scored[q] for q in tests}, "network, tuned"),
    }
    result["seconds"] = round(time.perf_counter() - start)
    (RESULTS / "models.json").write_text(json.dumps(result, indent=1) + "\n")
    show(result)
    draw(result)


def show(result: dict):
    for title, cut in result["cuts"].items():
        for part, content in cut.items():
            print(f"\n{title}; {part}: {content['loans']} loans\n")
            print(pd.DataFrame(content["models"]).T.drop(columns="steps").astype(float).round(4).to_markdown())
            tree = best_tree(content["models"])
            print(f"\nagainst {tree}, the best tree here: {content['against'][tree]}")
            print(f"against the plain MLP: {content['against']['plain MLP']}")
    show_beside(result)
    walk = result["walk_forward"]
    print("\nwalk-forward\n")
    print(pd.DataFrame({q: {n: m["roc_auc"] for n, m in c["models"].items()} for q, c in walk["quarters"].items()}).to_markdown())
    print(pd.DataFrame(walk["mean"]).T.to_markdown())
    for network in ("against", "tuned_against"):
        for name, against in walk[network].items():
            print(f"{network} {name}: {against}")


def show_beside(result: dict):
    for title, parts in result["time_to_event"].items():
        print(f"\n{title}; the network of hazards, and its difference to the network of final statuses\n")
        rows = {part: {k: v for k, v in own.items() if k not in ("steps", "against_network")} for part, own in parts.items()}
        print(pd.DataFrame(rows).T.astype(float).round(4).to_markdown())
        print({part: own["against_network"] for part, own in parts.items()})


def draw(result: dict):
    "The network's difference to each model, with its interval, over all test loans."
    use_style()
    sets = {f"cut {title[0]}": cut["all"]["against"] for title, cut in result["cuts"].items()}
    sets[f"{len(result['walk_forward']['quarters'])} quarters"] = result["walk_forward"]["against"]
    figure, axes = plt.subplots(1, 2, figsize=(12, 4), sharey=True)
    titles = {"roc_auc": "ROC-AUC: to the right the network is better", "log_loss": "log-loss: to the left the network is better"}
    for axis, (metric, title) in zip(axes, titles.items(), strict=True):
        for i, (name, against) in enumerate(sets.items()):
            others = [other for other in MODELS[1:] if other in against]
            values = pd.DataFrame({other: against[other][metric] for other in others}).T
            place = np.arange(len(others)) + 0.2 * (i - 1)
            error = [values["difference"] - values["lower"], values["upper"] - values["difference"]]
            axis.errorbar(values["difference"], place, xerr=error, fmt="o", ms=4, label=name)
        axis.axvline(0, color="black", lw=1)
        axis.set_yticks(range(len(others)), others)
        axis.set(title=title, xlabel="network minus the other, paired 95 % interval")
    axes[0].legend()
    figure.savefig(RESULTS / "models.png", dpi=90)


if __name__ == "__main__":
    main()
