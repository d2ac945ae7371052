"""Servers that the benchmarks start: on free ports of the loopback, waited for, and ended by their own id."""

import http.client
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def status(url: str, data: bytes | None = None) -> int:
    "The HTTP status; 0 where nothing answers."
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_for(url: str, started: subprocess.Popen, log: Path, seconds: float = 120, pause: float = 0.1):
    "Return when the server answers 200; raise `RuntimeError` with the end of its log if it ends or is not in time."
    deadline = time.monotonic() + seconds
    while status(url) != 200:
        if started.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{url} did not answer within {seconds} s:\n{log.read_text()[-3000:]}")
        time.sleep(pause)


def milliseconds(port: int, path: str, bodies: list[bytes], count: int) -> list[float]:
    "How long each of a block of requests took, over one keep-alive connection."
    connection, times = http.client.HTTPConnection("127.0.0.1", port, timeout=30), []
    for i in range(count):
        start = time.perf_counter()
        connection.request("POST", path, bodies[i % len(bodies)], {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        times.append(1e3 * (time.perf_counter() - start))
        assert answer.status == 200, answer.status
    connection.close()
    return times


@contextmanager
def process(command: list, cwd: Path, log: Path, env: dict):
    "A process; it and its children are ended at the end of the block."
    with log.open("ab") as output:
        words = list(map(str, command))
        started = subprocess.Popen(words, cwd=cwd, env=env, stdout=output, stderr=output, start_new_session=True)
        try:
            yield started
        finally:
            os.killpg(started.pid, signal.SIGTERM)  # mlflow's server is a child of the command
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()
