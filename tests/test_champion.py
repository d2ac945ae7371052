"""The champion's way into the service, over a real MLflow server that is slow, lies, loses things or goes away."""

import base64
import gc
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import answers, clean_environment, free_port, make_project, register_files, service, wait_until
from test_service import get, predict

from lending_club.core import features
from lending_club.core.bundle import write_bundle
from lending_club.core.compile import compile_pipeline
from lending_club.core.encoding import feature_code
from lending_club.core.examples import example_answers
from lending_club.core.files import file_digest
from lending_club.core.hyperparameters import default_parameters
from lending_club.core.preprocess import application_frame
from lending_club.core.registry import connect
from lending_club.core.schema import EXAMPLE_APPLICATION, REQUIRED_IN_APPLICATION, pipeline_columns
from lending_club.core.settings import load_settings
from lending_club.promote import promote
from lending_club.serving.champion import ChampionPoller, cache_path, read_cache, write_cache
from lending_club.serving.scorer import Scorer, read_files
from lending_club.serving.webhook import WebhookError, check_webhook
from lending_club.train import fit_pipeline, train

SERVER_SETTINGS = {
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(b"0123456789abcdef" * 2).decode(),
    "MLFLOW_WEBHOOK_CACHE_TTL": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Server:
    "`mlflow server` with a database and artifacts of its own, which it hands out itself."

    def __init__(self, folder: Path):
        self.folder, self.port, self.running = folder, free_port(), None
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [Path(sys.executable).with_name("mlflow"), "server", "--host", "127.0.0.1", "--port", self.port, "--workers", 1]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--artifacts-destination", self.artifacts]
        with (self.folder / "server.log").open("ab") as log:
            environment = clean_environment(**SERVER_SETTINGS)
            self.running = subprocess.Popen(list(map(str, command)), cwd=self.folder, env=environment, stdout=log, stderr=log)
        what = f"the start of MLflow's server ({self.folder}/server.log)"
        wait_until(lambda: answers(f"{self.url}/health") or self.running.poll() is not None, 180, what)
        assert self.running.poll() is None, f"{what} failed"

    def kill(self):
        "End it and what it started, without a chance to say goodbye."
        own = psutil.Process(self.running.pid)
        for one in (*own.children(recursive=True), own):
            one.kill()
        self.running.wait(20)
        wait_until(lambda: not answers(f"{self.url}/health"), what="the server's end")

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"


class Wire:
    "A connection to the server that can be cut, or made to wait before anything goes through."

    def __init__(self, port: int):
        self.target, self.cut, self.delay = port, False, 0.0
        self.waiting = 0  # connections that have been made to wait
        self._over = threading.Event()
        self.listener = self._listen(0)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @staticmethod
    def _listen(port: int):
        return socket.create_server(("127.0.0.1", port))

    def _accept(self):
        while not self._over.is_set():
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.cut:
                client.close()
            else:
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client):
        if self.delay:
            self.waiting += 1
            self._over.wait(self.delay)
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            client.close()
            return
        threading.Thread(target=self._copy, args=(client, server), daemon=True).start()
        self._copy(server, client)

    @staticmethod
    def _copy(source, sink):
        try:
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            sink.close()

    def close(self):
        self._over.set()
        self.listener.close()


def widen(settings, splits):
    "Fit and register a network that also reads the borrower's state; its version, Pipeline and card."
    wide = replace(settings, use_addr_state=True)
    pipeline = fit_pipeline(splits, default_parameters(wide.network, "time_to_event"), wide, progress=False, cautious=False)
    columns = pipeline_columns(use_addr_state=True)
    inputs = {"columns": list(columns), "used": list(columns), "required": list(REQUIRED_IN_APPLICATION), "always_present": []}
    card = {"threshold": pipeline[-1].threshold_, "inputs": inputs, "settings": wide.recorded}
    compiled = compile_pipeline(pipeline)
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(folder, card, {}, example_answers(compiled), compiled)
        return SimpleNamespace(version=register_files(settings, Path(folder)), pipeline=pipeline, card=card)


@pytest.fixture(scope="module")
def registry(stock, tmp_path_factory):
    "A server, the wire to it, and versions 1, 2 (other numbers) and 3 (which also reads the borrower's state)."
    folder = tmp_path_factory.mktemp("registry")
    server = Server(folder)
    server.start()
    wire = Wire(server.port)
    try:
        project = make_project(folder / "project", "sample_rows = 4000\nepochs = 2\npoll_interval = 0.3\nregistry_timeout = 5\n")
        settings = load_settings(project, mlflow_tracking_uri=f"http://127.0.0.1:{wire.port}")
        versions = [register_files(settings, files) for files in stock.files]
        wide = widen(settings, stock.first.splits)
        assert [*versions, wide.version] == ["1", "2", "3"]
        yield SimpleNamespace(server=server, wire=wire, settings=settings, trained=stock.first, wide=wide)
    finally:
        wire.close()
        server.kill()


@pytest.mark.slow
def test_training_and_promotion_over_http(registry, tmp_path):
    "By a registry of its own name, so that no other test sees the version."
    apart = {"registered_model_name": "over-http", "experiment": "over-http", "backtest_as_of": "off"}
    own = replace(registry.settings, var_dir=str(tmp_path / "var"), **apart)
    trained = train(own)
    client = connect(own)
    assert client.get_run(trained.run_id).info.status == "FINISHED"
    assert promote(own).version == trained.version
    poller = ChampionPoller(own)
    poller.poll()
    health = poller.health()
    assert (health["status"], health["current_version"], health["source"]) == ("ok", trained.version, "registry"), health


@pytest.fixture
def settings(registry, tmp_path):
    "Settings with a cache of their own, the first version as champion, and everything in order."
    registry.wire.cut, registry.wire.delay = False, 0.0
    own = replace(registry.settings, var_dir=str(tmp_path / "var"))
    point(own, "1")
    return own


@pytest.fixture
def poller(settings):
    "A poller with the first version; `outcomes` lists the outcomes of its polls."
    outcomes = []
    poller = ChampionPoller(settings, lambda outcome, seconds: outcomes.append(outcome))
    poller.outcomes = outcomes
    poller.poll()
    assert poller.health()["status"] == "ok", poller.health()
    return poller


def point(settings, version):
    "Point the champion's alias at a version."
    connect(settings).set_registered_model_alias(settings.registered_model_name, settings.champion_alias, version)


def poll(poller) -> str:
    "The outcome of one poll; whatever it is but a swap, the old champion must answer as before."
    before, answer = poller.scorer, poller.scorer.score([EXAMPLE_APPLICATION])
    poller.poll()
    if poller.outcomes[-1] != "swapped":
        assert poller.scorer is before and poller.scorer.score([EXAMPLE_APPLICATION]) == answer
    return poller.outcomes[-1]


def stored(registry, version) -> Path:
    "The folder in which the server keeps a version's files."
    seed, wide = {"1": (42, False), "2": (1, False), "3": (42, True)}[version]
    for card in registry.server.artifacts.rglob("card.json"):
        made_with = json.loads(card.read_text()).get("settings", {})  # those of golden versions have none
        if (made_with.get("seed"), made_with.get("use_addr_state")) == (seed, wide):
            return card.parent
    raise AssertionError(f"version {version} is not among the server's artifacts")


@contextmanager
def spoilt(path: Path, content: bytes | None):
    "Another content of a file, or none, inside the block."
    before = path.read_bytes()
    try:
        path.unlink() if content is None else path.write_bytes(content)
        yield
    finally:
        path.write_bytes(before)


def test_alias_deleted_and_set_again(settings, poller):
    name, alias = settings.registered_model_name, settings.champion_alias
    connect(settings).delete_registered_model_alias(name, alias)
    assert poll(poller) == "no champion"
    assert f"no version of {name} has the alias {alias!r}" in poller.last_error
    assert (poller.health()["status"], poller.health()["current_version"]) == ("degraded", "1")
    point(settings, "1")
    assert poll(poller) == "unchanged" and poller.health()["status"] == "ok"


@pytest.mark.parametrize("file", ["model.onnx", "encoder.json", "card.json", "examples.json"])
def test_files_cut_off_or_of_another_version_are_refused(registry, settings, poller, file):
    point(settings, "2")
    path, other = stored(registry, "2") / file, stored(registry, "3") / file
    assert path.read_bytes() != other.read_bytes()
    for content in (path.read_bytes()[:-20], other.read_bytes(), b""):
        with spoilt(path, content):
            assert poll(poller) == "refused"
            assert f"{file} of version 2 is not what was registered" in poller.last_error
    with spoilt(path, None):
        assert poll(poller) == "refused"
        assert f"version 2 lacks the file {file}" in poller.last_error
    assert poll(poller) == "swapped" and poller.scorer.version == "2"


def test_version_without_any_compiled_form_is_refused(registry, settings, poller):
    client = connect(settings)
    files = stored(registry, "2")
    point(settings, "2")
    away = files.with_name("away")
    files.rename(away)
    try:
        assert poll(poller) == "refused"
        assert "no compiled form" in poller.last_error
    finally:
        away.rename(files)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.pkl").write_bytes(b"whatever")
        plain = register_files(settings, Path(folder))
    point(settings, plain)
    try:
        assert poll(poller) == "refused"
    finally:
        point(settings, "1")
        client.delete_model_version(settings.registered_model_name, plain)


@contextmanager
def golden(settings, release):
    "A version of an earlier release, as champion inside the block; its number."
    files = Path(__file__).parent / "golden" / release
    version = register_files(settings, files)
    point(settings, version)
    try:
        yield version
    finally:
        point(settings, "1")
        connect(settings).delete_model_version(settings.registered_model_name, version)


def test_version_of_the_first_release_is_served(settings, poller):
    with golden(settings, "0.1.0") as version:
        assert poll(poller) == "swapped" and poller.health()["current_version"] == str(version)
        assert poller.health()["feature_code"] is None and poller.scorer.n_examples == 1
        assert "example.json" in read_cache(settings).content
        assert poll(poller) == "unchanged"
        restarted = ChampionPoller(replace(settings, mlflow_tracking_uri="http://127.0.0.1:9"))
        restarted.poll()
        assert restarted.cache_error is not None and "another tracking_uri" in restarted.cache_error


def test_cache_of_the_first_release_is_read(registry, settings, poller):
    content = read_files(Path(__file__).parent / "golden" / "0.1.0")
    write_cache(settings, Scorer.from_content(content, "1"), content)
    import zipfile

    path = cache_path(settings)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(files["champion.json"])
    about["kept_since"] = about.pop("cached_since")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (files | {"champion.json": json.dumps(about)}).items():
            archive.writestr(name, data)
    registry.wire.cut = True
    restarted = ChampionPoller(settings)
    restarted.poll()
    health = restarted.health()
    assert [health[name] for name in ("source", "current_version", "cached_since")] == ["cache", "1", about["kept_since"]]


def test_version_is_refused_where_a_feature_rule_has_changed(settings, poller, monkeypatch):
    assert poller.health()["feature_code"] == "as trained" and poller.scorer.n_examples > 50
    point(settings, "2")
    monkeypatch.setattr(features, "income", lambda raw: raw.number("annual_inc"))  # of joint applications too
    poller.poll()
    assert poller.outcomes[-1] == "refused" and poller.scorer.version == "1"
    for part in (
        r"version 2 gives \d+ of \d+ examples another probability",
        "instead of",
        "annual_inc_joint is given",
        "serve it with lending-club",
    ):
        assert re.search(part, poller.last_error), poller.last_error
    monkeypatch.undo()
    point(settings, "2")
    assert poll(poller) == "swapped"


def test_health_says_that_the_feature_code_is_another(settings, poller, monkeypatch):
    poller.scorer.feature_code = "0" * 64
    assert poller.health()["feature_code"].endswith(f"the version's {poller.scorer.n_examples} examples agree all the same")
    assert poller.health()["status"] == "ok" and feature_code() != "0" * 64


def test_version_with_other_columns_is_served(registry, settings, poller):
    point(settings, "3")
    assert poll(poller) == "swapped"
    trained = registry.wide
    columns = trained.card["inputs"]["columns"]
    assert "addr_state" in columns and "addr_state" not in registry.trained.card["inputs"]["columns"]
    applications = [EXAMPLE_APPLICATION | {"issue_d": "Mar-2018", "addr_state": state} for state in ("CA", "NY", "??", None)]
    expected = trained.pipeline.predict_proba(application_frame(applications, columns))[:, 1]
    got = [answer["probability_of_default"] for answer in poller.scorer.score(applications)]
    assert got == pytest.approx(expected, abs=1e-6)
    assert len(set(got)) > 1, "the state makes no difference, so the test shows nothing"
    point(settings, "1")
    assert poll(poller) == "swapped"
    without = [answer["probability_of_default"] for answer in poller.scorer.score(applications)]
    assert without == pytest.approx([without[0]] * 4, abs=1e-7)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"required": ["loan_amnt", "term", "annual_inc", "dti"]}, "it requires dti, optional in this service's applications"),
        ({"used": ["loan_amnt", "weight"]}, "it reads weight, unknown in this service's applications"),
        ({"used": ["loan_amnt", "total_pymnt"]}, "it reads total_pymnt, unknown in this service's applications"),
    ],
)
def test_version_that_needs_other_inputs_is_refused(registry, settings, poller, change, reason):
    client, path = connect(settings), stored(registry, "2") / "card.json"
    card = json.loads(path.read_text())
    digest = file_digest(path)
    name = settings.registered_model_name
    with spoilt(path, json.dumps(card | {"inputs": card["inputs"] | change}).encode()):
        client.set_model_version_tag(name, "2", "sha256.card.json", file_digest(path))
        point(settings, "2")
        try:
            assert poll(poller) == "refused"
            assert reason in poller.last_error
        finally:
            client.set_model_version_tag(name, "2", "sha256.card.json", digest)
    assert poll(poller) == "swapped"


def test_same_number_with_other_files_is_another_version(registry, settings, poller):
    client, name, second = connect(settings), settings.registered_model_name, stored(registry, "2")
    first = stored(registry, "1")
    before = {file: (first / file).read_bytes() for file in poller.scorer.digests}
    digests = poller.scorer.digests
    try:
        for file in before:  # as in a registry that was set up anew
            shutil.copyfile(second / file, first / file)
            client.set_model_version_tag(name, "1", f"sha256.{file}", file_digest(first / file))
        assert poll(poller) == "swapped" and poller.scorer.version == "1"
        assert poller.scorer.digests != digests
    finally:
        for file, content in before.items():
            (first / file).write_bytes(content)
            client.set_model_version_tag(name, "1", f"sha256.{file}", digests[file])


def test_registry_away_and_back(registry, settings, poller):
    registry.wire.cut = True
    assert [poll(poller) for _ in range(3)] == ["unreachable"] * 3
    assert "does not answer" in poller.last_error and poller._failures == 3
    registry.wire.cut = False
    assert poll(poller) == "unchanged"
    assert (poller._failures, poller.health()["status"]) == (0, "ok")


def test_restart_without_a_registry_serves_the_cached_champion(registry, settings, poller):
    registry.wire.cut = True
    restarted = ChampionPoller(settings)
    restarted.poll()
    health = restarted.health()
    assert [health[name] for name in ("status", "source", "current_version")] == ["degraded", "cache", "1"]
    assert "does not answer" in health["last_error"] and health["cached_since"] and health["cache_error"] is None
    assert restarted.scorer.score([EXAMPLE_APPLICATION]) == poller.scorer.score([EXAMPLE_APPLICATION])

    for own in ({"registered_model_name": "another"}, {"champion_alias": "another"}, {"cache_champion": False}):
        other = ChampionPoller(replace(settings, **own))
        other.poll()
        assert other.health()["status"] == "no model" and other.health()["source"] is None

    registry.wire.cut = False
    assert restarted.poll() is False  # the registry means the same version, with the same digests
    assert (restarted.health()["status"], restarted.health()["source"]) == ("ok", "registry")


def test_garbage_is_not_looked_for_in_what_was_loaded(settings, poller):
    restarted = ChampionPoller(settings)
    gc.unfreeze()
    restarted.poll()  # from the cache, then confirmed by the registry
    assert restarted.source == "registry" and gc.get_freeze_count() > 10_000
    gc.unfreeze()
    restarted.poll()
    assert gc.get_freeze_count() == 0, "frozen at each poll, the garbage of answers would stay for ever"


def test_registry_overrules_the_cached_champion(registry, settings, poller):
    content = read_files(stored(registry, "2"))
    write_cache(settings, Scorer.from_content(content, "1"), content)  # the second's files under the first's number
    restarted = ChampionPoller(settings)
    restarted.poll()
    assert restarted.scorer.digests == poller.scorer.digests
    assert read_cache(settings).digests == poller.scorer.digests


@pytest.mark.parametrize("corrupt", ["cut off", "another digest", "not an archive", "empty", "no files"])
def test_damaged_cache_is_ignored_with_the_reason(registry, settings, poller, corrupt):
    import zipfile

    path = cache_path(settings)
    whole = path.read_bytes()
    if corrupt == "another digest":
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content + b" " if name == "card.json" else content)
    elif corrupt == "no files":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("champion.json", "{}")
    else:
        path.write_bytes({"cut off": whole[: len(whole) // 2], "not an archive": b"PK" * 999, "empty": b""}[corrupt])
    registry.wire.cut = True
    restarted = ChampionPoller(settings)
    restarted.poll()
    assert restarted.health()["status"] == "no model"
    assert str(path) in restarted.cache_error and "it is ignored" in restarted.cache_error
    registry.wire.cut = False
    restarted.poll()
    assert restarted.health()["status"] == "ok" and restarted.cache_error is None
    assert read_cache(settings).digests == poller.scorer.digests, "the damaged archive was not replaced"


def test_cache_that_cannot_be_written_costs_only_the_cache(settings, tmp_path):
    (tmp_path / "var").write_text("a file in the folder's place")
    poller = ChampionPoller(settings)
    poller.poll()
    health = poller.health()
    assert (health["status"], health["current_version"]) == ("ok", "1")
    assert "version 1 cannot be cached" in health["cache_error"] and "cannot be written" in health["cache_error"]
    (tmp_path / "var").unlink()
    poller.poll()
    assert poller.health()["cache_error"] is None and read_cache(settings).version == "1"


def test_full_disk_costs_only_the_cache(settings, tmp_path):
    where = {"mlflow_tracking_uri": settings.mlflow_tracking_uri, "var_dir": settings.var_dir}
    code = f"""
import json, resource
from dataclasses import replace
from lending_club.serving.champion import ChampionPoller, cache_path
from lending_club.core.settings import load_settings
settings = load_settings({str(settings.root)!r}, **{where!r})
settings.var.write_text("in the way")
poller = ChampionPoller(settings)
poller.poll()
settings.var.unlink()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))  # what is written ends there, as on a full disk
poller.poll()
full = poller.health()
left = [path.name for path in (settings.var / "champion").iterdir()]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
poller.poll()
print(json.dumps([full, left, poller.health(), cache_path(settings).is_file()]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    full, left, after, cached = json.loads(done.stdout.strip().split("\n")[-1])
    assert (full["status"], full["current_version"]) == ("ok", "1")
    assert "File too large" in full["cache_error"] and left == []
    assert after["cache_error"] is None and cached


def test_many_writers_of_one_cache_never_show_half_of_one(registry, settings):
    contents = {version: read_files(stored(registry, version)) for version in ("1", "2")}
    scorers = {version: Scorer.from_content(content, version) for version, content in contents.items()}
    write_cache(settings, scorers["1"], contents["1"])
    failures, over = [], threading.Event()

    def write(version):
        try:
            for _ in range(15):
                write_cache(settings, scorers[version], contents[version])
        except Exception as error:  # noqa: BLE001 - shown below
            failures.append(error)

    def read():
        while not over.is_set():
            try:
                cached = read_cache(settings)
                assert cached.digests == scorers[cached.version].digests
            except Exception as error:  # noqa: BLE001 - shown below
                failures.append(error)
                return

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(version,)) for version in ("1", "2", "1", "2")]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    reader.join()
    assert failures == []
    assert [path.name for path in cache_path(settings).parent.iterdir()] == [cache_path(settings).name]


def test_stop_does_not_wait_for_a_registry_that_hangs(registry, settings):
    registry.wire.delay, registry.wire.waiting = 120.0, 0
    poller = ChampionPoller(replace(settings, registry_timeout=3.0, cache_champion=False))
    poller.start()
    thread = poller._thread
    wait_until(lambda: registry.wire.waiting, what="the poll that hangs")
    poller.stop(timeout=0.2)
    assert thread.is_alive() and thread.daemon  # left behind, and no reason for the process to go on
    assert poller.health()["model_loaded"] is False
    registry.wire.delay = 0.0


def test_wake_and_no_sooner(registry, settings):
    outcomes = []
    poller = ChampionPoller(replace(settings, poll_interval=3_600.0), lambda outcome, seconds: outcomes.append(outcome))
    poller.start()
    try:
        wait_until(lambda: outcomes == ["swapped"], what="the first poll")
        point(settings, "2")
        poller.wake()
        wait_until(lambda: outcomes == ["swapped", "swapped"], what="the poll after waking")
        assert poller.scorer.version == "2"
    finally:
        poller.stop()


def test_webhook_of_a_real_server_wakes_and_verifies(registry, settings):
    calls = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            calls.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words):
            pass

    receiver = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=receiver.serve_forever, daemon=True)
    thread.start()
    client = connect(settings)
    webhook = client.create_webhook(
        name="to-the-test",
        url=f"http://127.0.0.1:{receiver.server_port}/webhook",
        events=["model_version_alias.created", "model_version_alias.deleted"],
        secret="of this test",
    )
    try:
        time.sleep(1.5)  # the server keeps its list of webhooks for the second that SERVER_SETTINGS give it
        point(settings, "2")
        wait_until(lambda: calls, what="the call")
        headers, body = calls[0]
        payload = check_webhook("of this test", headers, body)
        assert (payload["entity"], payload["action"]) == ("model_version_alias", "created")
        data = payload["data"]
        assert (data["name"], data["alias"], data["version"]) == (settings.registered_model_name, settings.champion_alias, "2")
        with pytest.raises(WebhookError, match="the signature is another"):
            check_webhook("of another", headers, body)
        with pytest.raises(WebhookError, match="the signature is another"):
            check_webhook("of this test", headers, body.replace(b'"2"', b'"1"'))
        with pytest.raises(WebhookError, match="s ago"):
            check_webhook("of this test", headers, body, now=time.time() + 400)
        client.delete_registered_model_alias(settings.registered_model_name, settings.champion_alias)
        wait_until(lambda: len(calls) > 1, what="the call about the deletion")
        assert check_webhook("of this test", *calls[1])["action"] == "deleted"
    finally:
        client.delete_webhook(webhook.webhook_id)
        receiver.shutdown()
        receiver.server_close()


WITHOUT_SQLALCHEMY = """
import sys
sys.modules["sqlalchemy"] = None  # as in the image of the service, which has mlflow-skinny
from lending_club.core.registry import connect
from lending_club.core.settings import load_settings
print(len(connect(load_settings()).search_experiments()))
"""


def test_a_server_is_asked_without_sqlalchemy(registry, settings):
    environment = clean_environment(MLFLOW_TRACKING_URI=settings.mlflow_tracking_uri, VAR_DIR=str(settings.var))
    command = [sys.executable, "-c", WITHOUT_SQLALCHEMY]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert int(done.stdout) >= 1


@contextmanager
def served(settings, tmp_path, **environment):
    "The service on these settings; yields its URL."
    own = {"MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri, "VAR_DIR": settings.var_dir} | environment
    with service(settings.root, tmp_path, **own) as url:
        yield url


def health(url) -> dict:
    return get(f"{url}/health")[1]


@pytest.mark.slow
def test_registry_that_answers_after_30_seconds_costs_no_request(registry, settings, tmp_path):
    with served(settings, tmp_path, REGISTRY_TIMEOUT="1") as url:
        wait_until(lambda: get(f"{url}/ready")[0] == 200, what="the champion")
        before = predict(url, EXAMPLE_APPLICATION)
        registry.wire.delay = 30.0
        asked = 0
        while "does not answer" not in (health(url)["last_error"] or ""):
            assert predict(url, EXAMPLE_APPLICATION) == before
            asked += 1
            assert asked < 100_000, "the registry's silence is not noticed"
        waiting = registry.wire.waiting
        wait_until(lambda: registry.wire.waiting > waiting, what="the next poll, which hangs")
        for _ in range(50):
            assert predict(url, EXAMPLE_APPLICATION) == before
        assert (health(url)["status"], health(url)["current_version"]) == ("degraded", "1")
        registry.wire.delay = 0.0
        point(settings, "2")
        wait_until(lambda: health(url)["current_version"] == "2" and health(url)["status"] == "ok", what="the recovery")


@pytest.mark.slow
def test_registry_killed_and_restarted_while_two_services_answer(registry, settings, tmp_path):
    with served(settings, tmp_path) as one, served(settings, tmp_path) as two:
        for url in (one, two):
            wait_until(lambda url=url: health(url)["status"] == "ok", what="the champion")
        assert predict(one, EXAMPLE_APPLICATION) == predict(two, EXAMPLE_APPLICATION)
        point(settings, "2")
        for url in (one, two):
            wait_until(lambda url=url: health(url)["current_version"] == "2", what="the second champion")
        before = predict(one, EXAMPLE_APPLICATION)
        registry.server.kill()
        try:
            for url in (one, two):
                wait_until(lambda url=url: health(url)["status"] == "degraded", what="the notice")
                assert predict(url, EXAMPLE_APPLICATION) == before
            with served(settings, tmp_path) as third:  # a restart without a registry
                wait_until(lambda: get(f"{third}/ready")[0] == 200, what="the cached champion")
                assert predict(third, EXAMPLE_APPLICATION) == before
                wait_until(lambda: health(third)["last_error"], what="the registry's error")
                assert health(third)["status"] == "degraded" and health(third)["current_version"] == "2"
        finally:
            registry.server.start()
        point(settings, "1")
        for url in (one, two):
            wait_until(lambda url=url: health(url)["current_version"] == "1" and health(url)["status"] == "ok", what="the return")
        assert predict(one, EXAMPLE_APPLICATION) == predict(two, EXAMPLE_APPLICATION) != before
