"""Columns that say two things at once: read rightly, or refused with an example, and never as something else."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import clean_environment
from test_layouts import cleaned, european, stamp, thousands, write

from lending_club.core.data import DataError, read_loans, reading_table
from lending_club.core.loans import hash_loans
from lending_club.core.sample import draw
from lending_club.core.schema import COLUMNS

ROWS = 1_000


@pytest.fixture(scope="module")
def plain() -> pd.DataFrame:
    "Loans of the sample as texts."
    loans = draw(ROWS).loans[["loan_status", *(column.name for column in COLUMNS if column.at_origination)]]
    return loans.astype(object).where(loans.notna(), "").map(lambda value: repr(value) if isinstance(value, float) else value)


def some(loans: pd.DataFrame, name: str, change, share: float) -> pd.DataFrame:
    "The loans with a part of a column's filled values changed."
    changed, places = loans.copy(), np.flatnonzero(loans[name] != "")
    places = places[: round(share * len(places))]
    changed.loc[places, name] = [change(value) for value in loans.loc[places, name]]
    return changed


def day_first(text: str) -> str:
    return f"{stamp(text):%d/%m/%Y}"


REFUSED = {
    "days first in all but two of a hundred": (
        lambda loans: some(
            loans.assign(issue_d=loans["issue_d"].map(day_first)),
            "issue_d",
            lambda text: "/".join(np.array(text.split("/"))[[1, 0, 2]]),
            0.02,
        ),
        "issue_d is '.*', which cannot be read",
    ),
    "issued in the century before": (
        lambda loans: loans.assign(issue_d=loans["issue_d"].str.replace("20", "19")),
        "issue_d is '.*19.*', which cannot be read",
    ),
    "credit lines after their loans": (
        lambda loans: loans.assign(earliest_cr_line="Jun-2019"),
        "earliest_cr_line is 'Jun-2019', which cannot be read",
    ),
    "thousands beside decimals": (
        lambda loans: some(some(loans, "annual_inc", thousands, 1), "annual_inc", lambda text: "65000,5", 0.1),
        "annual_inc is '.*,.*', which cannot be read",
    ),
    "thousands with points": (
        lambda loans: loans.assign(annual_inc=loans["annual_inc"].map(lambda text: european(text).split(",")[0])),
        "annual_inc has values such as '.*', whose point may separate thousands",
    ),
    "rates of one quarter as fractions": (
        lambda loans: some(loans, "int_rate", lambda text: repr(float(text) / 100), 0.05),
        "int_rate holds fractions such as",
    ),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_two_meanings_in_a_column_are_refused(plain, tmp_path, layout):
    change, words = REFUSED[layout]
    with pytest.raises(DataError, match=words):
        cleaned(write(change(plain), tmp_path))


def test_credit_lines_of_the_coming_century_are_of_the_last_one(plain, tmp_path):
    "What `pd.to_datetime(..., format='%b-%y')` makes of `Jun-63`."
    lines = [f"{stamp(text):%Y-%m-%d}" for text in plain["earliest_cr_line"]]
    lines[:2], known = ["2063-06-01", "2064-01-01"], plain["earliest_cr_line"].tolist()
    known[:2] = ["Jun-1963", "Jan-1964"]
    shifted, wanted = plain.assign(earliest_cr_line=lines), plain.assign(earliest_cr_line=known)
    assert hash_loans(cleaned(write(shifted, tmp_path))) == hash_loans(cleaned(write(wanted, tmp_path)))


ID_SPELLINGS = {
    "spaces": " {} ",
    "decimals": "{}.00",
    "a formula": '="{}"',
    "an apostrophe": "'{}",
    "as it is": "{}",
}


@pytest.mark.parametrize("spelling", ID_SPELLINGS)
def test_an_id_in_another_spelling_is_the_same_loan(plain, tmp_path, spelling):
    numbered = plain.assign(id=[str(1_000 + i) for i in range(ROWS)])
    again = numbered[: ROWS // 10].assign(id=numbered["id"].map(ID_SPELLINGS[spelling].format))
    raw = read_loans(write(pd.concat([numbered, again], ignore_index=True), tmp_path))
    assert raw["id"].nunique() == ROWS
    assert len(cleaned(tmp_path / "loans.csv")) == len(cleaned(write(numbered, tmp_path)))


def test_a_percent_sign_alone_is_no_rate(plain, tmp_path):
    "As in the service."
    marked = plain.assign(dti=["%", " 12.5 % ", "NA", " 8%", *plain["dti"][4:]])
    raw = read_loans(write(marked, tmp_path))
    assert raw["dti"].iloc[[1, 3]].tolist() == [12.5, 8.0] and raw["dti"].iloc[[0, 2]].isna().all()
    reading = reading_table(raw.attrs["readings"]).loc["dti"]
    assert (reading["unread"], reading["filled"] - reading["read"]) == ("%", 1)


def test_blank_ids_are_no_ids(plain, tmp_path):
    numbered = plain.assign(id=[" " if i % 2 else " NULL " for i in range(ROWS)])
    assert read_loans(write(numbered, tmp_path))["id"].isna().all()


def test_periods_are_read_by_a_process_that_has_made_none(plain, tmp_path):
    months = ["issue_d", "earliest_cr_line"]
    periods = plain.assign(**{name: pd.PeriodIndex(plain[name].map(stamp), freq="M") for name in months})
    periods.to_parquet(tmp_path / "loans.parquet")
    code = "import sys; from lending_club.core.data import read_loans; print(read_loans(sys.argv[1])['issue_d'].iloc[0])"
    command = [sys.executable, "-c", code, tmp_path / "loans.parquet"]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True)
    assert done.stdout.strip() == plain["issue_d"].iloc[0], done.stderr[-1_000:]


UNITS = {
    "thousands": ("annual_inc", 0.001),
    "cents": ("revol_bal", 100),
    "fractions": ("revol_util", 0.01),
    "basis points": ("dti", 100),
}


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("place", ["folder", "joined"])
def test_one_file_of_many_in_another_unit_is_refused(plain, tmp_path, kind, place):
    name, factor = UNITS[kind]
    quarters = [plain[i : i + ROWS // 8].reset_index(drop=True) for i in range(0, ROWS, ROWS // 8)]
    quarters[1] = some(quarters[1], name, lambda text: repr(float(text) * factor), 1)
    for i, quarter in enumerate(quarters):
        write(quarter, tmp_path).rename(tmp_path / f"part{i}.csv")
    file = tmp_path
    if place == "joined":
        text = "".join(part.read_text() for part in sorted(tmp_path.iterdir()))
        file = tmp_path / "joined.csv"
        file.write_text(text)
    with pytest.raises(DataError, match=f"loans 126 to 250 of 1,000: .*{name}"):
        read_loans(file)


def test_a_file_that_is_sorted_by_amounts_is_read(tmp_path):
    "The first batch has small amounts only, and they are right."
    loans = draw(30_000).loans.sort_values("revol_bal")
    loans.to_parquet(tmp_path / "loans.parquet", row_group_size=500)
    assert len(read_loans(tmp_path / "loans.parquet")) == len(loans)
