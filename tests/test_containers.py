"""The same loans in other containers: the same frame to the last digit, or a refusal that says what was found."""

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from lending_club.clean import clean_loans, load_clean
from lending_club.core.containers import find_tables
from lending_club.core.data import read_loans
from lending_club.core.formats import DataError
from lending_club.core.loans import hash_loans, loans_key, raw_source
from lending_club.core.pipeline import run_pipeline
from lending_club.core.sample import draw
from lending_club.core.settings import load_settings

ROWS = 900
PREAMBLE = "Notes offered by Prospectus (https://www.lendingclub.com/info/prospectus.action)\n"
REJECTED = (
    "Amount Requested,Application Date,Loan Title,Risk_Score,Debt-To-Income Ratio,Zip Code,State,Employment Length,Policy Code\n"
    "1000.0,2016-01-01,car,693.0,10%,481xx,NM,4 years,0.0\n"
)
REJECTED_RENAMED = (
    "amount_requested,application_date,loan_title,risk_score,dti,zip_code,state,emp_length,policy_code\n"
    "1000,2016-01-01,car,693,10,481xx,NM,4 years,0\n"
)
SUMMARY = '\n\n"Total amount funded in policy code 1: 460296150"\n"Total amount funded in policy code 2: 0"\n'


def as_csv(loans: pd.DataFrame, **options) -> str:
    return loans.to_csv(index=False, lineterminator="\n", **options)


@pytest.fixture(scope="module")
def loans() -> pd.DataFrame:
    "Loans of the sample in the raw layout, with the free texts that real files have."
    loans = draw(ROWS).loans
    loans["id"] = [str(1_000_000 + i) for i in range(ROWS)]
    titles = ["café owner", 'he said "hi"', "sales, marketing", "a\\b", "C:\\", None, 'say "x", "y"']
    loans["emp_title"] = [titles[i % len(titles)] for i in range(ROWS)]
    loans["desc"] = [["I need it\nfor, well, a car", None, "plain"][i % 3] for i in range(ROWS)]
    return loans


@pytest.fixture(scope="module")
def wanted(loans, tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("plain") / "loans.csv"
    file.write_text(as_csv(loans))
    return hash_loans(read_loans(file, "all"))


def thirds(loans) -> list[pd.DataFrame]:
    return [loans[i : i + ROWS // 3] for i in range(0, ROWS, ROWS // 3)]


def zst(data: bytes, codec="zstd") -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def zipped(file: Path, **members) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file


def write(file: Path, data: bytes | str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return file


def folder_of_quarters(loans, folder):
    for i, part in enumerate(thirds(loans)):
        write(folder / f"LoanStats_2016Q{i + 1}.csv", PREAMBLE + as_csv(part, quoting=csv.QUOTE_ALL) + SUMMARY)
    write(folder / ".DS_Store", b"\0\0\0\1Bud1")
    write(folder / "_SUCCESS", b"")
    write(folder / ".LoanStats_2016Q1.csv.crc", b"crc\0")
    write(folder / "README.md", "# Loans\nof three quarters\n")
    write(folder / "LCDataDictionary.csv", "LoanStatNew,Description\nloan_amnt,The amount\nterm,The term\n")
    write(folder / "rejected_2016.csv", REJECTED)
    write(folder / "RejectStatsD.csv", PREAMBLE + REJECTED)
    pd.read_csv(io.StringIO(REJECTED_RENAMED)).to_parquet(folder / "rejected.parquet")
    write(folder / "payments.csv", "id,loan_amnt,total_pymnt,last_pymnt_d,last_pymnt_amnt\n1,5000,100,Jan-2016,100\n")
    write(folder / "features.csv", "id,dti,grade\n1,2,A\n")
    pd.DataFrame({"date": ["2011-01-01"], "rate": [9.0]}).to_parquet(folder / "unemployment.parquet")
    write(folder / "logo.png", b"\x89PNG\r\n\x1a\n\0\0")
    return folder


def joined(*parts) -> str:
    return "".join(parts)


def other_order(loans) -> pd.DataFrame:
    return loans[sorted(loans.columns, reverse=True)]


def hive(loans, folder, write_part):
    for i, part in enumerate(thirds(loans)):
        for grade, same in part.assign(quarter=i).groupby("initial_list_status", sort=False):
            write_part(same.drop(columns=["initial_list_status", "quarter"]), folder / f"q={i}" / f"initial_list_status={grade}")
    return folder


def spark(loans) -> str:
    "As Spark writes it: a backslash before a quotation mark, quotation marks where they are needed."
    quoted = loans.map(lambda value: value if not isinstance(value, str) else value.replace('"', "\0"))
    return as_csv(quoted, quoting=csv.QUOTE_NONNUMERIC).replace("\0", '\\"')


CONTAINERS = {
    "gz": lambda loans, folder: write(folder / "l.csv.gz", gzip.compress(as_csv(loans).encode())),
    "gz under another name": lambda loans, folder: write(folder / "download", gzip.compress(as_csv(loans).encode())),
    "bz2": lambda loans, folder: write(folder / "l.csv.bz2", bz2.compress(as_csv(loans).encode())),
    "xz": lambda loans, folder: write(folder / "l.csv.xz", lzma.compress(as_csv(loans).encode())),
    "zst": lambda loans, folder: write(folder / "l.csv.zst", zst(as_csv(loans).encode())),
    "lz4": lambda loans, folder: write(folder / "l.csv.lz4", zst(as_csv(loans).encode(), "lz4")),
    "gz twice": lambda loans, folder: write(folder / "l.csv.gz.gz", gzip.compress(gzip.compress(as_csv(loans).encode()))),
    "zip": lambda loans, folder: zipped(folder / "l.zip", **{"a/l.csv": as_csv(loans), "__MACOSX/a/._l.csv": b"\0"}),
    "zip of csv.gz": lambda loans, folder: zipped(folder / "l.zip", **{"l.csv.gz": gzip.compress(as_csv(loans).encode())}),
    "zip of quarters": lambda loans, folder: zipped(
        folder / "l.zip", **{f"q/{i}.csv": PREAMBLE + as_csv(part) for i, part in enumerate(thirds(loans))}
    ),
    "zip of zips": lambda loans, folder: zipped(
        folder / "l.zip",
        **{
            f"{i}.csv.zip": zipped(folder / "i.zip", **{f"{i}.csv": as_csv(part)}).read_bytes()
            for i, part in enumerate(thirds(loans))
        },
    ),
    "accepted and rejected": lambda loans, folder: zipped(
        folder / "archive.zip",
        **{
            "accepted_2007_to_2018Q4.csv.gz": gzip.compress(as_csv(loans).encode()),
            "rejected_2007_to_2018Q4.csv.gz": gzip.compress(REJECTED.encode()),
        },
    ),
    "folder named like a file": lambda loans, folder: write(folder / "a.csv" / "a.csv", as_csv(loans)).parent,
    "unpacked beside its archive": lambda loans, folder: (
        [
            write(folder / "a" / "a.csv" / "A.csv", as_csv(loans)),
            write(folder / "a" / "a.csv.gz", gzip.compress(as_csv(loans).encode())),
            write(folder / "a" / "a (1).csv", as_csv(loans)),
        ][0].parent.parent
    ),
    "quarters": lambda loans, folder: folder_of_quarters(loans, folder / "q"),
    "pattern": lambda loans, folder: folder_of_quarters(loans, folder / "q") / "LoanStats_*.csv",
    "pattern over folders": lambda loans, folder: folder_of_quarters(loans, folder / "q" / "x").parent / "**" / "Loan*",
    "csv and parquet": lambda loans, folder: [
        write(folder / "m" / "0.csv", as_csv(thirds(loans)[0])).parent,
        thirds(loans)[1].to_parquet(folder / "m" / "1.parquet"),
        write(folder / "m" / "2.csv.xz", lzma.compress(as_csv(thirds(loans)[2]).encode())),
    ][0],
    "parquet": lambda loans, folder: [loans.to_parquet(folder / "l.parquet"), folder / "l.parquet"][1],
    "parquet in zip": lambda loans, folder: zipped(folder / "l.zip", **{"l.parquet": loans.to_parquet()}),
    "feather": lambda loans, folder: [pa.feather.write_feather(loans, folder / "l.feather"), folder / "l.feather"][1],
    "joined": lambda loans, folder: write(
        folder / "l.csv", joined(*(PREAMBLE + as_csv(part, quoting=csv.QUOTE_ALL) + SUMMARY for part in thirds(loans)))
    ),
    "joined without a line break": lambda loans, folder: write(
        folder / "l.csv", joined(*((PREAMBLE + as_csv(part) + SUMMARY).rstrip("\n") for part in thirds(loans)))
    ),
    "joined, headers differ": lambda loans, folder: write(
        folder / "l.csv",
        joined(as_csv(thirds(loans)[0]), as_csv(other_order(thirds(loans)[1])), as_csv(thirds(loans)[2], sep=";")),
    ),
    "joined, other cases": lambda loans, folder: write(
        folder / "l.csv",
        joined(
            as_csv(thirds(loans)[0]),
            as_csv(other_order(thirds(loans)[1]).rename(columns=str.upper)),
            as_csv(other_order(thirds(loans)[2]).rename(columns=lambda name: name.replace("_", " ").title())),
        ),
    ),
    "joined, aliases": lambda loans, folder: write(
        folder / "l.csv",
        joined(
            as_csv(thirds(loans)[0].rename(columns=str.upper)),
            as_csv(other_order(thirds(loans)[1])),
            as_csv(other_order(thirds(loans)[2]).rename(columns={"loan_amnt": "Loan Amount"})),
        ),
    ),
    "joined gz": lambda loans, folder: write(
        folder / "l.csv.gz", b"".join(gzip.compress(as_csv(p).encode()) for p in thirds(loans))
    ),
    "joined bz2": lambda loans, folder: write(
        folder / "l.csv.bz2", b"".join(bz2.compress(as_csv(p).encode()) for p in thirds(loans))
    ),
    "joined xz": lambda loans, folder: write(
        folder / "l.csv.xz", b"".join(lzma.compress(as_csv(p).encode()) for p in thirds(loans))
    ),
    "joined zst": lambda loans, folder: write(folder / "l.csv.zst", b"".join(zst(as_csv(p).encode()) for p in thirds(loans))),
    "spark": lambda loans, folder: (
        [write(folder / "s" / f"part-0000{i}-7f.c000.csv", spark(part)) for i, part in enumerate(thirds(loans))][0].parent
    ),
    "spark with an empty part": lambda loans, folder: (
        [
            write(folder / "s" / "part-0.csv", as_csv(loans)),
            write(folder / "s" / "part-1.csv", as_csv(loans[:0])),
            write(folder / "s" / "part-2.csv", ""),
        ][0].parent
    ),
    "hive parquet": lambda loans, folder: hive(
        loans, folder / "h", lambda part, at: [at.mkdir(parents=True), part.to_parquet(at / "part-0.parquet")]
    ),
    "semicolons": lambda loans, folder: write(folder / "l.csv", as_csv(loans, sep=";")),
    "sep=": lambda loans, folder: write(folder / "l.csv", "sep=;\n" + as_csv(loans, sep=";")),
    "tabs": lambda loans, folder: write(folder / "l.tsv", as_csv(loans, sep="\t")),
    "pipes": lambda loans, folder: write(folder / "l.txt", as_csv(loans, sep="|")),
    "decimal commas": lambda loans, folder: write(folder / "l.csv", as_csv(loans, sep=";", decimal=",")),
    "UTF-16": lambda loans, folder: write(folder / "l.csv", as_csv(loans).encode("utf-16")),
    "UTF-16 without a mark": lambda loans, folder: write(folder / "l.csv", as_csv(loans, sep="\t").encode("utf-16-be")),
    "UTF-8 with a mark": lambda loans, folder: write(folder / "l.csv", as_csv(loans).encode("utf-8-sig")),
    "Windows-1252": lambda loans, folder: write(folder / "l.csv", as_csv(loans).encode("cp1252")),
    "joined encodings": lambda loans, folder: write(
        folder / "l.csv",
        b"".join(as_csv(p).encode(e) for p, e in zip(thirds(loans), ("utf-8", "cp1252", "utf-8-sig"), strict=True)),
    ),
    "CRLF": lambda loans, folder: write(folder / "l.csv", as_csv(loans).replace("\n", "\r\n").replace("it\r\nfor", "it\nfor")),
    "no last line break": lambda loans, folder: write(folder / "l.csv", as_csv(loans).rstrip("\n")),
    "all quoted": lambda loans, folder: write(folder / "l.csv", as_csv(loans, quoting=csv.QUOTE_ALL)),
    "index": lambda loans, folder: write(folder / "l.csv", loans.to_csv()),
    "two indexes": lambda loans, folder: write(folder / "l.csv", loans.reset_index(names="Unnamed: 0").to_csv()),
    "upper case": lambda loans, folder: write(folder / "l.csv", as_csv(loans.rename(columns=str.upper))),
    "spaces": lambda loans, folder: write(folder / "l.csv", as_csv(loans.rename(columns=lambda name: f" {name} "))),
    "aliases": lambda loans, folder: write(
        folder / "l.csv", as_csv(loans.rename(columns={"open_act_il": "open_il_6m", "verification_status": "is_inc_v"}))
    ),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_same_loans_in_another_container(container, loans, wanted, tmp_path):
    path = CONTAINERS[container](loans, tmp_path)
    read = read_loans(path, "all")
    assert len(read) == ROWS
    if container.startswith("hive"):  # a folder's order is that of its names
        assert hash_loans(clean_loans(read)) == hash_loans(clean_loans(read.sort_values("id")))
        read = read.sort_values("id", ignore_index=True, key=lambda ids: ids.astype(int))
    assert hash_loans(read) == wanted


def test_files_are_read_in_the_order_of_their_numbers(loans, wanted, tmp_path):
    for i in range(12):
        write(tmp_path / "q" / f"loans_{i + 1}.csv", as_csv(loans[i * ROWS // 12 : (i + 1) * ROWS // 12]))
    assert hash_loans(read_loans(tmp_path / "q", "all")) == wanted
    assert [table.file.name for table in find_tables(tmp_path / "q" / "*.csv")[0]] == [f"loans_{i}.csv" for i in range(1, 13)]
    zipped(tmp_path / "l.zip", **{file.name: file.read_bytes() for file in sorted((tmp_path / "q").iterdir())})
    assert hash_loans(read_loans(tmp_path / "l.zip", "all")) == wanted


BELOW = {"psql": "(40 rows)", "sqlcmd": "\n(40 rows affected)\n", "DOS": "\x1a", "blank lines above": ""}


@pytest.mark.parametrize("tool", BELOW)
def test_what_tools_write_around_the_loans(tool, tmp_path):
    above = "\n" * 25 if tool.startswith("blank") else ""
    assert len(read_loans(write(tmp_path / "l.csv", above + small() + BELOW[tool]))) == 40


def test_line_ends_of_old_macs(loans, tmp_path):
    plain = loans.drop(columns="desc")
    file, old = write(tmp_path / "l.csv", as_csv(plain)), write(tmp_path / "old.csv", as_csv(plain).replace("\n", "\r"))
    assert hash_loans(read_loans(old)) == hash_loans(read_loans(file))


def small(rows: int = 40) -> str:
    loans = draw(rows).loans[["id", "loan_amnt", "term", "annual_inc", "issue_d", "loan_status", "purpose", "dti"]]
    return as_csv(loans)


def changed(line: int, change) -> str:
    lines = small().split("\n")
    lines[line - 1] = change(lines[line - 1])
    return "\n".join(lines)


def workbook(sheet: str) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name in ("[Content_Types].xml", sheet):
            archive.writestr(name, "<x/>")
    return memory.getvalue()


def archive_of_tar() -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        info = tarfile.TarInfo("loans.csv")
        info.size = len(small().encode())
        archive.addfile(info, io.BytesIO(small().encode()))
    return memory.getvalue()


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table loans (id)")
    return connection.serialize()


SAS = bytes(12) + bytes.fromhex("c2ea8160b31411cfbd92080009c7318c181f1011")
CUT = "may be cut off: download it again"
REFUSED = {
    "xlsx": (lambda: workbook("xl/workbook.xml"), ["is an Excel workbook", "CSV UTF-8"]),
    "ods": (lambda: workbook("content.xml"), ["is an OpenDocument sheet", "CSV UTF-8"]),
    "xls": (lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ["is an old Excel workbook"]),
    "json": (lambda: json.dumps([{"loan_amnt": 1}]), ["is JSON", "read_json"]),
    "json lines": (lambda: '{"loan_amnt": 1}\n{"loan_amnt": 2}\n', ["is JSON", "lines=True"]),
    "sas": (lambda: SAS, ["is a SAS data set", "read_sas"]),
    "rds": (lambda: gzip.compress(b"X\n\0\0\0\3"), ["is an R object", "write.csv(readRDS("]),
    "pickle": (lambda: pickle.dumps({"loan_amnt": [1]}), ["is a Python pickle", "read_pickle"]),
    "sqlite": (database, ["is an SQLite database", "sqlite3 -header -csv"]),
    "tar.gz": (archive_of_tar, ["is a tar archive", "tar -xf"]),
    "git lfs": (lambda: "version https://git-lfs.github.com/spec/v1\n", ["is a pointer of Git LFS", "git lfs pull"]),
    "sql": (lambda: "-- MySQL dump 10.13\nCREATE TABLE loans", ["is a dump of an SQL database"]),
    "rejected": (lambda: REJECTED, ["holds rejected applications"]),
    "rejected, renamed": (lambda: REJECTED_RENAMED, ["holds rejected applications"]),
    "another table": (
        lambda: "id,dti,grade\n1,2,A\n",
        ["is no table of loans", "lacks the required columns loan_status, issue_d"],
    ),
    "no income": (
        lambda: as_csv(draw(40).loans.drop(columns="annual_inc")),
        ["lacks the required column 'annual_inc'."],
    ),
    "no header": (lambda: small().split("\n", 1)[1], ["has loans but no header above them", "header=True"]),
    "other columns": (lambda: "a,b\n1,2\n", ["has no header with Lending Club's column names", "'a,b'"]),
    "a name twice": (lambda: small().replace("purpose", "DTI", 1), ["has the column 'dti' as 'DTI' and as 'dti'"]),
    "an alias and its name": (
        lambda: small().replace("purpose", "open_il_6m", 1).replace("dti", "open_act_il", 1),
        ["has the column 'open_act_il' as 'open_il_6m' and as 'open_act_il'"],
    ),
    "cut in a line": (lambda: small().rstrip("\n")[:-30], ["line 41 has", "where the header has 8", CUT]),
    "short last line": (lambda: small() + "1,2,3\n", ["line 42 has 3 fields", "correct or delete"]),
    "short line before a header": (
        lambda: small() + "1,2,3\n" + small(),
        ["line 42 has 3 fields", "correct or delete"],
    ),
    "other separator": (
        lambda: small().replace(",", "~"),
        ["column names in a form that is not read: 'id~", "commas, semicolons"],
    ),
    "names of a database": (
        lambda: small().replace(",", ",t.").split("\n")[0] + "\n" + small().split("\n", 1)[1],
        ["column names in a form that is not read", "t."],
    ),
    "fixed width": (lambda: draw(40).loans.iloc[:, :12].to_string(index=False), ["column names in a form that is not read"]),
    "HTML table": (lambda: draw(40).loans.to_html(index=False), ["is an HTML table", "save it as"]),
    "lines of two kinds": (
        lambda: small() + small().replace("\n", "\r"),
        ["line 42: lines end in two ways, in CR and in LF"],
    ),
    "old lines around a new one": (
        lambda: small().replace("\n", "\r") + 'x,"a\nb"\r',
        ["line ends of two kinds, CR and LF"],
    ),
    "a second header without amount": (
        lambda: small() + small().replace("loan_amnt", "amount", 1),
        ["lacks the required column 'loan_amnt'"],
    ),
    "cut in the second of two": (lambda: small() + SUMMARY + small().rstrip("\n")[:-30], ["line 86 has", CUT]),
    "cut parquet": (lambda: draw(40).loans.to_parquet()[:-300], ["Parquet file that is cut off or damaged", "download or write"]),
    "zeros at the end": (lambda: small().encode() + bytes(1000), ["line 42 has 1 fields", CUT]),
    "gz ends early": (lambda: gzip.compress(small().encode())[:-20], ["is cut off or damaged", "download it again"]),
    "xz ends early": (lambda: lzma.compress(small().encode())[:-20], ["is cut off or damaged", "download it again"]),
    "zst ends early": (lambda: zst(small().encode())[:-20], ["is cut off or damaged", "download it again"]),
    "zip ends early": (lambda: workbook("l.csv")[:-30], ["is cut off or damaged", "download it again"]),
    "separator in a text": (lambda: changed(20, lambda line: f"{line},x"), ["line 20 has 9 fields", "correct or delete"]),
    "separator missing": (lambda: changed(20, lambda line: line.replace(",", " ", 1)), ["line 20 has 7 fields"]),
    "a quotation mark opens": (
        lambda: changed(20, lambda line: line.replace(",", ',"', 1)),
        ["line 20: a quotation mark opens a text that runs on to line"],
    ),
    "two quotation marks open": (
        lambda: "\n".join(
            f'{line[: line.rindex(",") + 1]}"{line[line.rindex(",") + 1 :]}' if i in (9, 29) else line
            for i, line in enumerate(small().split("\n"))
        ),
        ["line 10: a quotation mark opens a text that runs on to line 30 and swallows the loans between"],
    ),
    "joined in a line": (lambda: small().rstrip("\n") + small(), ["line 41 has", "a header begins in it", "join them with one"]),
    "row names of R": (
        lambda: "\n".join(f"{i},{line}" if i and line else line for i, line in enumerate(small().split("\n"))),
        ["line 2 has 9 fields", "one field more than the header", "row.names = FALSE"],
    ),
    "only a header": (lambda: small(1).split("\n")[0] + "\n", ["has a header but no loans"]),
    "encrypted zip": (
        lambda: workbook("l.csv").replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"),
        ["is encrypted", "unpack it"],
    ),
    "empty zip": (lambda: b"PK\5\6" + bytes(18), ["holds no table of loans", "it is empty"]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_named(kind, tmp_path):
    make, words = REFUSED[kind]
    file = write(tmp_path / "loans.data", make())
    with pytest.raises(DataError) as caught:
        read_loans(file)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert all(word in message for word in words), message
    assert "annual_inc_joint" not in message
    assert ("download" in message) == any("download" in word for word in words), message


def test_a_part_without_header_is_not_passed_over(tmp_path):
    write(tmp_path / "s" / "part-0.csv", small())
    write(tmp_path / "s" / "part-1.csv", small().split("\n", 1)[1])
    with pytest.raises(DataError, match=r"part-1\.csv has loans but no header above them"):
        read_loans(tmp_path / "s")


def test_what_is_passed_over_is_in_the_log(loans, tmp_path, caplog):
    caplog.set_level("INFO")
    read_loans(folder_of_quarters(loans, tmp_path / "q"))
    for name in (
        "README.md",
        "LCDataDictionary.csv",
        "rejected_2016.csv holds rejected applications",
        "logo.png",
        "RejectStatsD.csv holds rejected",
        "rejected.parquet holds rejected",
        "payments.csv is no table of loans",
        "features.csv is no table",
        "unemployment.parquet is no table",
    ):
        assert any("passed over: " in line and name in line for line in caplog.messages), name
    assert any("3 tables were read" in line and "LoanStats_2016Q1.csv (300)" in line for line in caplog.messages)
    assert not any("left out by its name" in line for line in caplog.messages)


def test_loans_that_a_name_leaves_out_are_named_and_can_be_asked_for(loans, tmp_path, caplog):
    for name in ("a.csv", "_b.csv", "b.csv.old"):
        write(tmp_path / name, as_csv(loans))
    assert len(read_loans(tmp_path)) == len(loans)
    for name in ("_b.csv", "b.csv.old"):
        assert any(f"{name} is left out by its name" in line for line in caplog.messages), name
    for pattern in ("_*.csv", "*.old"):
        assert len(read_loans(tmp_path / pattern)) == len(loans)
    assert len(read_loans(zipped(tmp_path / "l.zip", **{"_l.csv": as_csv(loans)}))) == len(loans)


def test_other_names_are_in_the_log(loans, tmp_path, caplog):
    caplog.set_level("INFO")
    read_loans(write(tmp_path / "l.csv", as_csv(loans.rename(columns={"open_act_il": "open_il_6m", "dti": "DTI"}))))
    assert [line for line in caplog.messages if "in another way" in line] == [
        f"{tmp_path / 'l.csv'} names columns in another way: DTI is dti, open_il_6m is open_act_il"
    ]


def test_columns_that_some_files_lack_count_as_missing_there(loans, tmp_path, caplog):
    first, second, third = thirds(loans)
    for i, part in enumerate((first.drop(columns=["dti", "earliest_cr_line"]), second, third)):
        write(tmp_path / "q" / f"{i}.csv", as_csv(part))
    read = read_loans(tmp_path / "q")
    assert read[["dti", "earliest_cr_line"]][: len(first)].isna().all(axis=None)
    assert read["dti"][len(first) :].equals(loans["dti"].astype(float)[len(first) :])
    assert any("columns that some tables lack" in line and line.endswith("dti, earliest_cr_line") for line in caplog.messages)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder, "holds no files"),
        (lambda folder: folder / "*.csv", r"no file matches .*\*\.csv"),
        (lambda folder: write(folder / "a.txt", "no loans here").parent, "holds no table of loans; .*a.txt has no header"),
        (lambda folder: zipped(folder / "l.zip", **{"a.pdf": b"%PDF-1.4"}), "holds no table of loans; .*a.pdf is a PDF document"),
        (lambda folder: [(folder / "_delta_log").mkdir(), folder][1], "is a Delta Lake table"),
    ],
)
def test_a_place_without_loans_is_refused(make, words, tmp_path):
    with pytest.raises(DataError, match=words):
        read_loans(make(tmp_path))


def test_the_identity_of_a_folder_is_that_of_its_files(project, loans):
    folder = folder_of_quarters(loans, project / "q")
    one, pattern = load_settings(data_path="q"), load_settings(data_path="q/LoanStats*.csv")
    assert (raw_source(one).name, raw_source(pattern).name) == ("q", "q/LoanStats*.csv")
    keys = {loans_key(one), loans_key(pattern)}
    clean = load_clean(one)
    assert clean.data_hash == load_clean(pattern).data_hash
    write(folder / "LoanStats_2016Q3.csv", as_csv(thirds(loans)[2][:100]))
    assert not keys & {loans_key(one), loans_key(pattern)}
    assert len(load_clean(one).loans) < len(clean.loans)


def test_a_wrong_file_is_refused_before_the_first_stage(project):
    write(project / "loans.xlsx", workbook("xl/workbook.xml"))
    with pytest.raises(DataError, match="is an Excel workbook"):
        run_pipeline(load_settings(data_path="loans.xlsx"))
    assert not (project / "var" / "runs").exists()


def test_real_loans_in_a_folder(real_data, tmp_path):
    names = ("accepted_2007_to_2011.csv.gz", "accepted_sample_2007_to_2018.csv.gz")
    both = pd.concat([read_loans(real_data / name, "all") for name in names], ignore_index=True)
    for name in names:
        (tmp_path / name).symlink_to(real_data / name)
    assert hash_loans(read_loans(tmp_path, "all")) == hash_loans(both)
    text = b"".join(gzip.decompress((real_data / name).read_bytes()) for name in names)
    assert hash_loans(read_loans(write(tmp_path / "joined.csv", text), "all")) == hash_loans(both)
    assert [table.name for table in find_tables(tmp_path / "*.gz")[0]] == [str(tmp_path / name) for name in names]
