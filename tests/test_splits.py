"""Splitting by date: what holds for any loans and any dates."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lending_club.clean import SplitError, temporal_split, walk_forward_splits

MONTHS = pd.date_range("2012-01-01", periods=60, freq="MS")


def loans(counts) -> pd.DataFrame:
    "`counts` loans of each month, good and bad in turn."
    months = np.repeat(MONTHS[: len(counts)].to_numpy(), counts)
    return pd.DataFrame({"issue_month": months, "default": np.arange(len(months)) % 2, "place": np.arange(len(months))})


DATES = st.tuples(st.integers(0, 59), st.integers(1, 40))


@given(counts=st.lists(st.integers(0, 4), min_size=3, max_size=60), dates=DATES)
def test_every_loan_is_in_one_part_and_the_parts_follow_each_other(counts, dates):
    assume(any(counts))
    table = loans(counts)
    train_end = MONTHS[dates[0]]
    val_end = train_end + pd.DateOffset(months=dates[1])
    try:
        splits = temporal_split(table, train_end.date(), val_end.date())
    except SplitError as error:
        assert any(words in str(error) for words in ("is empty", "has only", "single month", "spans more months"))
        return
    parts = [splits.train, splits.validation, splits.calibration, splits.test]
    assert sorted(np.concatenate([part["place"] for part in parts])) == list(range(len(table)))
    ends = [(part["issue_month"].min(), part["issue_month"].max()) for part in parts]
    assert all(last < first for (_, last), (first, _) in zip(ends, ends[1:], strict=False))
    assert ends[0][1] < train_end <= ends[1][0] and ends[2][1] < val_end <= ends[3][0]
    assert all(part["default"].nunique() == 2 for part in parts)


@given(st.integers(0, 20))
def test_more_loans_after_the_end_change_nothing_before(more):
    table = loans([4] * 40)
    train_end, val_end = MONTHS[20].date(), MONTHS[30].date()
    before = temporal_split(table, train_end, val_end)
    after = temporal_split(loans([4] * (40 + more)), train_end, val_end)
    for part in ("train", "validation", "calibration"):
        pd.testing.assert_frame_equal(getattr(before, part), getattr(after, part))


def test_the_later_half_of_the_validation_period_calibrates():
    splits = temporal_split(loans([4] * 40), MONTHS[20].date(), MONTHS[30].date())
    assert len(splits.validation) == len(splits.calibration) == 20


@pytest.mark.parametrize("quarters", [1, 2, 4])
def test_walking_forward_never_looks_ahead(quarters):
    walk = walk_forward_splits(loans([40] * 48), quarters, 6)
    assert len(walk) == quarters
    for quarter, splits in walk.items():
        assert set(splits.test["issue_month"].dt.to_period("Q").astype(str)) == {quarter}
        assert (
            max(part["issue_month"].max() for part in (splits.train, splits.validation, splits.calibration))
            < splits.test["issue_month"].min()
        )
