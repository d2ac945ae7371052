"""The same loans in other spellings and units: the same cleaned loans to the last digit, or a refusal that says why."""

from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lending_club.clean import SplitError, clean_loans, temporal_split
from lending_club.core.data import DataError, read_loans, reading_table
from lending_club.core.loans import hash_loans
from lending_club.core.sample import draw
from lending_club.core.schema import BY_NAME, COLUMNS

ROWS = 1_000
REAL = ("accepted_2007_to_2011.csv.gz", "accepted_sample_2007_to_2018.csv.gz")
SOURCES = ("sample", *(pytest.param(name, marks=pytest.mark.slow) for name in REAL))
MONTHS = [column.name for column in COLUMNS if column.kind == "month" and column.at_origination]
RATES = [column.name for column in COLUMNS if column.unit == "%" and column.role == "input"]


@pytest.fixture(scope="module", params=SOURCES)
def plain(request) -> pd.DataFrame:
    "Loans as texts, in the public file's own spelling, without the columns of a loan's later life."
    known = ["loan_status", *(column.name for column in COLUMNS if column.at_origination)]
    if request.param == "sample":
        loans = draw(ROWS).loans[known]
        return loans.astype(object).where(loans.notna(), "").map(lambda value: repr(value) if isinstance(value, float) else value)
    folder = request.getfixturevalue("real_data")
    loans = pd.read_csv(folder / request.param, dtype=str, keep_default_na=False, usecols=known)
    return loans.sample(ROWS, random_state=0, ignore_index=True)


def cleaned(file) -> pd.DataFrame:
    return clean_loans(read_loans(file))


def write(loans: pd.DataFrame, folder):
    loans.to_csv(folder / "loans.csv", index=False)
    return folder / "loans.csv"


@pytest.fixture(scope="module")
def wanted(plain, tmp_path_factory) -> str:
    "The digest of the plain loans, cleaned."
    return hash_loans(cleaned(write(plain, tmp_path_factory.mktemp("plain"))))


def each(columns, change):
    "A rewriting of columns by their filled values, each distinct value once."

    def rewrite(loans):
        changed = {}
        for name in [columns] if isinstance(columns, str) else columns:
            known = {value: change(value) if value else value for value in loans[name].unique()}
            changed[name] = loans[name].map(known)
        return loans.assign(**changed)

    return rewrite


def stamp(text: str) -> pd.Timestamp:
    return pd.to_datetime(text, format="%b-%Y")


def month(format: str, columns=MONTHS):
    return each(columns, lambda text: stamp(text).strftime(format))


def excel_shown(text: str) -> str:
    "What a spreadsheet shows for `Dec-11`: it takes a number up to 31 for a day."
    day = int(f"{stamp(text):%y}")
    return f"{day}-{text[:3]}" if 1 <= day <= 31 else f"{text[:3]}-{day:02}"


def excel_number(text: str) -> str:
    return str((stamp(text) - pd.Timestamp("1899-12-30")).days)


def half(change):
    "Only every other loan."

    def rewrite(loans):
        changed = change(loans)
        return changed.where(pd.Series(np.arange(len(loans)) % 2 == 0, index=loans.index), loans)

    return rewrite


def absent(word: str):
    kept = {"home_ownership"} if word.lower() == "none" else {"emp_length"} if word == "n/a" else set()

    def rewrite(loans):
        return loans.where((loans != "") | loans.columns.isin(kept), word)

    return rewrite


def thousands(text: str) -> str:
    whole, point, rest = text.partition(".")
    return f"{int(whole):,}{point}{rest}"


def european(text: str) -> str:
    return thousands(repr(float(text))).replace(",", " ").replace(".", ",").replace(" ", ".")


def overlap(loans):
    again = loans[: len(loans) // 2]
    return pd.concat([loans, again]) if (again["id"] != "").all() else loans


def earlier_download(loans):
    "Before the loans, half of them as they stood earlier."
    half = loans[: len(loans) // 2]
    return pd.concat([half.assign(loan_status="Current"), loans]) if (half["id"] != "").all() else loans


EQUAL = {
    "as it is": lambda loans: loans,
    "months Dec-11 and Jan-85": month("%b-%y"),
    "months Dec-11, only the credit line": month("%b-%y", "earliest_cr_line"),
    "months 11-Dec, as a spreadsheet shows them": each(MONTHS, excel_shown),
    "months Dec-11 mixed with Dec-2011": half(month("%b-%y")),
    "months 2011-12 mixed with Dec-2011": half(month("%Y-%m")),
    "months 2011-12-01": month("%Y-%m-%d"),
    "months 2011-12-01 00:00:00": month("%Y-%m-%d %H:%M:%S"),
    "months 2011-12-01T00:00:00.000Z": month("%Y-%m-%dT00:00:00.000Z"),
    "months 2011-12-01 00:00:00+00:00": month("%Y-%m-%d 00:00:00+00:00"),
    "months 12/1/2011": each(MONTHS, lambda text: f"{stamp(text).month}/1/{stamp(text).year}"),
    "months 12/01/2011": month("%m/%d/%Y"),
    "months 12/01/2011 12:00:00 AM": month("%m/%d/%Y 12:00:00 AM"),
    "months 12/1/11": each(MONTHS, lambda text: f"{stamp(text).month}/1/{stamp(text):%y}"),
    "months 01/12/2011, day first": month("%d/%m/%Y"),
    "months 01.12.2011": month("%d.%m.%Y"),
    "months 01-12-2011": month("%d-%m-%Y"),
    "months 12/2011": month("%m/%Y"),
    "months 2011/12": month("%Y/%m"),
    "months 201112": month("%Y%m"),
    "months 20111201": month("%Y%m%d"),
    "months 201112.0": month("%Y%m.0"),
    "months dec 2011": each(MONTHS, lambda text: stamp(text).strftime("%b %Y").lower()),
    "months DEC-2011": each(MONTHS, str.upper),
    "months December 2011": month("%B %Y"),
    "months December 1, 2011": month("%B 1, %Y"),
    "months 01-Dec-2011": month("%d-%b-%Y"),
    "months 01-DEC-11": each(MONTHS, lambda text: stamp(text).strftime("%d-%b-%y").upper()),
    "months 01DEC2011": each(MONTHS, lambda text: stamp(text).strftime("%d%b%Y").upper()),
    "months 2011-Dec": month("%Y-%b"),
    "months with spaces around": each(MONTHS, lambda text: f"  {text} "),
    "months as Excel's numbers": each(MONTHS, excel_number),
    "months as Excel's numbers with decimals": each(MONTHS, lambda text: f"{excel_number(text)}.0"),
    "months as milliseconds": each(MONTHS, lambda text: str(int(stamp(text).timestamp() * 1000))),
    "months as nanoseconds": each(MONTHS, lambda text: str(int(stamp(text).timestamp()) * 10**9)),
    "term 36 Months": each("term", lambda text: text.strip().title()),
    "term 36m": each("term", lambda text: text.strip()[:2] + "m"),
    "term 36": each("term", lambda text: text.strip()[:2]),
    "term 36.0": each("term", lambda text: text.strip()[:2] + ".0"),
    "term 3 years": each("term", lambda text: f"{int(text.strip()[:2]) // 12} years"),
    "term 36_months": each("term", lambda text: f"{text.strip()[:2]}_months"),
    "employment <1 year": each("emp_length", lambda text: text.replace("< ", "<")),
    "employment 10+": each("emp_length", lambda text: text.replace(" years", "").replace(" year", "")),
    "employment in numbers": each(
        "emp_length", lambda text: text if text == "n/a" else "0" if text[0] == "<" else text.rstrip(" yearsn/+")
    ),
    "employment 10+ yrs": each("emp_length", lambda text: text.replace("years", "yrs").replace("year", "yr").upper()),
    "categories in capitals": each(
        ["application_type", "verification_status", "purpose", "home_ownership", "grade", "disbursement_method"], str.upper
    ),
    "categories in small letters": each(
        ["application_type", "verification_status", "home_ownership", "grade", "sub_grade", "addr_state"], str.lower
    ),
    "INDIVIDUAL and JOINT": each("application_type", lambda text: {"Individual": "INDIVIDUAL", "Joint App": "JOINT"}[text]),
    "Joint_App": each("application_type", lambda text: text.replace(" ", "_")),
    "DIRECT_PAY": each("disbursement_method", lambda text: {"DirectPay": "DIRECT_PAY", "Cash": "CASH"}.get(text, text)),
    "purposes as words": each("purpose", lambda text: text.replace("_", " ").title()),
    "purposes with hyphens": each("purpose", lambda text: text.replace("_", "-")),
    "the words of verification before 2014": each(
        "verification_status",
        {"Not Verified": "not verified", "Verified": "VERIFIED - income", "Source Verified": "VERIFIED - income source"}.get,
    ),
    "SOURCE_VERIFIED": each("verification_status", lambda text: text.upper().replace(" ", "_")),
    "sub-grades B 4": each("sub_grade", lambda text: f"{text[0]} {text[1]}"),
    "status with two spaces": each("loan_status", lambda text: text.replace(". Status", ".  Status")),
    "status in capitals": each("loan_status", str.upper),
    "status FULLYPAID": each("loan_status", lambda text: text.upper().replace(" ", "")),
    "status charged_off": each("loan_status", lambda text: text.lower().replace(" ", "_")),
    "status with spaces around": each("loan_status", lambda text: f" {text}\t"),
    "policy without Status": each("loan_status", lambda text: text.replace(". Status:", " - ")),
    "missing as nan": absent("nan"),
    "missing as NaN": absent("NaN"),
    "missing as NA": absent("NA"),
    "missing as NULL": absent("NULL"),
    r"missing as \N": absent(r"\N"),
    "missing as None": absent("None"),
    "missing as n/a": absent("n/a"),
    "missing as #N/A": absent("#N/A"),
    "missing as a space": absent(" "),
    "percentages with a sign": each(RATES, lambda text: f" {text}%"),
    "percentages with a space before the sign": each(["int_rate", "revol_util"], lambda text: f"{text} %"),
    "dollars with a sign and separators": each(["annual_inc", "loan_amnt", "revol_bal"], lambda text: "$" + thousands(text)),
    "dollars with separators": each(["annual_inc", "tot_cur_bal", "installment"], thousands),
    "decimal commas": each(
        ["annual_inc", "int_rate", "dti", "installment", "revol_util"], lambda text: repr(float(text)).replace(".", ",")
    ),
    "decimal commas and thousands with points": each(["annual_inc", "installment", "loan_amnt"], european),
    "numbers with spaces": each(["annual_inc", "dti"], lambda text: f" {text} "),
    "numbers with exponents": each(["annual_inc"], lambda text: f"{float(text):.17e}"),
    "overlapping downloads": overlap,
    "an earlier download before": earlier_download,
    "ids with decimals in one of two downloads": lambda loans: pd.concat(
        [loans[:600].assign(id=[f"{i}.0" if i else "" for i in loans["id"][:600]]), loans[600:], overlap(loans)[len(loans) :]]
    ),
}


@pytest.mark.parametrize("kind", EQUAL)
def test_equal_to_the_last_digit(kind, plain, wanted, tmp_path):
    assert hash_loans(cleaned(write(EQUAL[kind](plain), tmp_path))) == wanted


def as_type(kinds: dict):
    "Columns of an Arrow table in another type."

    def rewrite(table):
        for name, kind in kinds.items():
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, kind(table[name]))
        return table

    return rewrite


def dates(kind):
    def convert(values):
        days = [None if value is None else stamp(value).date() for value in values.to_pylist()]
        return pa.array(days, pa.date32()).cast(kind)

    return convert


def periods(values):
    return pa.array(pd.array(pd.PeriodIndex([v and pd.Period(stamp(v), "M") for v in values.to_pylist()], freq="M")))


NUMBERS = [column.name for column in COLUMNS if column.kind == "number" and column.role == "input"]
TEXTS = [column.name for column in COLUMNS if column.kind == "category" and column.role == "input"]
PARQUET = {
    "texts": lambda table: table,
    "timestamps": as_type(dict.fromkeys(MONTHS, dates(pa.timestamp("ns")))),
    "timestamps in UTC": as_type(dict.fromkeys(MONTHS, dates(pa.timestamp("ms", tz="UTC")))),
    "dates": as_type(dict.fromkeys(MONTHS, dates(pa.date32()))),
    "dates of 64 bits": as_type(dict.fromkeys(MONTHS, dates(pa.date64()))),
    "periods": as_type(dict.fromkeys(MONTHS, periods)),
    "dictionaries": as_type(dict.fromkeys([*TEXTS, *MONTHS, "loan_status"], lambda values: values.dictionary_encode())),
    "large texts": as_type(dict.fromkeys(TEXTS, lambda values: values.cast(pa.large_string()))),
    "decimals": as_type(dict.fromkeys(("int_rate", "dti"), lambda values: values.cast(pa.decimal128(9, 2)))),
    "floats of 32 bits": as_type(dict.fromkeys(NUMBERS, lambda values: values.cast(pa.float32()))),
    "numbers as dictionaries": as_type({"int_rate": lambda values: values.combine_chunks().dictionary_encode()}),
    "numbers as texts": as_type({"dti": lambda values: values.cast(pa.string())}),
    "terms as numbers": as_type({"term": lambda values: pa.array([int(v.strip()[:2]) for v in values.to_pylist()], pa.int8())}),
    "terms as floats": as_type({"term": lambda values: pa.array([float(v.strip()[:2]) for v in values.to_pylist()])}),
    "ids as numbers": as_type({"id": lambda values: values.cast(pa.int64())}),
}


@pytest.fixture(scope="module")
def table(plain) -> pa.Table:
    columns = {}
    for name in plain:
        values = pa.array(plain[name].where(plain[name] != "", None), pa.string(), from_pandas=True)
        if BY_NAME[name].kind == "number" and BY_NAME[name].at_origination:
            values = values.cast(pa.float64())
        columns[name] = values
    return pa.table(columns)


@pytest.mark.parametrize("kind", PARQUET)
def test_parquet_of_any_type_is_equal(kind, table, wanted, tmp_path):
    pq.write_table(PARQUET[kind](table), tmp_path / "loans.parquet")
    assert hash_loans(cleaned(tmp_path / "loans.parquet")) == wanted


def scaled(columns, factor):
    return each(columns, lambda text: repr(float(text) * factor))


def both_orders(loans):
    "Every other loan with the day first, the rest with the month first."
    return half(lambda _: month("%m/13/%Y", "issue_d")(loans))(month("13/%m/%Y", "issue_d")(loans))


def set_to(name, word, share=1.0):
    def rewrite(loans):
        return loans.assign(**{name: [word if i < share * len(loans) else v for i, v in enumerate(loans[name])]})

    return rewrite


REFUSED = {  # kind to its rewriting and what the message has to name
    "issue_d unreadable": (set_to("issue_d", "last year"), ["issue_d", "'last year'", "Dec-2015"]),
    "issue_d half unreadable": (set_to("issue_d", "Q4 2011", 0.5), ["issue_d", "'Q4 2011'", "Dec-2015"]),
    "issue_d one in a hundred unreadable": (set_to("issue_d", "?1", 0.01), ["issue_d", "'?1'", "Dec-2015"]),
    "issue_d half missing": (set_to("issue_d", "", 0.5), ["issue_d", "Dec-2015"]),
    "issue_d without a year": (each("issue_d", lambda text: text[:3]), ["issue_d", "Dec-2015"]),
    "issue_d only years": (month("%Y", "issue_d"), ["issue_d", "Dec-2015"]),
    "issue_d 12/11, month and year of two digits": (month("%m/%y", "issue_d"), ["issue_d", "Dec-2015"]),
    "issue_d day first and month first": (
        both_orders,
        ["issue_d", "/13/", "Dec-2015"],
    ),
    "issue_d 11/12/01, the year first": (month("%y/%m/%d", "issue_d"), ["issue_d", "Dec-2015"]),
    "issue_d moved to another time zone": (
        each("issue_d", lambda text: f"{stamp(text) - pd.Timedelta(hours=5):%Y-%m-%dT%H:%M:%SZ}"),
        ["issue_d", "T19:00:00Z"],
    ),
    "issue_d of quarters": (each("issue_d", lambda text: f"{stamp(text).year}Q{stamp(text).quarter}"), ["issue_d", "Dec-2015"]),
    "earliest_cr_line unreadable": (set_to("earliest_cr_line", "long ago"), ["earliest_cr_line", "'long ago'", "Dec-2015"]),
    "earliest_cr_line as years ago": (each("earliest_cr_line", lambda text: str(2019 - stamp(text).year)), ["earliest_cr_line"]),
    "term in days": (each("term", lambda text: f"{int(text.strip()[:2]) * 30} days"), ["term", "days'", "36 months"]),
    "term as codes": (each("term", lambda text: str(int("60" in text))), ["term", "36 months"]),
    "employment as words": (set_to("emp_length", "a while"), ["emp_length", "'a while'", "10+ years"]),
    "home_ownership as codes": (set_to("home_ownership", "1"), ["home_ownership", "'1'", "MORTGAGE"]),
    "verification_status as a flag": (set_to("verification_status", "TRUE"), ["verification_status", "'TRUE'", "Not Verified"]),
    "a tenth of the purposes unknown": (set_to("purpose", "boat", 0.1), ["purpose", "'boat'", "debt_consolidation"]),
    "sub_grade as a number": (each("sub_grade", lambda text: text[1]), ["sub_grade", "A1"]),
    "status 0 and 1": (each("loan_status", lambda text: str(int("Off" in text))), ["loan_status", "Fully Paid"]),
    "status good and bad": (each("loan_status", lambda text: "bad" if "Off" in text else "good"), ["loan_status", "Fully Paid"]),
    "nothing has ended": (set_to("loan_status", "Current"), ["loan_status", "'Current'", "Charged Off"]),
    "only Issued": (set_to("loan_status", "Issued"), ["loan_status", "'Issued'", "Charged Off"]),
    "only good ones": (set_to("loan_status", "Fully Paid"), ["loan_status", "'Fully Paid'", "no bad"]),
    "income as words": (set_to("annual_inc", "thirty", 0.01), ["annual_inc", "'thirty'", "1234.5"]),
    "income in thousands": (scaled("annual_inc", 0.001), ["annual_inc", "65,000"]),
    "income as 65k": (each("annual_inc", lambda text: f"{float(text) / 1000:g}k"), ["annual_inc", "k'", "1234.5"]),
    "income in bands": (set_to("annual_inc", "50000-75000"), ["annual_inc", "'50000-75000'"]),
    "amounts in cents": (scaled("loan_amnt", 100), ["loan_amnt", "40,000"]),
    "amounts in thousands": (scaled("loan_amnt", 0.001), ["loan_amnt", "500"]),
    "negative amounts": (scaled("loan_amnt", -1), ["loan_amnt", "500"]),
    "negative balances": (scaled("revol_bal", -1), ["revol_bal"]),
    "payments in cents": (scaled("installment", 100), ["installment", "350"]),
    "int_rate as a fraction": (scaled("int_rate", 0.01), ["int_rate", "fractions", "by 100"]),
    "all rates as fractions": (scaled(RATES, 0.01), ["int_rate", "fractions", "by 100"]),
    "revol_util as a fraction": (scaled("revol_util", 0.01), ["revol_util", "fractions"]),
    "dti as a fraction": (scaled("dti", 0.01), ["dti", "fractions"]),
    "half of the rates as fractions": (half(scaled("int_rate", 0.01)), ["int_rate", "fractions", "these values"]),
    "infinite rates": (set_to("dti", "inf", 0.2), ["dti", "'inf'"]),
    "rows that repeat": (
        lambda loans: loans.sample(3_000, replace=True, random_state=1).assign(id=[str(i) for i in range(3_000)]),
        ["equal another loan", "max_repeated"],
    ),
    "rows that repeat, without ids": (
        lambda loans: pd.concat([loans, loans[:300]]).assign(id=""),
        ["equal another loan", "annual_inc", "max_repeated"],
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_with_column_example_and_remedy(kind, plain, tmp_path):
    rewrite, names = REFUSED[kind]
    with pytest.raises(DataError) as error:
        cleaned(write(rewrite(plain), tmp_path))
    for name in names:
        assert name in str(error.value)


FEW = {  # a few values, which count as missing, with a warning that names them
    "a credit line": (set_to("earliest_cr_line", "long ago", 0.01), "earliest_cr_line is 'long ago'"),
    "a kind of home": (set_to("home_ownership", "CASTLE", 0.01), "home_ownership is 'CASTLE'"),
    "a rate": (set_to("dti", "high", 0.01), "dti is 'high'"),
    "a status": (set_to("loan_status", "Sold", 0.01), "'Sold' (10)"),
    "an income out of range": (set_to("annual_inc", "-5", 0.01), "values of annual_inc"),
}


@pytest.mark.parametrize("kind", FEW)
def test_a_few_odd_values_are_named(kind, plain, tmp_path, caplog):
    rewrite, words = FEW[kind]
    loans = cleaned(write(rewrite(plain), tmp_path))
    assert words in caplog.text and len(loans) > 0.9 * len(cleaned(write(plain, tmp_path)))


def test_a_monthly_income_is_named(plain, tmp_path, caplog):
    cleaned(write(scaled("annual_inc", 1 / 12)(plain), tmp_path))
    assert "the median of annual_inc is" in caplog.text


def test_what_was_read_is_counted(plain, tmp_path):
    raw = read_loans(write(set_to("home_ownership", "CASTLE", 0.01)(month("%b-%y")(plain)), tmp_path))
    table = reading_table(raw.attrs["readings"])
    assert table.loc["home_ownership", "filled"] - table.loc["home_ownership", "read"] == ROWS // 100
    assert table.loc["issue_d", "respelled"] == ROWS and table.loc["issue_d", "unread_share"] == 0
    assert list(table.index[:1]) == ["home_ownership"] or table["unread_share"].iloc[0] >= 0.01


def test_the_same_loan_once_and_line_numbers_all(plain, tmp_path, caplog):
    numbered = plain.assign(id=[str(i % (ROWS // 2)) for i in range(ROWS)])
    assert len(cleaned(write(numbered, tmp_path))) == len(cleaned(write(plain, tmp_path)))
    assert "the same value for different loans" in caplog.text


def test_a_single_quarter_says_what_a_file_must_span():
    loans = draw(1_000, issued=np.repeat([2015 * 12.0, 2015 * 12 + 1, 2015 * 12 + 2, 2015 * 12 + 2], 250)).loans
    with pytest.raises(SplitError, match="spans more months") as error:
        temporal_split(clean_loans(loans), date(2015, 2, 1), date(2015, 3, 1))
    assert "move train_end" not in str(error.value)


def test_an_id_is_no_input(plain, tmp_path):
    assert "id" in read_loans(write(plain, tmp_path)) and "id" not in cleaned(tmp_path / "loans.csv")
