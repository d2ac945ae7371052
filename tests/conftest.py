"""What the tests share: a project folder of their own, the command line, and the real loans where they are."""

import atexit
import json
import os
import pickle
import pwd
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from filelock import FileLock

from lending_club.core.files import file_digest
from lending_club.core.registry import connect, download_version
from lending_club.core.relocate import relocate
from lending_club.core.settings import Settings, load_settings
from lending_club.core.study import open_storage
from lending_club.core.tracking import experiment_id

if TYPE_CHECKING:
    from lending_club.train import Trained

REPO = Path(__file__).resolve().parent.parent
COMMAND = Path(sys.executable).with_name("lending-club")
SMALL = "sample_rows = 5000\nepochs = 5\npoll_interval = 0.3\n"


hypothesis.settings.register_profile("shared", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("shared")

# the first makes the two versions that most others wait for, the next two need none of them; then the longest
FIRST = ("test_api.py", "test_time_principle.py", "test_model.py", "test_champion.py", "test_cli.py", "test_runs.py")


def pytest_collection_modifyitems(items):
    "Let no worker wait for another at the start, nor be left alone with a long file at the end."
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


def clean_environment(**extra) -> dict:
    "This process' environment without anything that would change a run's settings."
    ours = {f.name.upper() for f in fields(Settings)} | {"IN_TEST"}
    return {k: v for k, v in os.environ.items() if k not in ours} | extra


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside():
    with pytest.MonkeyPatch.context() as environment:
        for name in set(os.environ) - set(clean_environment()):
            environment.delenv(name)
        yield


def make_project(folder: Path, settings: str = SMALL) -> Path:
    "A project root with the repository's notebooks and small settings."
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.ini").write_text(f"[lending_club]\n{settings}")
    (folder / "nbs").symlink_to(REPO / "nbs")
    return folder


@pytest.fixture(scope="session")
def new_databases(tmp_path_factory) -> Path:
    "The databases of MLflow and of Optuna without anything in them, whose tables take seconds to make."

    def make(folder: Path) -> Path:
        settings = load_settings(make_project(folder / "project"))
        connect(settings)
        open_storage(settings.optuna_storage, settings.network).engine.dispose()
        return settings.var

    return made_once(tmp_path_factory, "new_databases", make)


def give_databases(project: Path, new: Path) -> Path:
    "A project with databases that are new, as its first command would make them."
    (project / "var").mkdir()
    for name in ("mlflow.db", "optuna.db"):
        shutil.copy(new / name, project / "var" / name)
    moved = "update experiments set artifact_location = replace(artifact_location, ?, ?)"
    with closing(sqlite3.connect(project / "var" / "mlflow.db")) as database, database:
        database.execute(moved, (new.as_uri(), (project / "var").as_uri()))
    return project


def copy_repository(folder: Path) -> Path:
    "A copy of the files that git knows or would add, as they are now."
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\n")):
        if (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, folder / name)
    return folder


def change_settings(folder: Path, **values):
    "Change lines of a project's settings.ini."
    path = folder / "settings.ini"
    text = path.read_text()
    for name, value in values.items():
        text, changed = re.subn(f"^{name} = .*$", f"{name} = {value}", text, flags=re.M)
        assert changed == 1, f"settings.ini has no line {name} = ..."
    path.write_text(text)


@pytest.fixture
def project(tmp_path, monkeypatch, new_databases) -> Path:
    "A project root of its own, which is also the working directory."
    monkeypatch.chdir(give_databases(make_project(tmp_path / "project"), new_databases))
    return Path.cwd()


@pytest.fixture
def settings(project) -> Settings:
    return load_settings()


@pytest.fixture(scope="module", autouse=True)
def no_poller_is_left():
    "A poller that went on would point MLflow at its own registry while a later test trains."
    yield
    wait_until(lambda: "champion-poller" not in [thread.name for thread in threading.enumerate()], 60, "the end of each poller")


# --- two versions for all tests


@dataclass(frozen=True)
class Stock:
    "A project with two versions of different seeds, trained once for all tests of all workers; nobody writes to it."

    project: Path
    files: tuple[Path, Path]  # folders of what the service reads of each version
    first: "Trained"
    second: "Trained"

    def copy_to(self, folder: Path) -> Settings:
        "The settings of a project of one's own with both versions, the first of which is the candidate."
        settings = load_settings(shutil.copytree(self.project, folder, symlinks=True))
        relocate(settings)
        offer(settings, self.first.version)
        return settings


def offer(settings: Settings, version: str):
    "Make a version the candidate, as its training does."
    connect(settings).set_registered_model_alias(settings.registered_model_name, settings.candidate_alias, version)


def register_files(settings: Settings, folder: Path) -> str:
    "Register the files in `folder` as a version without a Pipeline, which takes a second; returns its number."
    from mlflow.exceptions import MlflowException

    client = connect(settings)
    run = client.create_run(experiment_id(settings, client))
    client.log_artifacts(run.info.run_id, str(folder), "model/extra_files")
    with suppress(MlflowException):  # it is there already
        client.create_registered_model(settings.registered_model_name)
    tags = {f"sha256.{path.name}": file_digest(path) for path in folder.iterdir()}
    source = f"{run.info.artifact_uri}/model"
    return client.create_model_version(settings.registered_model_name, source, run.info.run_id, tags).version


def made_once(tmp_path_factory, name: str, make):
    "What `make(folder)` returns, made by the first of the workers that needs it and read by the others."
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, kept = shared / name, shared / f"{name}.pickle"
    with FileLock(shared / f"{name}.lock"):
        if not kept.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            kept.write_bytes(pickle.dumps(make(folder)))
    return pickle.loads(kept.read_bytes())


def make_stock(folder: Path) -> Stock:
    from lending_club.train import train

    settings = load_settings(make_project(folder / "project"))
    trained = [train(settings), train(replace(settings, seed=1))]
    client = connect(settings)
    files = [download_version(settings, client, each.version, folder / each.version, "extra_files") for each in trained]
    return Stock(settings.root, tuple(files), *trained)


@pytest.fixture(scope="session")
def stock(tmp_path_factory) -> Stock:
    return made_once(tmp_path_factory, "stock", make_stock)


@pytest.fixture
def stocked(stock, tmp_path, monkeypatch) -> Settings:
    "Settings of a copy of the stock, which is also the working directory."
    settings = stock.copy_to(tmp_path / "project")
    monkeypatch.chdir(settings.root)
    return settings


# --- commands and services


class WarmCommands:
    "Runs the command line by forks of a process that has imported the package already, which saves seconds a command."

    def __init__(self):
        self.server, self.turn = None, threading.Lock()

    def start(self):
        environment = clean_environment(OMP_NUM_THREADS="1")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.server = subprocess.Popen([sys.executable, REPO / "tests" / "warm.py"], env=environment, cwd=REPO, **pipes)
        atexit.register(self.end)

    def end(self):
        self.server.stdin.close()
        self.server.wait(20)

    def run(self, words: list[str], cwd, timeout: float, environment: dict) -> subprocess.CompletedProcess:
        with self.turn, tempfile.TemporaryDirectory(prefix="lending-club-said-") as folder:
            if self.server is None:
                self.start()
            streams = {name: str(Path(folder, name)) for name in ("stdout", "stderr")}
            command = {"words": words, "cwd": str(cwd), "environment": environment, **streams}
            self.server.stdin.write(json.dumps(command) + "\n")
            running, late = self.read_number(), threading.Event()

            def end():
                late.set()
                os.kill(running, signal.SIGKILL)

            timer = threading.Timer(timeout, end)
            timer.start()
            code = self.read_number()
            timer.cancel()
            said = {name: Path(path).read_text() for name, path in streams.items()}
        assert not late.is_set(), f"{' '.join(words)} did not end within {timeout} s: {said}"
        return subprocess.CompletedProcess(words, code, **said)

    def read_number(self) -> int:
        "What the process says next."
        line = self.server.stdout.readline()
        assert line, f"tests/warm.py ended with status {self.server.wait(20)}"
        return int(line)


WARM = WarmCommands()


def lending_club(*words, cwd, timeout=900, through=(), warm=True, **environment):
    """Run the command line, through a command that starts others if one is given; returns the completed process.

    `warm` forks a process that has imported everything. Without it a Python of its own starts, and ends, as a user's does."""
    command, environment = [*through, COMMAND, *map(str, words)], clean_environment(**environment)
    if warm and not through:
        return WARM.run(list(map(str, command)), cwd, timeout, environment)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


def last_error(done) -> str:
    "The one line of an error on stderr, checked to be one: status 1, no traceback."
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.replace("\r", "\n").split("\n") if line.startswith("lending-club: ")]
    assert len(lines) == 1 and done.stderr.rstrip().endswith(lines[0]), done.stderr
    return lines[0]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_until(condition, seconds: float = 180, what: str = "the condition"):
    "Return `condition()` once it is true."
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come true within {seconds} s")


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def _hear_ctrl_c():
    "Undo that a background job of a shell ignores Ctrl-C, which its children would inherit."
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def process(*words, cwd, log: Path, **environment):
    "A process of ours, ended by its own id at the end of the block."
    with log.open("wb") as output:
        running = subprocess.Popen(
            list(map(str, words)),
            cwd=cwd,
            env=clean_environment(**environment),
            stdout=output,
            stderr=output,
            preexec_fn=_hear_ctrl_c,
        )
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait(10)


@contextmanager
def service(cwd, tmp_path, **environment):
    "`lending-club serve` on a free port; yields its URL once it listens."
    url = f"http://127.0.0.1:{(port := free_port())}"
    log = tmp_path / f"serve-{port}.log"
    with process(COMMAND, "serve", "--port", port, cwd=cwd, log=log, **environment):
        wait_until(lambda: answers(f"{url}/health"), what=f"the service's start ({log})")
        yield url


PARTS = ("loans", "postgres", "engine", "compose", "curl")  # of a machine, without which some tests cannot run


def skip_without(part: str, reason: str):
    "Skip for want of one of `PARTS`; fail where LENDING_CLUB_REQUIRED names it, or what is none and so would require nothing."
    required = os.environ.get("LENDING_CLUB_REQUIRED", "").replace(",", " ").split()
    unknown = [name for name in required if name not in PARTS]
    assert part in PARTS and not unknown, f"{unknown or part} in LENDING_CLUB_REQUIRED: name only {', '.join(PARTS)}"
    assert part not in required, f"{reason}, though LENDING_CLUB_REQUIRED names {part}: provide it, or take it out of there"
    pytest.skip(reason)


REAL_FILES = ("accepted_2007_to_2011.csv.gz", "accepted_sample_2007_to_2018.csv.gz")


@pytest.fixture(scope="session")
def real_data() -> Path:
    "The folder with real loans, in Lending Club's layout."
    named = os.environ.get("LENDING_CLUB_REAL_DATA")
    folder = Path(named) if named else REPO.parent / "shared" / "data"
    absent = [name for name in REAL_FILES if not (folder / name).is_file()]
    if not folder.is_dir() and not named:
        skip_without("loans", f"no real loans in {folder}; LENDING_CLUB_REAL_DATA names another folder")
    assert not absent, f"{folder} lacks {' and '.join(absent)}: put it there, or let LENDING_CLUB_REAL_DATA name another folder"
    return folder


def _unprivileged() -> dict:
    "Whom PostgreSQL runs as: it refuses to be root."
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid}
    return {}


@pytest.fixture(scope="session")
def postgres():
    "A PostgreSQL server of our own on a free port of the loopback; yields its URI without a database name."
    # Debian keeps PostgreSQL's own commands off the path; a server that is there but does not start is a failure
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (installed[-1] if installed else None)
    if initdb is None:
        skip_without("postgres", "PostgreSQL's initdb is neither on the path nor under /usr/lib/postgresql")
    who = _unprivileged()
    with tempfile.TemporaryDirectory(prefix="lending-club-postgres-") as folder:
        if who:
            os.chown(folder, who["user"], who["group"])
        data, port = Path(folder, "data"), free_port()
        call = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder, **who}
        subprocess.run([initdb, "-D", data, "-U", "test", "-A", "trust", "-E", "UTF8"], **call)
        pg_ctl = Path(initdb).resolve().with_name("pg_ctl")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        subprocess.run([pg_ctl, "-D", data, "-w", "-l", Path(folder, "log"), "-o", options, "start"], **call)
        yield f"postgresql://test@127.0.0.1:{port}"
        subprocess.run([pg_ctl, "-D", data, "-m", "immediate", "stop"], **call)


def without_pd(answer: dict) -> dict:
    "An answer without the figures that differ in the last digits where a graph gets more rows at once."
    return {**answer, "probability_of_default": 0, "policy": {**answer["policy"], "value": 0}}


def new_database(server: str, name: str) -> str:
    "A new database on that server, and its URI."
    import psycopg

    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return f"{server}/{name}"
