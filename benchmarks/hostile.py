"""Requests that are made to be expensive: what they cost the service in memory, and what they cost the other requests.

    python benchmarks/hostile.py                          # two minutes; no training
    python benchmarks/hostile.py --before ../earlier      # beside the service of another checkout
    python benchmarks/hostile.py --workers 2
    python benchmarks/hostile.py --only CSV               # kinds that are named so; writes nothing

The newest version that a checkout keeps is served by its `lending-club serve` on the loopback. Each kind of request below is
sent to it once, one after the other, while another connection asks for one decision every 20 ms. Then all are sent once more by
four clients at once. For each kind: the status, the seconds to the answer, and the highest resident memory of the worker
meanwhile (`VmHWM`, Linux). Kinds for a service with `incomplete = refuse` are sent to one of their own. Writes
benchmarks/results/hostile.json and prints a table.
"""

import argparse
import http.client
import itertools
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve()
ROOT, RESULTS = HERE.parent.parent, HERE.parent / "results"
CLI = "import sys; from lending_club.cli import main; sys.exit(main(sys.argv[1:]))"
SIZE = 16 * 2**20  # bytes, the service's limit
ROWS = 10_000  # likewise
USUAL = {"fico_range_low": 700, "fico_range_high": 704, "delinq_2yrs": 0, "inq_last_6mths": 0, "disbursement_method": "Cash"}
GOOD = b'"loan_amnt":5000,"term":"36 months","annual_inc":50000'
PARTIAL = "/predict/batch?partial=true"


class Body(NamedTuple):
    "An expensive request."

    path: str
    make: callable  # its body, `SIZE` bytes unless that is the point
    statuses: tuple[int, ...]
    content_type: str = "application/json"


def filled(start: bytes, unit: bytes, end: bytes, size: int = SIZE) -> bytes:
    "`unit` over and over, with a comma in between."
    count = (size - len(start) - len(end)) // (len(unit) + 1)
    return start + b",".join([unit] * count) + end


def numbered(start: bytes, unit: bytes, end: bytes, size: int = SIZE) -> bytes:
    "`unit` with a number that goes up."
    count = (size - len(start) - len(end)) // (len(unit % 10**6) + 1)
    return start + b",".join(unit % i for i in range(count)) + end


def rows(row: bytes, more: bytes = b"", count: int = ROWS) -> bytes:
    "An array of objects: `row`, and as many of `more`, with numbers that go up, as fit."
    if not more:
        return b"[" + b",".join([b"{" + row + b"}"] * count) + b"]"
    each = (SIZE - 100) // count - len(row) - 3
    numbers, fits = itertools.count(), each // (len(more % 10**6) + 1)

    def one() -> bytes:
        return b"{" + row + b"," + b",".join(more % next(numbers) for _ in range(fits)) + b"}"

    return b"[" + b",".join(one() for _ in range(count)) + b"]"


def wrong_row() -> bytes:
    "As many fields as fit into 10,000 rows, each an empty array, which is wrong."
    from lending_club.serving.checker import FIELDS

    row, room = b"", SIZE // ROWS - 10
    for name in sorted(FIELDS, key=len):
        row += b'"%s":[],' % name.encode() if len(row) + len(name) < room - 6 else b""
    return row[:-1]


def whole_row() -> bytes:
    "A row of the raw file with many columns of after the decision, which are ignored."
    from lending_club.core.schema import COLUMNS, EXAMPLE_APPLICATION

    ignored = [column.name for column in COLUMNS if not column.at_origination]
    return json.dumps(EXAMPLE_APPLICATION | dict.fromkeys(ignored, 0.5), separators=(",", ":")).encode()[1:-1]


def gapped_rows() -> bytes:
    "The example over and over, without eight other fields of it each time."
    from lending_club.core.schema import EXAMPLE_APPLICATION, REQUIRED_IN_APPLICATION

    draw = random.Random(0)
    optional = [name for name in EXAMPLE_APPLICATION if name not in REQUIRED_IN_APPLICATION]
    gaps = (draw.sample(optional, 8) for _ in range(ROWS))
    return json.dumps([{k: v for k, v in EXAMPLE_APPLICATION.items() if k not in own} for own in gaps]).encode()


def csv_rows(header: bytes, row: bytes, count: int = ROWS) -> bytes:
    return header + b"\n" + (row + b"\n") * count


HEADER = b"loan_amnt,term,annual_inc,emp_title"


def of_one(make, *statuses: int) -> Body:
    return Body("/predict", make, statuses)


def of_many(make, *statuses: int) -> Body:
    return Body("/predict/batch", make, statuses)


def in_part(make, *statuses: int) -> Body:
    return Body(PARTIAL, make, statuses)


def as_csv(make, *statuses: int) -> Body:
    return Body(PARTIAL, make, statuses, "text/csv")


def with_text(text: bytes, end: bytes = b'"}') -> bytes:
    return b"{" + GOOD + b',"emp_title":"' + text + end


def applications() -> dict[str, Body]:
    "Bodies for `/predict`."
    ignored, room = b"{" + GOOD + b',"recoveries":[', SIZE - 100
    similar = b",".join(b'"inq_anual_inc_%d":1' % i for i in range(900))
    return {
        "1.3 million unknown names": of_one(lambda: numbered(b"{", b'"a%d":1', b"}"), 422),
        "unknown names of 1,000 letters": of_one(lambda: numbered(b"{", b'"' + b"x" * 1_000 + b'%d":1', b"}"), 422),
        "900 unknown names like a known one": of_one(lambda: b"{" + similar + b"}", 422),
        "one name two million times": of_one(lambda: filled(b"{", b'"dti":1', b"}"), 422),
        "a name of 16 MiB": of_one(lambda: b"{" + GOOD + b',"' + b"x" * room + b'":1}', 422),
        "8 million numbers in an ignored field": of_one(lambda: filled(ignored, b"1", b"]}"), 422),
        "5.6 million objects in an ignored field": of_one(lambda: filled(ignored, b"{}", b"]}"), 422),
        "16 million nested arrays": of_one(lambda: b'{"recoveries":' + b"[" * room, 400),
        "3.4 million nested objects": of_one(lambda: b'{"a":' * (SIZE // 5), 400),
        "a number of 16 million digits": of_one(lambda: b'{"loan_amnt":1' + b"0" * room + b"}", 400),
        "a fraction of 16 million digits": of_one(lambda: b'{"loan_amnt":0.' + b"1" * room + b"}", 422),
        "an exponent of 16 million digits": of_one(lambda: b'{"loan_amnt":1e' + b"1" * room + b"}", 422),
        "a text of 16 MiB": of_one(lambda: with_text(b"x" * room), 200, 422),
        "a text of 2.8 million escapes": of_one(lambda: with_text(rb"\u00e9" * (room // 6)), 200, 422),
        "a text with one wide character": of_one(lambda: with_text(b"\xf0\x9f\x8f\xa0" + b"x" * room), 200, 422),
        "a text of backslashes without an end": of_one(lambda: with_text(b"\\\\" * (room // 2), b""), 400),
        "white space": of_one(lambda: b" " * SIZE, 400),
        "an application behind white space": of_one(lambda: b"\n" * room + b"{" + GOOD + b"}", 200),
        "an array for one application": of_one(lambda: filled(b"[", b"{}", b"]"), 422),
        "20 MiB": of_one(lambda: b" " * (20 * 2**20), 413),
        "20 MiB of a wrong type": Body("/predict", lambda: b" " * (20 * 2**20), (415,), "text/plain"),
        "20 MiB for no path": Body("/nothing", lambda: b" " * (20 * 2**20), (404,)),
    }


def batches() -> dict[str, Body]:
    "JSON bodies for `/predict/batch`."
    names, empty = b'"a%d":1', lambda: filled(b"[", b"{}", b"]")
    nested = GOOD + b',"recoveries":' + filled(b"[", b"1", b"]", 1_500)
    long = GOOD + b',"emp_title":"' + b"x" * 1_000 + b'"'

    def whole(end: bytes = b"]") -> bytes:
        return rows(whole_row(), count=3_500)[:-1] + end

    return {
        "5.6 million empty objects": of_many(empty, 413),
        "5.6 million empty objects, partial": in_part(empty, 413),
        "8 million zeros, partial": in_part(lambda: filled(b"[", b"0", b"]"), 413),
        "3.4 million nulls": of_many(lambda: filled(b"[", b"null", b"]"), 413),
        "280,000 small applications": of_many(lambda: filled(b"[", b"{" + GOOD + b"}", b"]"), 413),
        "10,000 rows, every field wrong": of_many(lambda: rows(wrong_row()), 422),
        "10,000 rows, every field wrong, partial": in_part(lambda: rows(wrong_row()), 200),
        "10,000 rows of unknown names": of_many(lambda: rows(GOOD, names), 422),
        "10,000 rows of unknown names, partial": in_part(lambda: rows(GOOD, names), 200),
        "10,000 empty rows, partial": in_part(lambda: rows(b""), 200),
        "10,000 rows with numbers in an ignored field": in_part(lambda: rows(nested), 200),
        "10,000 rows with texts of 1,000 letters": of_many(lambda: rows(long), 200),
        "10,000 rows, each with other fields missing": of_many(gapped_rows, 200),
        "one row of 1.3 million unknown names, partial": in_part(lambda: numbered(b"[{", names, b"}]"), 200),
        "1.3 million names without an end, partial": in_part(lambda: numbered(b"[{", names, b","), 400),
        "an object for a batch": of_many(lambda: numbered(b"{", names, b"}"), 422),
        "3,500 whole rows of the file": of_many(whole, 200),
        "whole rows, the last with a name twice": in_part(lambda: whole(b',{"dti":1,"dti":2}]'), 400),
        "whole rows, broken at the end": of_many(lambda: whole(b"x"), 400),
    }


def tables() -> dict[str, Body]:
    "CSV bodies for `/predict/batch`."
    from lending_club.serving.checker import FIELDS

    names, wrong, good = ",".join(FIELDS).encode(), b",".join([b"[]" * 5] * len(FIELDS)), b"5000,36 months,50000,"
    return {
        "CSV: a header of 2 million names": as_csv(lambda: numbered(b"", b"a%d", b"\n"), 422),
        "CSV: a header of commas": as_csv(lambda: b"," * SIZE, 422),
        "CSV: 2 million short lines": as_csv(lambda: csv_rows(HEADER, b"1,2,3", 2_000_000), 413),
        "CSV: 16 million empty lines": as_csv(lambda: HEADER + b"\n" * (SIZE - 100), 422),
        "CSV: a quoted text of 16 MiB": as_csv(lambda: HEADER + b'\n1,2,3,"' + b"x" * (SIZE - 100), 400),
        "CSV: a row of 4 million lines": as_csv(lambda: filled(HEADER + b"\n", b'"\n"', b"\n"), 422),
        "CSV: a row of 16 million commas": as_csv(lambda: HEADER + b"\n" + b"," * (SIZE - 100), 422),
        "CSV: 10,000 rows of 1,600 cells": as_csv(lambda: csv_rows(HEADER, b"," * 1_600), 200),
        "CSV: 10,000 rows, every field wrong": as_csv(lambda: csv_rows(names, wrong), 200),
        "CSV: not UTF-8 at the end": as_csv(lambda: csv_rows(HEADER, good + b"x" * 900) + b"\xff", 400),
    }


def bodies() -> dict[str, Body]:
    "Expensive requests by what is in them."
    return applications() | batches() | tables()


def strict_bodies() -> dict[str, Body]:
    "Expensive requests to a service with the setting `incomplete = refuse`."
    return {
        "10,000 minimal rows, refused": of_many(lambda: rows(GOOD), 422),
        "10,000 minimal rows, refused in part": in_part(lambda: rows(GOOD), 200),
    }


def heads() -> dict[str, tuple[bytes, tuple[int, ...]]]:
    "Expensive heads: bytes as they are sent, and the statuses; 0 where the connection is closed."
    get, end = b"GET /health HTTP/1.1\r\nHost: x\r\n", b"\r\n"
    chunked = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
    return {
        "a header of 20 MB": (get + b"a: " + b"x" * 20_000_000 + end + end, (431,)),
        "200,000 headers": (get + b"".join(b"a%d: b\r\n" % i for i in range(200_000)) + end, (431,)),
        "300 headers": (get + b"".join(b"a%d: b\r\n" % i for i in range(300)) + end, (431,)),
        "a URL of 9 KB": (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", (414,)),
        "a URL of 20 MB": (b"GET /" + b"x" * 20_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", (431,)),
        "trailers of 20 MB": (chunked + b"a: " + b"x" * 20_000_000 + end + end, (0,)),
    }


def send(port: int, body: Body, content: bytes | None = None) -> tuple[int, float]:
    "The status and the seconds to the answer; the connection is closed after it, as urllib does."
    content = content or body.make()
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", body.path, content, {"Content-Type": body.content_type, "Connection": "close"})
        response = connection.getresponse()
        response.read()
        return response.status, time.perf_counter() - start
    finally:
        connection.close()


def send_head(port: int, head: bytes) -> int:
    "The status; 0 where the connection is closed without one."
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        try:
            connection.sendall(head)
        except OSError:  # closed before everything was sent
            return 0
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
        except (OSError, http.client.HTTPException):
            return 0
        return response.status


def memory_of(pid: int, field: str = "VmRSS") -> float:
    "Resident memory of a process in MB, or its highest (`VmHWM`)."
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024 / 1e6


def forget_highest(pid: int):
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def ask(port: int):
    "A decision every 20 ms until the input ends; prints start and seconds of each, and what was not answered 200."
    ended, times, failed = threading.Event(), [], []
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    loan = json.loads((ROOT / "service" / "loan.json").read_bytes())
    body = json.dumps(loan | USUAL).encode()  # has all fields that a service with `incomplete = refuse` needs
    while not ended.wait(0.02):
        start = time.monotonic()
        try:
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                failed.append(response.status)
        except (OSError, http.client.HTTPException) as error:
            failed.append(repr(error))
            connection.close()
        times.append((start, time.monotonic() - start))
    print(json.dumps({"times": times, "failed": failed}))


class Others:
    "The other requests, from a process of their own, in a context; `times` and `failed` after it."

    def __init__(self, port: int):
        self.words = [sys.executable, HERE, "--ask", str(port)]

    def __enter__(self):
        self._process = subprocess.Popen(self.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *error):
        found = json.loads(self._process.communicate(timeout=90)[0])
        self.times, self.failed = found["times"], found["failed"]

    def summary(self) -> dict:
        seconds = sorted(seconds for _, seconds in self.times)
        return {
            "requests": len(seconds),
            "failed": len(self.failed),
            "p50 ms": round(1e3 * statistics.median(seconds), 2),
            "p99 ms": round(1e3 * seconds[int(0.99 * (len(seconds) - 1))], 1),
            "longest ms": round(1e3 * seconds[-1], 1),
        }

    def between(self, start: float, end: float) -> list[float]:
        "Seconds of the requests that were on their way then."
        return [seconds for at, seconds in self.times if at < end and at + seconds > start]


def newest_golden(checkout: Path) -> Path:
    "The folder of the newest version that a checkout keeps, which its service can load."
    folders = (checkout / "tests" / "golden").glob("*.*.*")
    return max(folders, key=lambda folder: [int(part) for part in folder.name.split(".")])


def prepare(root: Path, checkout: Path = ROOT):
    "A project whose champion is the newest version that a checkout keeps."
    from lending_club.core.files import file_digest
    from lending_club.core.registry import connect
    from lending_club.core.settings import ensure_var, load_settings

    root.mkdir(exist_ok=True)
    (root / "settings.ini").write_text("[lending_club]\n")
    settings = load_settings(root)
    ensure_var(settings)
    registry, name = connect(settings), settings.registered_model_name
    files = newest_golden(checkout)
    registry.create_experiment(settings.experiment, artifact_location=(settings.var / "artifacts").as_uri())
    registry.create_registered_model(name)
    run = registry.create_run(registry.get_experiment_by_name(settings.experiment).experiment_id)
    registry.log_artifacts(run.info.run_id, str(files), "model/extra_files")
    tags = {f"sha256.{path.name}": file_digest(path) for path in files.iterdir()}
    version = registry.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id, tags).version
    registry.set_registered_model_alias(name, settings.champion_alias, version)


def workers_of(pid: int) -> list[int]:
    "The serving processes: the server itself, or its children where there are several."
    import psutil

    children = [child.pid for child in psutil.Process(pid).children() if child.memory_info().rss > 60e6]
    return children or [pid]


def measure_each(port: int, pids: list[int], everything: dict) -> Iterator[dict]:
    "Each request once, one after the other."
    for name, request in everything.items():
        body, head = (request, None) if isinstance(request, Body) else (None, request)
        content = body.make() if body else None
        for pid in pids:
            forget_highest(pid)
        start = time.monotonic()
        try:
            status = send(port, body, content)[0] if body else send_head(port, head[0])
        except (OSError, http.client.HTTPException) as error:
            status = type(error).__name__
        end = time.monotonic()
        time.sleep(0.3)
        yield {
            "request": name,
            "status": status,
            "as expected": status in (body.statuses if body else head[1]),
            "s": round(end - start, 3),
            "highest MB": round(max(memory_of(pid, "VmHWM") for pid in pids)),
            "after MB": round(max(memory_of(pid) for pid in pids)),
            "window": (start, end + 0.3),
        }


def measure(
    checkout: Path,  # whose service is measured
    root: Path,  # a folder for its project
    workers: int,
    everything: dict,  # bodies and heads, by what is in them
    **settings: str,  # of the service, in capitals
) -> dict:
    "What the requests cost the service, and the others."
    from servers import free_port, process, wait_for

    prepare(root, checkout)
    port, log = free_port(), root / f"serve-{time.time():.0f}.log"
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "LOG_FORMAT": "text"} | settings
    command = [sys.executable, "-c", CLI, "serve", "--port", port, "--workers", workers]
    with process(command, root, log, environment) as started:
        wait_for(f"http://127.0.0.1:{port}/ready", started, log)
        time.sleep(3 if workers == 1 else 15)
        with Others(port) as alone:
            time.sleep(5)
        pids = workers_of(started.pid)
        before = max(map(memory_of, pids))
        with Others(port) as others:
            each = list(measure_each(port, pids, everything))
        for one in each:
            times = others.between(*one.pop("window"))
            one["others' longest, ms"] = round(1e3 * max(times, default=0), 1)
        time.sleep(1)
        after = max(map(memory_of, pids))
        for pid in pids:
            forget_highest(pid)
        with Others(port) as together, ThreadPoolExecutor(4) as pool:
            sent = [one for one in everything.values() if isinstance(one, Body)]
            answered = list(pool.map(lambda body: send_quietly(port, body), sent))
            time.sleep(1)
        return {
            "workers": workers,
            "version": newest_golden(checkout).name,
            "MB before": round(before),
            "MB after": round(after),
            "highest MB": max(one["highest MB"] for one in each),
            "others alone": alone.summary(),
            "others meanwhile": others.summary(),
            "four at once": {
                "statuses": {str(s): answered.count(s) for s in sorted(set(answered), key=str)},
                "highest MB": round(max(memory_of(pid, "VmHWM") for pid in pids)),
                "MB after": round(max(map(memory_of, pids))),
                "others meanwhile": together.summary(),
            },
            "requests": each,
        }


def send_quietly(port: int, body: Body) -> int | str:
    try:
        return send(port, body)[0]
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


def table(result: dict) -> str:
    names = ("request", "status", "s", "highest MB", "after MB", "others' longest, ms")
    lines = [" | ".join(names), " | ".join(["---"] * len(names))]
    lines += [" | ".join(str(one[name]) for name in names) for one in result["requests"]]
    lines += [f"{name}: {value}" for name, value in result.items() if name != "requests"]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--before", type=Path, help="another checkout of the project, whose service is measured too")
    parser.add_argument("--only", metavar="TEXT", help="only kinds of requests with this in their names; nothing is written")
    parser.add_argument("--ask", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        ask(options.ask)
        return
    kinds, strict = (
        {name: one for name, one in own.items() if (options.only or "") in name} for own in (bodies() | heads(), strict_bodies())
    )
    result = {}
    with tempfile.TemporaryDirectory(prefix="lending-club-hostile-") as name:
        for side, checkout, own, settings in (
            ("now", ROOT, kinds, {}),
            ("now, incomplete = refuse", ROOT, strict, {"INCOMPLETE": "refuse"}),
            ("before", options.before, kinds, {}),
        ):
            if checkout and own:
                result[side] = measure(checkout.resolve(), Path(name) / side, options.workers, own, **settings)
                print(f"{side}\n{table(result[side])}\n")
    if options.only:
        return
    result["machine"] = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "hostile.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
