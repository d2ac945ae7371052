"""The evaluation against scikit-learn, SciPy and the definitions written out, on random loans and at the edges."""

from functools import partial

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq, minimize
from scipy.special import expit, logit
from scipy.stats import binomtest, ks_2samp, norm, poisson, rankdata, sem
from sklearn import metrics

from lending_club.core.metrics import (
    REPORTED_METRICS,
    SMALL,
    Z_95,
    EvaluationError,
    best_f1_threshold,
    brier_decomposition,
    calibration_bins,
    calibration_slope,
    decile_table,
    evaluate,
    evaluate_by,
    expected_calibration_error,
    expected_f1_threshold,
    ks_statistic,
    poisson_interval,
    roc_auc_interval,
    threshold_curve,
    wilson_interval,
)
from lending_club.core.plots import STYLE, plot_evaluation, use_style

SIZES, SEEDS, BINS = (10, 300, 5000), (0, 1, 2), (1, 3, 10, 25)
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def draw(seed: int, n: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    "Outcomes and miscalibrated PDs: all different, rounded to one digit, or of few bad loans; two loans of either outcome."
    random = np.random.default_rng(seed)
    truth = random.beta(0.3, 9, n) if kind == "rare" else random.beta(1.5, 3, n)
    y = (random.random(n) < truth).astype(int)
    y[:4] = 0, 1, 0, 1
    p = expit(0.3 + 0.8 * logit(truth.clip(1e-6, 1 - 1e-6)) + random.normal(0, 0.5, n))
    return y, p.round(1) if kind == "tied" else p


def loans(*kinds: str):
    "Runs a test on loans of each kind and size, several times each."
    cases = [(kind, n, seed) for kind in kinds for n in SIZES for seed in SEEDS]
    return pytest.mark.parametrize("y, p", [pytest.param(*draw(s, n, k), id=f"{k}-{n}-{s}") for k, n, s in cases])


ANY = loans("distinct", "tied", "rare")
DISTINCT = loans("distinct", "rare")

# --- what cannot be evaluated ---

OF_LOANS = {
    "ks_statistic": ks_statistic,
    "roc_auc_interval": roc_auc_interval,
    "calibration_bins": calibration_bins,
    "expected_calibration_error": expected_calibration_error,
    "brier_decomposition": brier_decomposition,
    "calibration_slope": calibration_slope,
    "best_f1_threshold": best_f1_threshold,
    "evaluate": evaluate,
    "evaluate with a threshold": partial(evaluate, threshold=0.5),
    "decile_table": decile_table,
    "threshold_curve": threshold_curve,
    "evaluate_by": lambda y, p: evaluate_by(y, p, np.zeros(np.size(y))),
    "plot_evaluation": partial(plot_evaluation, threshold=0.5),
}
FAULTS = {
    "fewer PDs": ([0, 1, 1], [0.1, 0.2], r"equally long .* \(3,\) and \(2,\)"),
    "fewer outcomes": ([0, 1], [0.1, 0.2, 0.3], r"equally long .* \(2,\) and \(3,\)"),
    "nothing": ([], [], "not empty"),
    "a column each": ([[0], [1]], [[0.1], [0.2]], r"\(2, 1\) and \(2, 1\)"),
    "single numbers": (1, 0.5, r"\(\) and \(\)"),
    "a third outcome": ([0, 1, 2], [0.1, 0.2, 0.3], "must be 0 .* or 1 .* found .*2"),
    "outcomes of -1 and 1": ([-1, 1, 1], [0.1, 0.2, 0.3], "must be 0 .* or 1 .* found .*-1"),
    "a probability as outcome": ([0, 0.5, 1], [0.1, 0.2, 0.3], r"must be 0 .* or 1 .* found .*0\.5"),
    "a missing outcome": ([0, 1, np.nan], [0.1, 0.2, 0.3], "must be 0 .* or 1 .* found .*nan"),
    "outcomes as words": (["good", "bad", "bad"], [0.1, 0.2, 0.3], "must be 0 .* or 1 .* found .*bad"),
    "a missing PD": ([0, 1, 1], [0.1, np.nan, 0.3], "without gaps"),
    "an infinite PD": ([0, 1, 1], [0.1, np.inf, 0.3], "between 0 and 1"),
    "a PD of minus infinity": ([0, 1, 1], [0.1, -np.inf, 0.3], "between 0 and 1"),
    "a PD below 0": ([0, 1, 1], [0.1, -1e-9, 0.3], "between 0 and 1"),
    "a PD in percent": ([0, 1, 1], [10, 20, 30], "between 0 and 1"),
}


@pytest.mark.parametrize("name", OF_LOANS)
@pytest.mark.parametrize("fault", FAULTS)
def test_loans_that_cannot_be_evaluated_are_refused(name, fault):
    y, p, message = FAULTS[fault]
    with pytest.raises(EvaluationError, match=message):
        OF_LOANS[name](y, p)


@pytest.mark.parametrize(
    "y, p, message",
    [
        ([0, 1, None], [0.1, 0.2, 0.3], "must be 0 .* or 1 .* found .*None"),
        ([0, 1, 1], ["low", "high", "high"], "between 0 and 1"),
    ],
)
def test_objects_that_are_no_numbers_are_refused_like_other_wrong_values(y, p, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate(np.array(y, dtype=object), p)


@pytest.mark.parametrize("outcome", [0, 1])
@pytest.mark.parametrize(
    "name", ["ks_statistic", "roc_auc_interval", "calibration_slope", "evaluate", "evaluate with a threshold"]
)
def test_what_compares_good_and_bad_loans_refuses_one_outcome_alone(name, outcome):
    with pytest.raises(EvaluationError, match="needs both good and bad loans"):
        OF_LOANS[name]([outcome] * 10, np.linspace(0, 1, 10))


@pytest.mark.parametrize("y, p", [([0] * 10, np.linspace(0, 1, 10)), ([0, 1] * 5, [0.3] * 10), ([1], [0.3])])
def test_a_best_threshold_needs_a_bad_loan_and_two_probabilities(y, p):
    with pytest.raises(EvaluationError, match="at least one bad loan and two different probabilities"):
        best_f1_threshold(y, p)


@pytest.mark.parametrize("name", [name for name in OF_LOANS if name != "plot_evaluation"])
def test_lists_series_and_yes_or_no_are_read_like_arrays(name):
    y, p = draw(5, 40, "distinct")
    index = np.arange(40)[::-1]
    expected = OF_LOANS[name](y, p)
    for other_y, other_p in ((y.tolist(), p.tolist()), (pd.Series(y, index), pd.Series(p, index)), (y == 1, p), (y * 1.0, p)):
        pd.testing.assert_frame_equal(_frame(OF_LOANS[name](other_y, other_p)), _frame(expected))


def _frame(result) -> pd.DataFrame:
    return result if isinstance(result, pd.DataFrame) else pd.DataFrame(np.atleast_2d(pd.Series(result).to_numpy()))


# --- ranking ---


@ANY
def test_ks_is_the_two_sample_statistic(y, p):
    larger = ks_2samp(p[y == 1], p[y == 0], alternative="less", method="asymp").statistic  # bad loans have the higher scores
    np.testing.assert_allclose(ks_statistic(y, p), larger, **CLOSE)


@pytest.mark.parametrize("p, expected", [([0.0, 0, 1, 1], 1), ([1.0, 1, 0, 0], 0), ([0.4] * 4, 0), ([0.2, 0.4, 0.4, 0.6], 0.5)])
def test_ks_of_perfect_reversed_constant_and_half_tied_scores(p, expected):
    assert ks_statistic([0, 0, 1, 1], p) == expected


def by_pairs(y, p) -> tuple[float, float]:
    "ROC-AUC and DeLong's variance from every pair of a bad and a good loan."
    bad, good = p[y == 1][:, None], p[y == 0][None, :]
    wins = (bad > good) + 0.5 * (bad == good)
    return wins.mean(), wins.mean(axis=1).var(ddof=1) / bad.size + wins.mean(axis=0).var(ddof=1) / good.size


@ANY
def test_roc_auc_and_its_interval_follow_from_all_pairs(y, p):
    auc, variance = by_pairs(y, p)
    half = Z_95 * np.sqrt(variance)
    np.testing.assert_allclose(roc_auc_interval(y, p), (auc, max(0, auc - half), min(1, auc + half)), **CLOSE)
    np.testing.assert_allclose(roc_auc_interval(y, p)[0], metrics.roc_auc_score(y, p), **CLOSE)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.99])
def test_the_normal_quantile_sets_how_wide_the_interval_of_roc_auc_is(confidence):
    y, p = draw(0, 300, "tied")
    auc, variance = by_pairs(y, p)
    z = norm.ppf(0.5 + confidence / 2)
    np.testing.assert_allclose(roc_auc_interval(y, p, z)[1:], (auc - z * variance**0.5, auc + z * variance**0.5), **CLOSE)


@pytest.mark.parametrize("kind", ["distinct", "tied"])
def test_the_interval_of_roc_auc_is_about_the_bootstraps(kind):
    y, p = draw(4, 5000, kind)
    random, drawn = np.random.default_rng(0), []
    for _ in range(400):
        i = random.integers(0, len(y), len(y))
        bad = y[i].sum()
        drawn.append((rankdata(p[i])[y[i] == 1].sum() - bad * (bad + 1) / 2) / bad / (len(y) - bad))
    auc, lower, upper = roc_auc_interval(y, p)
    np.testing.assert_allclose((upper - lower) / 2 / Z_95, np.std(drawn), rtol=0.15)
    np.testing.assert_allclose((lower, upper), np.quantile(drawn, (0.025, 0.975)), atol=0.25 * (upper - lower))


@ANY
def test_only_the_order_of_the_scores_counts_in_roc_auc_and_ks(y, p):
    _, rank = np.unique(p, return_inverse=True)  # an increasing function of p, which rounding cannot tie
    np.testing.assert_allclose(roc_auc_interval(y, rank / (rank.max() + 1)), roc_auc_interval(y, p), **CLOSE)
    assert ks_statistic(y, rank / (rank.max() + 1)) == ks_statistic(y, p)


@ANY
def test_roc_auc_is_mirrored_when_the_scores_are(y, p):
    auc, lower, upper = roc_auc_interval(y, p)
    _, rank = np.unique(p, return_inverse=True)
    np.testing.assert_allclose(roc_auc_interval(y, 1 - rank / (rank.max() + 1)), (1 - auc, 1 - upper, 1 - lower), **CLOSE)


def test_roc_auc_of_perfect_reversed_and_constant_scores():
    y = [0, 0, 1, 1]
    assert roc_auc_interval(y, [0, 0, 1, 1]) == (1, 1, 1)
    assert roc_auc_interval(y, [1, 1, 0, 0]) == (0, 0, 0)
    assert roc_auc_interval(y, [0.3] * 4) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("y", [[0] * 9 + [1], [1] * 9 + [0], [0, 1]])
def test_roc_auc_has_no_bounds_with_a_single_loan_of_an_outcome(y):
    p = np.linspace(0.1, 0.9, len(y))
    auc, lower, upper = roc_auc_interval(y, p)
    assert auc == metrics.roc_auc_score(y, p) and np.isnan(lower) and np.isnan(upper)


def test_the_interval_of_roc_auc_stays_within_0_and_1():
    auc, _, upper = roc_auc_interval([0, 0, 0, 0, 1, 0, 1, 1], np.arange(8) / 10)
    assert auc < 1 == upper
    auc, lower, _ = roc_auc_interval([1, 1, 1, 0, 1, 0, 0, 0], np.arange(8) / 10)
    assert auc > 0 == lower


# --- calibration ---


def in_bins(y, p, bins: int) -> list[tuple[np.ndarray, np.ndarray]]:
    "Outcomes and PDs by bins of equal count, the first ones a loan larger where it does not come out even."
    pairs = sorted(zip(p, y, strict=True))
    result, start = [], 0
    for i in range(bins):
        end = start + len(y) // bins + (i < len(y) % bins)
        if end > start:
            own_p, own_y = zip(*pairs[start:end], strict=True)
            result.append((np.array(own_y), np.array(own_p)))
        start = end
    return result


@DISTINCT
def test_calibration_bins_hold_equally_many_loans_in_the_order_of_the_pd(y, p):
    for bins in BINS:
        table, expected = calibration_bins(y, p, bins), in_bins(y, p, bins)
        assert table["loans"].tolist() == [len(own) for own, _ in expected]
        np.testing.assert_allclose(table["mean_pd"], [own.mean() for _, own in expected], **CLOSE)
        np.testing.assert_allclose(table["bad_rate"], [own.mean() for own, _ in expected], **CLOSE)


@loans("tied")
def test_calibration_bins_hold_every_loan_once_with_ties(y, p):
    table = calibration_bins(y, p)
    assert table["loans"].tolist() == [len(own) for own, _ in in_bins(y, p, 10)]
    np.testing.assert_allclose(table["mean_pd"], [own.mean() for _, own in in_bins(y, p, 10)], **CLOSE)
    np.testing.assert_allclose((table["loans"] * table["bad_rate"]).sum(), y.sum(), **CLOSE)


@DISTINCT
def test_the_calibration_error_is_the_mean_distance_over_the_bins(y, p):
    for bins in BINS:
        expected = sum(len(own) * abs(own.mean() - own_p.mean()) for own, own_p in in_bins(y, p, bins)) / len(y)
        np.testing.assert_allclose(expected_calibration_error(y, p, bins), expected, **CLOSE)


def test_the_calibration_error_of_exact_zeros_and_ones():
    y = np.array([0] * 10 + [1] * 10)
    assert expected_calibration_error(y, y) == 0
    assert expected_calibration_error(y, 1 - y) == 1
    assert expected_calibration_error([1] * 10, [0.25] * 10) == 0.75
    assert expected_calibration_error([0], [0.25]) == 0.25


def test_one_pd_equal_to_the_bad_rate_has_no_calibration_error_and_no_resolution():
    y, p = [0] * 80 + [1] * 20, [0.2] * 100  # sorted by outcome, as files may be
    parts = brier_decomposition(y, p)
    np.testing.assert_allclose([expected_calibration_error(y, p), parts["reliability"], parts["resolution"]], 0, atol=1e-12)


@loans("tied")
def test_the_order_of_the_rows_changes_no_value(y, p):
    order = np.random.default_rng(9).permutation(len(y))
    by_outcome = np.argsort(y, kind="stable")
    expected = pd.Series(evaluate(y, p, 0.3))
    for own in (order, by_outcome):
        pd.testing.assert_series_equal(pd.Series(evaluate(y[own], p[own], 0.3)), expected, rtol=1e-6, atol=1e-9)


@ANY
def test_the_parts_of_the_brier_score_sum_to_it(y, p):
    for bins in BINS:
        parts = brier_decomposition(y, p, bins)
        total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within_bins"]
        np.testing.assert_allclose(total, metrics.brier_score_loss(y, p), **CLOSE)
        assert min(parts["reliability"], parts["resolution"], parts["uncertainty"]) >= 0


@DISTINCT
def test_the_part_inside_the_bins_is_the_variance_of_the_pd_less_twice_its_covariance_with_the_outcome(y, p):
    for bins in BINS:
        within = sum(((q - q.mean()) ** 2).sum() - 2 * ((q - q.mean()) * (o - o.mean())).sum() for o, q in in_bins(y, p, bins))
        np.testing.assert_allclose(brier_decomposition(y, p, bins)["within_bins"], within / len(y), **CLOSE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("each", [1, 30, 500])
def test_the_brier_score_decomposes_after_murphy_where_the_pd_is_constant_in_each_bin(seed, each):
    random = np.random.default_rng(seed)
    values = np.sort(random.random(10))
    p = random.permutation(np.repeat(values, each))
    y = (random.random(len(p)) < p**1.3).astype(int)
    rates = np.array([y[p == value].mean() for value in values])
    parts = brier_decomposition(y, p)
    np.testing.assert_allclose(parts["reliability"], np.mean((values - rates) ** 2), **CLOSE)
    np.testing.assert_allclose(parts["resolution"], np.mean((rates - y.mean()) ** 2), **CLOSE)
    np.testing.assert_allclose(parts["uncertainty"], y.mean() * (1 - y.mean()), **CLOSE)
    np.testing.assert_allclose(parts["within_bins"], 0, **CLOSE)


@pytest.mark.parametrize("outcome", [0, 1])
def test_the_brier_score_of_one_outcome_is_all_miscalibration(outcome):
    parts = brier_decomposition([outcome] * 10, [0.25] * 10)
    expected = {"reliability": (0.25 - outcome) ** 2, "resolution": 0, "uncertainty": 0, "within_bins": 0}
    assert parts == pytest.approx(expected, abs=1e-12)


def minus_log_likelihood(beta, x, y) -> float:
    linear = beta[0] + beta[1] * x
    return np.logaddexp(0, linear).sum() - y @ linear


def logistic_regression(x, y) -> tuple[np.ndarray, np.ndarray]:
    "Coefficients by SciPy, and standard errors by differences of the likelihood."

    def gradient(beta):
        rest = expit(beta[0] + beta[1] * x) - y
        return np.array([rest.sum(), rest @ x])

    beta = minimize(minus_log_likelihood, [0, 1], (x, y), "BFGS", lambda beta, *_: gradient(beta), options={"gtol": 1e-8}).x
    hessian, step = np.empty((2, 2)), 1e-3 * np.eye(2)
    for i in range(2):
        for j in range(2):
            signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))
            corners = [a * b * minus_log_likelihood(beta + a * step[i] + b * step[j], x, y) for a, b in signs]
            hessian[i, j] = sum(corners) / (4 * 1e-6)
    return beta, np.sqrt(np.diag(np.linalg.inv(hessian)))


def intercept_at_slope_1(x, y) -> float:
    return brentq(lambda a: expit(x + a).sum() - y.sum(), -50, 50, xtol=1e-13)


def separated(x, y) -> bool:
    "Whether a cut has all bad loans on one side, so that no slope is the likeliest."
    bad, good = x[y == 1], x[y == 0]
    return bad.min() >= good.max() or good.min() >= bad.max()


def log_odds(p) -> np.ndarray:
    return logit(np.clip(p, 1e-9, 1 - 1e-9))


@ANY
def test_the_calibration_slope_and_its_interval_are_those_of_a_logistic_regression(y, p):
    x, found = log_odds(p), calibration_slope(y, p)
    slope, lower, upper = (found[f"calibration_slope{end}"] for end in ("", "_lower", "_upper"))
    if separated(x, y):
        assert np.isnan([slope, lower, upper]).all()
        return
    beta, error = logistic_regression(x, y)
    np.testing.assert_allclose(slope, beta[1], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose([slope - lower, upper - slope], Z_95 * error[1], rtol=1e-3)


@ANY
def test_the_calibration_intercept_is_the_shift_that_makes_the_mean_pd_the_bad_rate(y, p):
    x, found = log_odds(p), calibration_slope(y, p)
    expected = intercept_at_slope_1(x, y)
    fitted = expit(x + expected)
    half = Z_95 / np.sqrt((fitted * (1 - fitted)).sum())
    np.testing.assert_allclose(found["calibration_intercept"], expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found["calibration_intercept_upper"], expected + half, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found["calibration_intercept_lower"], expected - half, rtol=1e-6, atol=1e-8)


def test_the_normal_quantile_sets_how_wide_the_intervals_of_the_calibration_are():
    y, p = draw(1, 300, "distinct")
    once, twice = calibration_slope(y, p, 1.0), calibration_slope(y, p, 2.0)
    for name in ("calibration_slope", "calibration_intercept"):
        assert twice[name] == once[name]
        np.testing.assert_allclose(twice[f"{name}_upper"] - twice[name], 2 * (once[f"{name}_upper"] - once[name]), **CLOSE)
        np.testing.assert_allclose(twice[name] - twice[f"{name}_lower"], 2 * (once[name] - once[f"{name}_lower"]), **CLOSE)


@pytest.mark.parametrize("seed", SEEDS)
def test_shifted_and_stretched_log_odds_are_found_as_intercept_and_slope(seed):
    y, p = draw(seed, 5000, "distinct")
    own = calibration_slope(y, p)
    shifted, stretched = calibration_slope(y, expit(log_odds(p) - 1)), calibration_slope(y, expit(2 * log_odds(p)))
    np.testing.assert_allclose(shifted["calibration_intercept"], own["calibration_intercept"] + 1, atol=1e-8)
    np.testing.assert_allclose(shifted["calibration_slope"], own["calibration_slope"], rtol=1e-8)
    np.testing.assert_allclose(stretched["calibration_slope"], own["calibration_slope"] / 2, rtol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_calibration_slope_holds_with_pds_of_exactly_0_and_1(seed):
    y, p = draw(seed, 300, "distinct")
    p[:4] = 0, 1, 1, 0  # right twice and wrong twice
    beta, error = logistic_regression(log_odds(p), y)
    found = calibration_slope(y, p)
    np.testing.assert_allclose(found["calibration_slope"], beta[1], rtol=1e-5)
    np.testing.assert_allclose(found["calibration_slope_upper"] - found["calibration_slope"], Z_95 * error[1], rtol=1e-3)
    np.testing.assert_allclose(found["calibration_intercept"], intercept_at_slope_1(log_odds(p), y), rtol=1e-8, atol=1e-8)


def test_one_pd_has_a_calibration_intercept_and_no_slope():
    found = calibration_slope([0, 0, 0, 1], [0.1] * 4)
    np.testing.assert_allclose(found["calibration_intercept"], logit(0.25) - logit(0.1), rtol=1e-9)
    assert np.isnan([found[f"calibration_slope{end}"] for end in ("", "_lower", "_upper")]).all()


@pytest.mark.parametrize("p", [[0.0] * 6, [1.0] * 6, [0, 0, 0, 0, 0, 1], [1, 0, 1, 0, 0, 0]])
@pytest.mark.parametrize("y", [[1, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1], [0, 1, 0, 1, 1, 0]])
def test_the_calibration_intercept_holds_with_pds_of_0_and_1_alone(y, p):
    x, found = log_odds(np.array(p)), calibration_slope(y, p)["calibration_intercept"]
    np.testing.assert_allclose(expit(x + found).sum(), sum(y), rtol=1e-7)


@pytest.mark.parametrize("y", [[0, 0, 0, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 1, 1]])
def test_separated_outcomes_have_no_calibration_slope(y):
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.5])[np.argsort(np.argsort(y, kind="stable"), kind="stable")]
    assert separated(log_odds(p), np.array(y))
    assert np.isnan([calibration_slope(y, p)[f"calibration_slope{end}"] for end in ("", "_lower", "_upper")]).all()


def likeliest_slope(x, y) -> float:
    "Where the derivative of the likelihood by the slope vanishes, with the best intercept at each slope."
    z = (x - x.mean()) / x.std()

    def derivative(slope):
        intercept = brentq(lambda a: expit(a + slope * z).sum() - y.sum(), -1e5, 1e5, xtol=1e-13)
        return (y - expit(intercept + slope * z)) @ z

    return brentq(derivative, -1e3, 1e3, xtol=1e-12) / x.std()


# Newton's method goes astray on these if it takes full steps, or cuts each coefficient's step on its own
ASTRAY = [
    ([1, 0, 0, 1, 0, 0], [0.184, 0.077, 0.062, 0.154, 0.112, 0.186]),
    ([0, 0, 0, 1, 0, 1], [0.094854, 0.037005, 0.177045, 0.035134, 0.138381, 0.050087]),
    ([1, 0, 1, 1, 0, 0, 0, 0, 0, 0], [0.171, 0.109, 0.186, 0.711, 0.05, 0.017, 0.091, 0.088, 0.174, 0.016]),
    ([0, 0, 0, 0, 1, 1] + [0] * 24, [0, 0.01, 0.01, 0, 0.02, 0.02, 0, 0.01, 0.02, 0.01, 0.01, 0.04, 0.01, 0.01] + [0] * 16),
]


@pytest.mark.parametrize("y, p", ASTRAY)
def test_the_calibration_slope_of_few_loans_is_the_likeliest(y, p):
    x = log_odds(p)
    assert not separated(x, np.array(y))
    np.testing.assert_allclose(calibration_slope(y, p)["calibration_slope"], likeliest_slope(x, np.array(y)), rtol=1e-5)


@pytest.mark.parametrize("seed", range(40))
def test_the_calibration_slope_of_ten_loans_of_small_pds_is_the_likeliest_or_missing(seed):
    random = np.random.default_rng(seed)
    p = random.beta(1, 4, 10) ** 4
    y = (random.random(10) < p**0.25).astype(int)
    y[0] = 1 - y[1:].max()  # both outcomes occur
    x, slope = log_odds(p), calibration_slope(y, p)["calibration_slope"]
    if separated(x, y):
        assert np.isnan(slope)
    else:
        np.testing.assert_allclose(slope, likeliest_slope(x, y), rtol=1e-5, atol=1e-7)


# --- an interval of a rate ---


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 2, 10, 300, 5000])
def test_the_wilson_interval_is_scipys(n, confidence):
    bad = np.unique(np.linspace(0, n, 11).astype(int))
    lower, upper = wilson_interval(bad, np.full(len(bad), n), norm.ppf(0.5 + confidence / 2))
    expected = [binomtest(int(k), n).proportion_ci(confidence, "wilson") for k in bad]
    np.testing.assert_allclose(lower, [each.low for each in expected], **CLOSE)
    np.testing.assert_allclose(upper, [each.high for each in expected], **CLOSE)
    assert ((lower >= 0) & (lower <= bad / n) & (bad / n <= upper) & (upper <= 1)).all()


def test_the_wilson_interval_is_of_95_percent_unless_told():
    low, high = binomtest(7, 40).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(np.ravel(wilson_interval(np.array([7]), np.array([40]))), [low, high], atol=1e-8)


def test_no_loans_have_no_wilson_interval():
    with np.errstate(all="ignore"):
        assert np.isnan(wilson_interval(np.array([0]), np.array([0]))).all()


@pytest.mark.parametrize("count", [0, 1, 7, 300, 100_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_the_bounds_of_a_count_leave_the_same_chance_on_either_side(count, confidence):
    lower, upper = poisson_interval(count, norm.ppf(0.5 + confidence / 2))
    np.testing.assert_allclose(poisson.cdf(count, upper), (1 - confidence) / 2, rtol=1e-6)
    assert lower == 0 if count == 0 else poisson.sf(count - 1, lower) == pytest.approx((1 - confidence) / 2, rel=1e-6)


# --- the decision ---


@ANY
def test_the_best_threshold_has_the_best_f1_of_all(y, p):
    threshold = best_f1_threshold(y, p)
    precision, recall, observed = metrics.precision_recall_curve(y, p)
    with np.errstate(invalid="ignore"):
        f1 = np.nan_to_num(2 * precision * recall / (precision + recall))[:-1]
    expected = f1[observed > p.min()].max()  # flagging every loan is no threshold between two probabilities
    np.testing.assert_allclose(metrics.f1_score(y, p >= threshold), expected, **CLOSE)
    below, above = p[p < threshold].max(), p[p > threshold].min()
    np.testing.assert_allclose(threshold, (below + above) / 2, **CLOSE)


@ANY
def test_the_expected_threshold_has_the_best_expected_f1_of_all(y, p):
    threshold = expected_f1_threshold(p)

    def expected(flagged):
        return 2 * p[flagged].sum() / (flagged.sum() + p.sum())

    best = max(expected(p >= each) for each in np.unique(p)[1:])
    np.testing.assert_allclose(expected(p >= threshold), best, **CLOSE)
    assert p[p < threshold].max() <= best / 2 + 1e-12 or p[p >= threshold].min() == p[p > p.min()].min()


@pytest.mark.parametrize("p", [[0.3, 0.3], [0.3], [], [0.1, np.nan], [0.1, 1.2], [0, 0]])
def test_pds_without_a_threshold_are_refused(p):
    with pytest.raises(EvaluationError):
        expected_f1_threshold(p)


def test_the_decision_may_follow_other_pds_than_the_evaluated():
    y, p = draw(3, 300, "distinct")
    decided_by = np.random.default_rng(3).random(300)
    found, plain, decision = evaluate(y, p, 0.4, decided_by), evaluate(y, p), evaluate(y, decided_by, 0.4)
    assert found == plain | {name: decision[name] for name in decision.keys() - plain.keys()}
    assert evaluate(y, p, decided_by=decided_by) == plain
    with pytest.raises(EvaluationError, match="equally long"):
        evaluate(y, p, 0.4, decided_by[1:])


def test_the_best_threshold_between_exact_zeros_and_ones_is_a_half():
    assert best_f1_threshold([0, 1, 0, 1], [0, 1, 0, 1]) == 0.5
    assert best_f1_threshold([1] * 4, [0, 0, 1, 1]) == 0.5


@pytest.mark.parametrize("low", [0.1, 0.2, 0.25, 0.3, 0.5, 0.7])
def test_the_best_threshold_parts_even_neighbouring_numbers(low):
    p = np.array([low, np.nextafter(low, 1)])  # one PD summed up in two orders differs like this; no number lies between
    assert metrics.f1_score([0, 1], p >= best_f1_threshold([0, 1], p)) == 1


@ANY
def test_every_value_of_an_evaluation_is_scikit_learns(y, p):
    for threshold in (0.0, 0.3, 1.0):
        flagged, found = p >= threshold, evaluate(y, p, threshold)
        (accepted_good, _), (accepted_bad, _) = metrics.confusion_matrix(y, flagged, labels=[0, 1])
        accepted = accepted_good + accepted_bad
        expected = {
            "roc_auc": metrics.roc_auc_score(y, p),
            "gini": 2 * metrics.roc_auc_score(y, p) - 1,
            "pr_auc": metrics.average_precision_score(y, p),
            "ks": ks_2samp(p[y == 1], p[y == 0], alternative="less", method="asymp").statistic,
            "brier": metrics.brier_score_loss(y, p),
            "log_loss": metrics.log_loss(y, p),
            "threshold": threshold,
            "f1": metrics.f1_score(y, flagged, zero_division=0),
            "precision": metrics.precision_score(y, flagged, zero_division=0),
            "recall": metrics.recall_score(y, flagged, zero_division=0),
            "approval_rate": accepted / len(y),
            "accepted_bad_rate": accepted_bad / accepted if accepted else np.nan,
        }
        np.testing.assert_allclose([found[name] for name in expected], list(expected.values()), **CLOSE)


@ANY
def test_an_evaluation_holds_what_the_single_functions_give(y, p):
    found = evaluate(y, p)
    bounds = dict(zip(("roc_auc", "roc_auc_lower", "roc_auc_upper"), roc_auc_interval(y, p), strict=True))
    single = {"ks": ks_statistic(y, p), "ece": expected_calibration_error(y, p)} | bounds | calibration_slope(y, p)
    single |= {f"brier_{name}": value for name, value in brier_decomposition(y, p).items()}
    assert {name: found[name] for name in single} == pytest.approx(single, nan_ok=True, rel=1e-12, abs=1e-12)
    assert all(type(value) is float for value in found.values())


@ANY
def test_log_loss_and_brier_have_the_interval_of_a_mean(y, p):
    found, of_outcome = evaluate(y, p), np.clip(np.where(y == 1, p, 1 - p), np.finfo(float).eps, None)
    for name, losses in {"log_loss": -np.log(of_outcome), "brier": (1 - of_outcome) ** 2}.items():
        assert losses.mean() == pytest.approx(found[name], rel=1e-9, abs=1e-12)
        low, high = norm.interval(0.95, losses.mean(), sem(losses) or 1e-300)
        assert [found[f"{name}_{end}"] for end in ("lower", "upper")] == pytest.approx([max(low, 0), high], rel=1e-6, abs=1e-12)


def test_an_evaluation_without_a_threshold_leaves_out_the_decision():
    y, p = draw(0, 300, "tied")
    decision = {"threshold", "f1", "precision", "recall", "approval_rate", "accepted_bad_rate"}
    assert set(evaluate(y, p, 0.5)) - set(evaluate(y, p)) == decision
    assert set(REPORTED_METRICS) <= set(evaluate(y, p, 0.5))


def test_a_loan_at_the_threshold_counts_as_bad():
    found = evaluate([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9], 0.5)
    assert (found["approval_rate"], found["recall"], found["precision"]) == (0.25, 1, pytest.approx(2 / 3))


def test_an_evaluation_of_exact_zeros_and_ones_is_finite():
    y = np.array([0, 1] * 5)
    right, wrong = evaluate(y, y, 0.5), evaluate(y, 1 - y, 0.5)
    assert (right["roc_auc"], right["brier"], right["f1"], right["accepted_bad_rate"]) == (1, 0, 1, 0)
    assert (wrong["roc_auc"], wrong["brier"], wrong["f1"], wrong["accepted_bad_rate"]) == (0, 1, 0, 1)
    assert np.isfinite([right["log_loss"], wrong["log_loss"]]).all()


# --- tables ---


@DISTINCT
def test_deciles_hold_lift_and_capture_by_definition(y, p):
    for bins in BINS:
        table, riskiest_first = decile_table(y, p, bins), in_bins(y, p, bins)[::-1]
        bad = np.array([own.sum() for own, _ in riskiest_first])
        count = np.array([len(own) for own, _ in riskiest_first])
        assert table.index.tolist() == list(range(1, len(count) + 1)) and table.index.name == "decile"
        assert table["bad"].tolist() == bad.tolist() and table["loans"].tolist() == count.tolist()
        np.testing.assert_allclose(table["mean_pd"], [own.mean() for _, own in riskiest_first], **CLOSE)
        np.testing.assert_allclose(table["bad_rate"], bad / count, **CLOSE)
        np.testing.assert_allclose(table["lift"], bad / count / y.mean(), **CLOSE)
        np.testing.assert_allclose(table["capture"], np.cumsum(bad) / y.sum(), **CLOSE)
        bounds = [binomtest(int(k), int(n)).proportion_ci(0.95, "wilson") for k, n in zip(bad, count, strict=True)]
        np.testing.assert_allclose(table[["lower", "upper"]], np.array(bounds), atol=1e-7)


@ANY
def test_deciles_add_up_to_all_loans(y, p):
    table = decile_table(y, p)
    assert table["loans"].sum() == len(y) and table["loans"].max() - table["loans"].min() <= 1
    assert table["mean_pd"].is_monotonic_decreasing and table["capture"].is_monotonic_increasing
    np.testing.assert_allclose((table["loans"] * table["lift"]).sum() / len(y), 1, **CLOSE)
    np.testing.assert_allclose(table["capture"].iloc[-1], 1, **CLOSE)


def test_deciles_without_bad_loans_have_no_lift_and_capture_nothing():
    table = decile_table([0] * 20, np.linspace(0, 1, 20))
    assert table["bad"].sum() == 0 and table["lift"].isna().all() and (table["capture"] == 0).all()


def test_deciles_of_bad_loans_alone_have_a_lift_of_1():
    table = decile_table([1] * 20, np.linspace(0, 1, 20))
    assert (table["lift"] == 1).all() and (table["bad"] == table["loans"]).all()


def test_fewer_loans_than_deciles_give_a_row_each():
    assert decile_table([0, 1, 0], [0.0, 1.0, 0.5])["bad"].tolist() == [1, 0, 0]


@ANY
def test_each_row_of_the_threshold_curve_is_scikit_learns(y, p):
    for points in (1, 15):
        curve = threshold_curve(y, p, points)
        assert 1 <= len(curve) <= points and curve.index.name == "threshold"
        assert curve.index[0] == p.min() and (points == 1 or curve.index[-1] == p.max())
        assert curve.index.is_monotonic_increasing and curve.index.is_unique
        for threshold, row in curve.iterrows():
            expected = _confusion(y, p >= threshold)
            np.testing.assert_allclose(row[list(expected)], list(expected.values()), **CLOSE)


def _confusion(y, flagged) -> dict[str, float]:
    (true_negative, false_positive), (false_negative, true_positive) = metrics.confusion_matrix(y, flagged, labels=[0, 1])
    accepted = true_negative + false_negative
    return {
        "precision": true_positive / (true_positive + false_positive),
        "recall": true_positive / max(true_positive + false_negative, 1),
        "f1": 2 * true_positive / (2 * true_positive + false_positive + false_negative),
        "approval_rate": accepted / len(y),
        "accepted_bad_rate": false_negative / accepted if accepted else np.nan,
    }


@pytest.mark.parametrize("outcome", [0, 1])
def test_the_threshold_curve_holds_with_one_outcome_alone(outcome):
    y, p = np.full(10, outcome), np.linspace(0, 1, 10)
    for threshold, row in threshold_curve(y, p, 5).iterrows():
        expected = _confusion(y, p >= threshold)
        np.testing.assert_allclose(row[list(expected)], list(expected.values()), **CLOSE)


def test_the_threshold_curve_of_one_pd_is_the_row_that_flags_every_loan():
    curve = threshold_curve([0, 1, 0, 0], [0.3] * 4)
    assert curve.index.tolist() == [0.3]
    assert curve.iloc[0, :4].tolist() == [0.25, 1, 0.4, 0] and np.isnan(curve["accepted_bad_rate"].iloc[0])


COMPARED = ["roc_auc", "ks", "calibration_slope"]  # of groups with both outcomes


@ANY
def test_a_group_has_what_the_functions_give_for_it_alone(y, p):
    groups = np.random.default_rng(len(y)).choice(["a", "b", "c"], len(y), p=[0.6, 0.3, 0.1])
    groups[:4] = "a"  # two loans of either outcome
    table = evaluate_by(y, p, groups).reindex(columns=[*BASIC, *COMPARED])
    assert table.index.tolist() == sorted(set(groups))
    for name, row in table.iterrows():
        own_y, own_p = y[groups == name], p[groups == name]
        assert (row["loans"], row["bad"]) == (len(own_y), own_y.sum())
        np.testing.assert_allclose(row["mean_pd"], own_p.mean(), **CLOSE)
        np.testing.assert_allclose(row["bad_rate"], own_y.mean(), **CLOSE)
        np.testing.assert_allclose(row["brier"], np.mean((own_y - own_p) ** 2), **CLOSE)
        bounds = binomtest(int(own_y.sum()), len(own_y)).proportion_ci(0.95, "wilson")
        np.testing.assert_allclose(row[["bad_rate_lower", "bad_rate_upper"]].astype(float), bounds, atol=1e-7)
        assert row["small"] == (min(own_y.sum(), (1 - own_y).sum()) < SMALL)
        if 0 < own_y.sum() < len(own_y):
            slope = calibration_slope(own_y, own_p)["calibration_slope"]
            expected = [metrics.roc_auc_score(own_y, own_p), ks_statistic(own_y, own_p), slope]
            np.testing.assert_allclose(row[COMPARED].astype(float), expected, **CLOSE)
        else:
            assert row[COMPARED].isna().all()


BASIC = ["loans", "bad", "mean_pd", "bad_rate", "bad_rate_lower", "bad_rate_upper", "brier", "small"]


def test_a_group_of_one_outcome_has_a_brier_score_and_no_ranking():
    table = evaluate_by([0, 0, 1, 1], [0.0, 0.1, 0.9, 1.0], ["good", "good", "bad", "bad"]).reindex(columns=[*BASIC, *COMPARED])
    np.testing.assert_allclose(table["brier"], 0.005)
    assert table[COMPARED].isna().all(axis=None) and table["small"].all()


def test_a_group_is_small_below_fifty_loans_of_either_outcome():
    counts = {"enough": (SMALL, SMALL), "few bad": (SMALL - 1, 500), "few good": (500, SMALL - 1)}
    y = np.concatenate([np.repeat([1, 0], count) for count in counts.values()])
    groups = np.repeat(list(counts), [sum(count) for count in counts.values()])
    table = evaluate_by(y, np.random.default_rng(0).random(len(y)), groups)
    assert table["small"].to_dict() == {"enough": False, "few bad": True, "few good": True}


@pytest.mark.parametrize("groups", [["a"], ["a"] * 9, []])
def test_groups_of_another_length_are_refused(groups):
    with pytest.raises((EvaluationError, ValueError), match="length|long"):
        evaluate_by([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], groups)


# --- pictures ---


@pytest.fixture
def no_window():
    backend = matplotlib.get_backend()
    matplotlib.use("Agg")
    with matplotlib.rc_context():
        yield
    plt.close("all")
    matplotlib.use(backend)


@pytest.mark.parametrize(
    "y, p", [draw(0, 300, "distinct"), draw(0, 10, "tied"), ([0, 1], [0.5, 0.5]), ([0, 1, 0, 1], [0, 1, 1, 0])]
)
def test_the_picture_shows_ranking_calibration_and_threshold(no_window, y, p):
    figure = plot_evaluation(y, p, 0.25, "Loans")
    assert [axes.get_title() for axes in figure.axes] == ["Ranking", "Calibration", "PD by outcome"]
    assert figure.get_suptitle() == "Loans"
    assert figure.axes[0].lines[0].get_label() == f"ROC-AUC {metrics.roc_auc_score(y, p):.3f}"
    assert figure.axes[2].lines[0].get_label() == "threshold 25.0 %"
    figure.canvas.draw()


def test_the_style_is_in_use_after_asking_for_it(no_window):
    use_style()
    assert {name: matplotlib.rcParams[name] for name in STYLE} == STYLE
