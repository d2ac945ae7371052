"""What a lender would expect of any model that these stages train: what never matters, and which way risk goes."""

import numpy as np
import pytest

from lending_club.clean import load_clean, split_loans
from lending_club.core.applications import as_applications
from lending_club.core.compile import compile_pipeline
from lending_club.core.hyperparameters import default_parameters
from lending_club.core.schema import COLUMNS
from lending_club.core.settings import scratch_settings
from lending_club.train import fit_pipeline


@pytest.fixture(scope="module")
def trained(stock):
    "A compiled model of the default network, and 500 test applications."
    compiled = compile_pipeline(stock.first.pipeline)
    return compiled, as_applications(stock.first.splits.test[:500], compiled.tables["columns"])


@pytest.mark.parametrize("column", [c for c in COLUMNS if c.kind == "text"], ids=lambda c: c.name)
def test_free_text_never_matters(trained, column):
    compiled, applications = trained
    changed = [application | {column.name: f"anything {i}"} for i, application in enumerate(applications)]
    np.testing.assert_array_equal(compiled.probabilities(changed), compiled.probabilities(applications))


@pytest.mark.parametrize("name", ["addr_state", "zip_code"])
def test_where_somebody_lives_does_not_matter_unless_it_is_allowed(trained, name):
    compiled, applications = trained
    pds = compiled.probabilities([application | {name: "NY"} for application in applications])
    np.testing.assert_array_equal(pds, compiled.probabilities(applications))


@pytest.fixture(scope="module")
def large():
    "The same of loans enough to learn which way risk goes."
    settings = scratch_settings(sample_rows=20_000, epochs=10)
    clean = load_clean(settings)
    splits = split_loans(settings, clean)
    pipeline = fit_pipeline(splits, default_parameters(settings.network, clean.target), settings, progress=False)
    compiled = compile_pipeline(pipeline)
    return compiled, as_applications(splits.test[:500], compiled.tables["columns"])


def mean_pd(large, **fields) -> float:
    compiled, applications = large
    return float(compiled.probabilities([application | fields for application in applications]).mean())


@pytest.mark.slow
def test_the_mean_pd_rises_with_dti(large):
    pds = [mean_pd(large, dti=dti, dti_joint=dti) for dti in (5, 15, 25, 35)]
    assert pds == sorted(pds) and pds[-1] > 1.1 * pds[0], pds


@pytest.mark.slow
def test_the_mean_pd_falls_with_fico(large):
    pds = [mean_pd(large, fico_range_low=fico, fico_range_high=fico + 4) for fico in (660, 690, 720, 760)]
    assert pds == sorted(pds, reverse=True) and pds[0] > 1.1 * pds[-1], pds


@pytest.mark.slow
def test_the_mean_pd_rises_with_a_worse_grade(large):
    pds = [mean_pd(large, grade=grade, sub_grade=f"{grade}3") for grade in "ABCDE"]
    assert pds == sorted(pds) and pds[-1] > 1.3 * pds[0], pds


@pytest.mark.slow
def test_the_longer_term_is_the_riskier_one(large):
    assert mean_pd(large, term=" 60 months") > mean_pd(large, term=" 36 months")


@pytest.mark.slow
def test_the_order_of_a_batch_does_not_matter(large):
    compiled, applications = large
    order = np.random.default_rng(0).permutation(len(applications))
    shuffled = compiled.probabilities([applications[i] for i in order])
    np.testing.assert_allclose(shuffled, compiled.probabilities(applications)[order], atol=1e-6)
