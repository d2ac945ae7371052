"""Our intervals beside other implementations on the same numbers: the largest differences.

    pip install confidenceinterval==1.0.5 MLstatkit==0.1.91 statsmodels==0.15.0
    python benchmarks/intervals.py [--asah asah.csv]

The packages are no part of the project; an environment of its own keeps them away from it. `--asah` names the table
`aSAH` of R's pROC as CSV (`write.csv(pROC::aSAH, "asah.csv")`), whose published intervals are then compared as well.
Prints a Markdown table and writes benchmarks/results/intervals.json.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import binomtest, norm

from lending_club.core.metrics import Z_95, brier_decomposition, calibration_slope, roc_auc_interval, wilson_interval

try:
    import confidenceinterval
    import statsmodels.api as sm
    from MLstatkit import Delong_test
    from statsmodels.stats.proportion import proportion_confint
except ImportError as error:
    sys.exit(
        f"{error}; install what is compared with: pip install confidenceinterval==1.0.5 MLstatkit==0.1.91 statsmodels==0.15.0"
    )

RESULTS = Path(__file__).resolve().parent / "results"
SIZES, SEEDS = (200, 2_000, 20_000), range(5)
COMPARED_WITH = ("confidenceinterval", "MLstatkit", "statsmodels", "scipy", "scikit-learn", "numpy")
EACH = 5  # loans in a bin of one PD
LEVEL = 2 * norm.cdf(Z_95) - 1  # what our rounded quantile stands for, so that rounding it is no difference
# ci.auc(outcome ~ ..., aSAH) as pROC prints it, and with every digit in pROC's own tests (tests/testthat/test-ci.auc.R)
PROC = {"s100b": (0.7314, 0.6301, 0.8326), "ndka": (0.611957994579946, 0.501244999271703, 0.722670989888189)}


def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    "Outcomes, and PDs of whole percents: too high, too far apart and many of them equal."
    random = np.random.default_rng((seed, n))
    truth = random.beta(1.2, 5, n)
    p = expit(0.4 + 1.3 * logit(truth) + random.normal(0, 0.6, n)).round(2).clip(0.01, 0.99)
    return (random.random(n) < truth).astype(int), p


def difference(ours, others) -> float:
    return float(np.abs(np.asarray(ours, dtype=float) - np.asarray(others, dtype=float)).max())


def of_ranking(y, p) -> dict[str, float]:
    ours = roc_auc_interval(y, p)
    auc, bounds = confidenceinterval.roc_auc_score(y, p, confidence_level=LEVEL)
    # it compares two scores: the other one is the first, a little shuffled
    other = np.where(np.arange(len(p)) % 3, p, p[::-1])
    _, _, own, _, own_auc, _, _ = Delong_test(y, p, other, alpha=LEVEL)
    return {
        "ROC-AUC, DeLong | MLstatkit": difference(ours, (own_auc, *own)),
        "ROC-AUC, DeLong | confidenceinterval (ranks in single precision)": difference(ours, (auc, *np.ravel(bounds))),
    }


def of_rates(y, p) -> dict[str, float]:
    groups = pd.Series(y).groupby(p)
    bad = np.concatenate([groups.sum().to_numpy(), [0, len(y), y.sum()]])
    n = np.concatenate([groups.size().to_numpy(), [len(y)] * 3])
    ours = wilson_interval(bad, n)
    scipys = [binomtest(int(k), int(m)).proportion_ci(LEVEL, "wilson") for k, m in zip(bad, n, strict=True)]
    return {
        "rate, Wilson | statsmodels": difference(ours, proportion_confint(bad, n, 1 - LEVEL, "wilson")),
        "rate, Wilson | SciPy": difference(ours, np.array(scipys).T),
    }


def of_calibration(y, p) -> dict[str, float]:
    found, x = calibration_slope(y, p), logit(p)
    logistic = sm.Logit(y, sm.add_constant(x)).fit(disp=0, method="newton", tol=1e-12)
    shift = sm.GLM(y, np.ones((len(y), 1)), family=sm.families.Binomial(), offset=x).fit(tol=1e-12, tol_criterion="params")
    slope = (logistic.params[1], *logistic.conf_int(1 - LEVEL)[1])
    intercept = (shift.params[0], *shift.conf_int(1 - LEVEL)[0])
    return {
        "calibration slope | statsmodels Logit": difference(_bounds(found, "calibration_slope"), slope),
        "calibration intercept | statsmodels GLM with offset": difference(_bounds(found, "calibration_intercept"), intercept),
    }


def _bounds(found: dict, name: str) -> tuple:
    return tuple(found[f"{name}{end}"] for end in ("", "_lower", "_upper"))


def of_the_brier_score(y, p) -> dict[str, float]:
    "Murphy's parts over the PDs themselves, a bin of equal count each; and our parts' sum over ten bins with ties inside."
    values = np.unique(p)
    kept = np.concatenate([np.flatnonzero(p == value)[:EACH] for value in values if (p == value).sum() >= EACH])
    own_y, own_p = y[kept], p[kept]
    table = pd.DataFrame({"y": own_y, "p": own_p}).groupby("p")["y"].mean()
    base = own_y.mean()
    murphy = ((table.index - table) ** 2).mean(), ((table - base) ** 2).mean(), base * (1 - base), 0.0
    parts = brier_decomposition(y, p)
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within_bins"]
    return {
        "Brier decomposition | Murphy's definition": difference(
            list(brier_decomposition(own_y, own_p, len(table)).values()), murphy
        ),
        "Brier score, sum of the parts | mean square": difference(
            total, sum((a - b) ** 2 for a, b in zip(p, y, strict=True)) / len(y)
        ),
    }


def of_asah(path: Path) -> dict[str, dict]:
    "The published examples of pROC, to the digits that are published."
    table, result = pd.read_csv(path), {}
    y = (table["outcome"] == "Poor").astype(int)
    for name, published in PROC.items():
        digits = max(len(str(value)) for value in published) - 2
        # PDs lie between 0 and 1; ROC-AUC depends on the order alone
        ours = roc_auc_interval(y, table[name] / table[name].max(), norm.ppf(0.975))
        own = difference(np.round(ours, digits), published)
        result[name] = {"patients": len(table), "ours": ours, "pROC": published, "difference": own}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asah", type=Path, help="pROC's table aSAH as CSV")
    options = parser.parse_args()
    columns = {}
    for n in SIZES:
        rows = []
        for seed in SEEDS:
            y, p = draw(n, seed)
            rows.append(of_ranking(y, p) | of_rates(y, p) | of_calibration(y, p) | of_the_brier_score(y, p))
        columns[n] = pd.DataFrame(rows).max()
    table = pd.DataFrame(columns)
    result = {
        "versions": {name: version(name) for name in COMPARED_WITH},
        "seeds": len(SEEDS),
        "largest_difference": {name: {str(n): row[n] for n in SIZES} for name, row in table.iterrows()},
    }
    if options.asah:
        result["pROC_aSAH"] = of_asah(options.asah)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "intervals.json").write_text(json.dumps(result, indent=1) + "\n")
    print("| ours | compared with | " + " | ".join(f"n = {n:,}" for n in SIZES) + " |")
    print("|---|---|" + "--:|" * len(SIZES))
    for name, row in table.iterrows():
        print(f"| {name} | " + " | ".join(f"{row[n]:.0e}" for n in SIZES) + " |")
    for name, row in result.get("pROC_aSAH", {}).items():
        ours, published = ("{:.4f} ({:.4f}-{:.4f})".format(*row[whose]) for whose in ("ours", "pROC"))
        print(f"\npROC's aSAH, {name}, {row['patients']} patients: {ours}; pROC {published}; difference {row['difference']:.0e}")


if __name__ == "__main__":
    main()
