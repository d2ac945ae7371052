"""Rows of a file sent to the service: they get the PD that training gives the same loans, in whatever spelling."""

import csv
import gzip
import io
import json

import numpy as np
import pandas as pd
import pytest

from lending_club.clean import clean_with_rows
from lending_club.core.compile import compile_pipeline
from lending_club.core.data import read_loans
from lending_club.core.months import parse_month
from lending_club.core.outcomes import FINAL_STATUSES
from lending_club.core.sample import draw
from lending_club.core.schema import BY_NAME
from lending_club.serving.consistency import contradictions
from lending_club.serving.csv_requests import read_csv_batch
from lending_club.serving.requests import read_application, read_json_batch

ROWS = 200
REAL = ("accepted_2007_to_2011.csv.gz", "accepted_sample_2007_to_2018.csv.gz")
SOURCES = ("sample", *(pytest.param(name, marks=pytest.mark.slow) for name in REAL))


@pytest.fixture(scope="module")
def pipeline(stock):
    "A small network, and its form for the service."
    return stock.first.pipeline, compile_pipeline(stock.first.pipeline)


@pytest.fixture(scope="module", params=SOURCES)
def rows(request, tmp_path_factory) -> list[dict]:
    "Ended loans as csv.DictReader gives them, all 151 columns, oldest first."
    if request.param == "sample":
        text = io.StringIO(draw(1_000).loans.to_csv(index=False))
    else:
        text = gzip.open(request.getfixturevalue("real_data") / request.param, "rt", newline="", encoding="utf-8")
    with text:
        kept = [row for row in csv.DictReader(text) if row["loan_status"] in FINAL_STATUSES and row["disbursement_method"] != "N"]
    kept.sort(key=lambda row: parse_month(row["issue_d"]))
    return [row | {"id": str(place)} for place, row in enumerate(kept[:: max(1, len(kept) // ROWS)][:ROWS])]


@pytest.fixture(scope="module")
def wanted(pipeline, rows, tmp_path_factory) -> np.ndarray:
    "The PDs of training."
    file = tmp_path_factory.mktemp("rows") / "loans.csv"
    file.write_bytes(as_csv(rows))
    loans, order = clean_with_rows(read_loans(file, columns="all"))
    assert loans["loan_amnt"].tolist() == [float(rows[place]["loan_amnt"]) for place in order]
    pds = np.empty(len(rows))
    pds[order] = pipeline[0].predict_proba(loans)[:, 1]
    return pds


def as_csv(rows: list[dict]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_numbers(rows: list[dict]) -> list[dict]:
    "The rows as pandas gives them to json.dumps: numbers where a column has numbers, null where a cell is empty."
    frame = pd.read_csv(io.BytesIO(as_csv(rows)), keep_default_na=False, na_values=[""])
    return json.loads(frame.to_json(orient="records"))


def agree(pipeline, table, wanted):
    np.testing.assert_allclose(pipeline[1].probabilities(table), wanted, atol=1e-6)


def test_rows_as_they_are(pipeline, rows, wanted):
    agree(pipeline, read_csv_batch(as_csv(rows), ROWS).table, wanted)
    agree(pipeline, read_json_batch(json.dumps(rows).encode(), ROWS).table, wanted)
    agree(pipeline, read_json_batch(json.dumps(as_numbers(rows)).encode(), ROWS).table, wanted)
    alone = [read_application(json.dumps(row).encode()) for row in rows[:20]]
    assert [pipeline[1].probabilities(one)[0] for one in alone] == pytest.approx(wanted[:20], abs=1e-6)


def month(format: str):
    "A rewriting of the months that a request may have."
    names = ("issue_d", "earliest_cr_line", "sec_app_earliest_cr_line")

    def rewrite(row: dict) -> dict:
        return row | {n: pd.to_datetime(row[n], format="%b-%Y").strftime(format) for n in names if row[n]}

    return rewrite


def each(change, *names):
    return lambda row: row | {name: change(row[name]) for name in names if row[name]}


PERCENT = [column.name for column in BY_NAME.values() if column.unit == "%" and column.role == "input"]
DOLLARS = [column.name for column in BY_NAME.values() if column.unit.startswith("USD") and column.role == "input"]
WORDS = [column.name for column in BY_NAME.values() if column.kind == "category" and column.at_origination]
TEXTS = {"desc": 'x, "y"\n' * 1_000, "zip_code": "860xx", "url": "https://", "member_id": "1.5"}
LAYOUTS = {
    "rates with %": each(lambda text: f" {text}%", *PERCENT),
    "amounts with $": each(lambda text: f"${float(text):,.2f}", *DOLLARS),
    "months Dec-11": month("%b-%y"),
    "months 2011-12-01": month("%Y-%m-%d"),
    "months 2011-12": month("%Y-%m"),
    "words in capitals": each(str.upper, *WORDS),
    "words in small letters": each(str.lower, *WORDS),
    "terms 36m": each(lambda text: f"{text.split()[0]}m", "term"),
    "<1 year": each(lambda text: text.replace("< 1", "<1"), "emp_length"),
    "JOINT": each(lambda text: {"Individual": "INDIVIDUAL", "Joint App": "JOINT"}[text], "application_type"),
    "NA": lambda row: {name: value or "NA" for name, value in row.items()},
    "NULL": lambda row: {name: value or "NULL" for name, value in row.items()},
    "nan": lambda row: {name: value or "nan" for name, value in row.items()},
    "names in capitals": lambda row: {name.upper(): value for name, value in row.items()},
    "names of 2015": lambda row: {{"open_act_il": "open_il_6m"}.get(name, name): value for name, value in row.items()},
    "texts that nobody reads": lambda row: row | TEXTS,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_in_another_layout(pipeline, rows, wanted, layout):
    changed = [LAYOUTS[layout](row) for row in rows]
    assert changed != rows
    agree(pipeline, read_csv_batch(as_csv(changed), ROWS).table, wanted)
    agree(pipeline, read_json_batch(json.dumps(changed).encode(), ROWS).table, wanted)


def test_hardly_any_row_contradicts_itself(rows):
    found = contradictions(read_csv_batch(as_csv(rows), ROWS).table)
    assert all(own["fields"][0] == "installment" for each in found.values() for own in each)
    assert len(found) <= 0.08 * ROWS  # of the loans before 2012, some were funded with less than was applied for
