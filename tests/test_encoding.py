"""The encoding against scikit-learn, its two paths against each other, and the calibration map against its definition."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.preprocessing import QuantileTransformer

from lending_club.core.applications import read_applications
from lending_club.core.encoding import (
    IMPUTED,
    MISSING,
    CategoryCodes,
    Encoding,
    calibrate,
    calibration_signals,
    feature_code,
    normal_knots,
)
from lending_club.core.preprocess import LoanEncoder, QuantileNormal
from lending_club.core.single import Curve, SingleApplication, SingleEncoder

COLUMNS = {
    "continuous": np.random.default_rng(0).normal(size=2_000),
    "many equal": np.round(np.random.default_rng(1).lognormal(9, 1, 500), -3),
    "three values": np.repeat([0.0, 0.0, 1.0, 5.0], 100),
    "nearly constant": np.array([0, 1e-8, 2e-8, 3e-8] * 50),
    "constant": np.zeros(50),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_knots_are_scikit_learns_transform(column):
    fitted = QuantileTransformer(n_quantiles=min(200, len(column)), output_distribution="normal").fit(column[:, None])
    knots, values = normal_knots(fitted.quantiles_[:, 0], fitted.references_, clip=3.5)
    assert (np.diff(knots) > 0).all() and (np.diff(values) >= 0).all() and np.abs(values).max() <= 3.5
    spread = np.random.default_rng(2).uniform(column.min() - 1, column.max() + 1, 5_000)
    asked = np.concatenate([column, column + 1e-3, spread])
    expected = np.clip(fitted.transform(asked[:, None])[:, 0], -3.5, 3.5)
    assert np.abs(np.interp(asked, knots, values) - expected).max() < 1e-5


def test_quantile_normal_is_the_service_interpolation():
    frame = pd.DataFrame({"a": COLUMNS["continuous"], "b": np.resize(COLUMNS["many equal"], 2_000)})
    fitted = QuantileNormal(random_state=0).fit(frame)
    for i, name in enumerate(frame):
        knots, values = normal_knots(fitted.quantiles_[:, i], fitted.references_, fitted.clip)
        np.testing.assert_array_equal(fitted.transform(frame)[:, i], np.interp(frame[name], knots, values))
    assert np.isnan(fitted.transform(pd.DataFrame({"a": [np.nan], "b": [1.0]}))[0, 0])


def test_category_codes():
    codes = CategoryCodes(["car", MISSING, "wedding"])
    assert [codes[v] for v in ("car", " car\u00a0", "wedding")] == [1, 1, 3]
    assert [codes[v] for v in (None, "", float("nan"))] == [2, 2, 2]
    assert codes["space travel"] == 0 and CategoryCodes(["car"])[None] == 0
    assert len(codes) == 3, "looking up must not add"


NAMES = ("dti", "fico", "open_acc", "log_income", "term_months")


def make_encoding() -> Encoding:
    rng = np.random.default_rng(3)
    quantiles = {
        "dti": np.sort(rng.normal(18, 8, 100)),
        "fico": np.sort(rng.normal(700, 30, 100)),
        "open_acc": np.sort(rng.integers(0, 30, 100) + 1e-3 * rng.normal(size=100)),
        "log_income": np.sort(rng.normal(11, 0.5, 100)),
        "term_months": np.sort(np.repeat([36.0, 60.0], 50) + 1e-3 * rng.normal(size=100)),
    }
    return Encoding(
        {
            "quantiles": {name: quantiles[name].tolist() for name in NAMES},
            "references": np.linspace(0, 1, 100).tolist(),
            "clip": 3.5,
            "imputed": IMPUTED,
            "flags": ["dti", "open_acc"],
            "categories": {"purpose": ["car", MISSING], "home_ownership": ["RENT"]},
        }
    )


ENCODING = make_encoding()


def test_the_matrix_by_hand():
    numbers = np.array([[20.0, np.nan], [700.0, 2000.0], [4.0, np.nan], [11.0, -5.0], [36.0, 47.3]])
    matrix = ENCODING.encode(numbers, {"purpose": ["car", None], "home_ownership": ["OWN", " RENT"]})
    assert matrix.dtype == np.float32 and matrix.shape == (2, ENCODING.width) == (2, 9)
    for row, (knots, values) in enumerate(ENCODING.curves):
        for loan in range(2):
            expected = 0 if np.isnan(numbers[row, loan]) else np.interp(numbers[row, loan], knots, values)
            assert matrix[loan, row] == pytest.approx(expected, abs=1e-6)
    assert matrix[1, 1] == 3.5 and matrix[1, 3] == -3.5, "beyond the ends it is flat"
    assert matrix[:, 5:].tolist() == [[0, 0, 1, 0], [1, 1, 2, 1]]


@given(st.lists(st.one_of(st.none(), st.integers(-5, 70), st.floats(-1e6, 1e6)), min_size=1, max_size=6))
def test_whole_and_other_numbers_are_looked_up_alike(values):
    values = [math.nan if v is None else float(v) for v in values]
    numbers = np.array([values] * len(NAMES))
    scores = ENCODING.scores(numbers)
    for row, curve in enumerate(ENCODING.curves):
        known = ~np.isnan(numbers[row])
        np.testing.assert_allclose(scores[row][known], np.interp(numbers[row][known], *curve), atol=1e-6)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "dti": st.floats(-1, 999),
            "fico_range_low": st.floats(300, 850),
            "fico_range_high": st.floats(300, 850),
            "open_acc": st.one_of(st.integers(0, 100), st.floats(0, 100)),
            "annual_inc": st.floats(0, 1e7),
            "term": st.sampled_from([" 36 months", "60 months"]),
            "purpose": st.sampled_from(["car", "wedding", " car"]),
            "application_type": st.sampled_from(["Individual", "Joint App"]),
            "dti_joint": st.floats(0, 50),
        },
    )
)
def test_one_application_is_encoded_as_many_are(application):
    from lending_club.core.features import numeric_features

    encoding = SHOWN
    table = read_applications([application])
    together = encoding.encode(numeric_features(table, encoding.names), {name: table.text(name) for name in encoding.codes})
    np.testing.assert_allclose(SingleEncoder(encoding).encode(SingleApplication(table)), together, atol=1e-6)


SHOWN = Encoding(
    {
        "quantiles": {
            "fico": np.linspace(640, 800, 50).tolist(),
            "dti_combined": np.linspace(0, 40, 50).tolist(),
            "open_acc": np.repeat(np.arange(10.0), 5).tolist(),
            "log_income": np.linspace(9, 13, 50).tolist(),
            "term_months": np.repeat([36.0, 60.0], 25).tolist(),
        },
        "references": np.linspace(0, 1, 50).tolist(),
        "clip": 3.5,
        "imputed": IMPUTED,
        "flags": ["fico", "open_acc"],
        "categories": {"purpose": ["car", MISSING]},
    }
)


@given(st.floats(-10, 10))
def test_interpolation_of_one_number(x):
    knots, values = [-2, -1, 0, 3, 4.5], [-3, -1, 0, 2, 2.5]
    curve = Curve(knots, values, [(2.0, 7.0)], missing=-9.0)
    assert curve[x] == pytest.approx(np.interp(x, knots, values), abs=1e-12) or x == 2
    assert (curve[2.0], curve[math.nan], len(curve)) == (7.0, -9.0, 1)  # nothing that is asked for is kept


@pytest.mark.parametrize("method", ["sigmoid", "beta"])
def test_the_calibration_map_is_its_definition(method):
    p = np.array([0.01, 0.2, 0.5, 0.93])
    coefficients = [1.3] if method == "sigmoid" else [0.9, 1.2]
    table = {"method": method, "coefficients": coefficients, "intercept": -0.2}
    by_hand = 1.3 * logit(p) if method == "sigmoid" else 0.9 * np.log(p) - 1.2 * np.log(1 - p)
    np.testing.assert_allclose(calibrate(p, table), expit(by_hand - 0.2), rtol=1e-12)
    np.testing.assert_allclose([calibrate(one, table) for one in p.tolist()], calibrate(p, table), rtol=1e-12)
    assert [len(signal) for signal in calibration_signals(p, method)] == [4] * len(coefficients)
    ends = calibrate(np.array([0.0, 1.0]), table)
    assert [calibrate(0.0, table), calibrate(1.0, table)] == pytest.approx(ends, rel=1e-12)
    assert np.isfinite(ends).all() and ends[0] < 1e-4 and ends[1] > 1 - 1e-4


def test_training_and_service_make_the_same_matrix():
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "dti": np.where(rng.random(400) < 0.2, np.nan, rng.normal(18, 8, 400)),
            "open_acc": rng.integers(0, 30, 400).astype(float),
            "purpose": rng.choice(["car", "wedding", None], 400, p=[0.7, 0.2, 0.1]),
            "rare": ["x"] * 399 + ["y"],
            "empty": np.nan,
            "constant": 1.0,
        }
    )
    encoder = LoanEncoder(random_state=0).fit(frame)
    assert encoder.dropped_ == ["empty", "constant"] and encoder.flagged_ == ["dti"]
    assert encoder.categories_ == {"purpose": ["car", "missing", "wedding"], "rare": ["x"]}
    matrix = encoder.transform(frame)
    texts = {name: frame[name].tolist() for name in encoder.categorical_}
    served = Encoding(encoder.tables_).encode(frame[encoder.numeric_].to_numpy().T, texts)
    np.testing.assert_array_equal(matrix, served)
    assert matrix[-1, -1] == 0 and abs(matrix[:, 0][frame["dti"].notna()].mean()) < 0.05


def test_the_feature_code_has_a_digest():
    assert len(feature_code()) == 64 and feature_code() == feature_code()
