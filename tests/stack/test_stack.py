"""The stack on a real engine: built from a fresh copy, used, broken, restored. The tests run in this order."""

import base64
import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import REPO, change_settings, clean_environment, copy_repository, free_port, skip_without, wait_until

pytestmark = pytest.mark.stack

MODEL = "lending_club_loan_classification_model"
LONG_RUNNING = ("postgres", "s3", "mlflow", "jupyter", "api")
EXAMPLE = [line.partition("=")[0] for line in (REPO / ".env.example").read_text().split("\n") if "=" in line and line[0] != "#"]
# what the engine and the builder need; nothing that would take the place of a variable of .env
ENGINE = {k: v for k, v in clean_environment().items() if k not in EXAMPLE and not k.startswith("COMPOSE_")}
# what the environment says of base images, and of where torch comes from, goes into the .env of the copy
BUILT_UPON = {k: os.environ[k] for k in EXAMPLE if (k.endswith("_IMAGE") or k == "TORCH_INDEX_URL") and k in os.environ}


def _engine_lacking() -> str | None:
    "Why no container engine can be used; None where one answers."
    if shutil.which("docker") is None:
        return "there is no command docker"
    done = subprocess.run(["docker", "info"], env=ENGINE, capture_output=True, text=True, timeout=60)
    return None if done.returncode == 0 else f"no container engine answers `docker info`: {done.stderr.strip()[-300:]}"


class Stack:
    "A copy of the repository with a stack of its own name, ports and secrets."

    project = "lending-club-test"

    def __init__(self, folder: Path):
        self.folder = folder
        copy_repository(folder)
        change_settings(folder, sample_rows=5000, epochs=3, trials=2, backtest_as_of="off")
        for path in (folder, *folder.rglob("*")):  # as from a clone that only its owner may read
            path.chmod(path.stat().st_mode & 0o700)
        if os.geteuid() == 0:  # nothing in the stack runs as root, so the copy is an ordinary user's
            for path in (folder, *folder.rglob("*")):
                os.chown(path, 1000, 1000)
        self.script("env")
        ports = {name: free_port() for name in self.values if name.endswith("_PUBLISHED_PORT")}
        self.write(**ports, **BUILT_UPON, POLL_INTERVAL=5)

    @property
    def values(self) -> dict[str, str]:
        lines = (self.folder / ".env").read_text().split("\n")
        return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    @property
    def secrets(self) -> dict[str, str]:
        return {k: v for k, v in self.values.items() if re.search("_(PASSWORD|SECRET|TOKEN|KEY)$", k) and v}

    def write(self, **values):
        text = (self.folder / ".env").read_text()
        for name, value in values.items():
            text = re.sub(f"^{name}=.*$", f"{name}={value}", text, flags=re.M)
        (self.folder / ".env").write_text(text)

    def run(self, *words, timeout=900, check=True, **environment) -> subprocess.CompletedProcess:
        environment = ENGINE | {"COMPOSE_PROJECT_NAME": self.project} | environment
        done = subprocess.run(
            list(map(str, words)), cwd=self.folder, env=environment, capture_output=True, text=True, timeout=timeout
        )
        if check:
            assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done

    def script(self, *words, **how):
        return self.run(self.folder / "service" / "stack.sh", *words, **how)

    def make(self, *words, **how):
        return self.run("make", *words, **how)

    def compose(self, *words, **how):
        return self.run("docker", "compose", *words, **how)

    def exec(self, service, *words, **how):
        return self.compose("exec", "-T", service, *words, **how)

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.values[f'{service.upper()}_PUBLISHED_PORT']}"

    def get(self, service, path, user=None, password=None, body=None, headers=(), method=None) -> tuple[int, bytes]:
        "HTTP status and body; status 0 where nobody answers."
        request = urllib.request.Request(self.url(service) + path, data=body, headers=dict(headers), method=method)
        if user:
            request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
        if body is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def mlflow(self, path: str, body=None, user="admin", method=None) -> tuple[int, dict]:
        password = self.secrets[f"MLFLOW_{user.upper()}_PASSWORD"]
        data = None if body is None else json.dumps(body).encode()
        status, text = self.get("mlflow", f"/api/2.0/mlflow/{path}", user, password, data, method=method)
        return status, (json.loads(text) if text.startswith(b"{") else {})

    def version(self, alias: str) -> str | None:
        status, answer = self.mlflow(f"registered-models/alias?name={MODEL}&alias={alias}")
        return answer["model_version"]["version"] if status == 200 else None

    def versions(self) -> list[str]:
        _, answer = self.mlflow(f"model-versions/search?filter=name%3D'{MODEL}'")
        return sorted((version["version"] for version in answer.get("model_versions", ())), key=int)

    def experiment(self) -> dict:
        return self.mlflow("experiments/get-by-name?experiment_name=lending_club")[1]["experiment"]

    def running(self) -> set[str]:
        "The runs that log at this moment."
        body = {"experiment_ids": [self.experiment()["experiment_id"]], "filter": "attributes.status = 'RUNNING'"}
        return {run["info"]["run_id"] for run in self.mlflow("runs/search", body)[1].get("runs", ())}

    def health(self) -> dict:
        status, text = self.get("api", "/health")
        return json.loads(text) if status == 200 else {}

    def predict(self) -> tuple[int, dict]:
        status, text = self.get("api", "/predict", body=(REPO / "service" / "loan.json").read_bytes())
        return status, (json.loads(text) if text.startswith(b"{") else {})

    def artifacts(self) -> list[str]:
        return [line.split(None, 1)[1] for line in self.exec("mlflow", "python", "artifacts.py", "list").stdout.splitlines()]

    def states(self) -> dict[str, str]:
        listed = self.compose("ps", "--all", "--format", "json").stdout.splitlines()
        return {s["Service"]: s["Health"] or f"{s['State']} {s['ExitCode']}" for s in map(json.loads, listed)}

    def wait_healthy(self):
        wait_until(lambda: {self.states().get(n) for n in LONG_RUNNING} == {"healthy"}, 180, f"all healthy ({self.states()})")

    @contextmanager
    def asked(self):
        "Asks the API all the time; yields the list of its statuses."
        statuses, stop = [], threading.Event()

        def ask():
            while not stop.is_set():
                statuses.append(self.predict()[0])
                stop.wait(0.1)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield statuses
        finally:
            stop.set()
            thread.join()


def there_or_another(stack: Stack, image: str) -> str:
    "The pinned image; where it is neither there nor can be pulled, another version that the engine has."
    for words in (("image", "inspect", image), ("pull", "--quiet", image)):
        if stack.run("docker", *words, check=False).returncode == 0:
            return image
    name = image.rpartition(":")[0]
    others = stack.run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}", name).stdout.split()
    assert others, f"{image} can be neither found nor pulled"
    print(f"{others[0]} in the place of {image}")
    return others[0]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    lacking = _engine_lacking()
    if lacking:
        named = os.environ.get("DOCKER_HOST")
        assert not named, f"DOCKER_HOST names {named}, but {lacking}"
        skip_without("engine", lacking)
    made = Stack(tmp_path_factory.mktemp("stack") / "lending-club")
    try:
        made.write(S3_IMAGE=there_or_another(made, made.values["S3_IMAGE"]))
        began = time.monotonic()
        made.compose("build", timeout=1800)
        print(f"built in {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        made.make("up")
        print(f"`make up` with images built: {time.monotonic() - began:.0f} s")
        yield made
    finally:
        logs = made.compose("logs", "--no-color", check=False).stdout
        Path(os.environ.get("STACK_LOG", made.folder / "stack.log")).write_text(logs)
        for files in ("docker-compose.yml", "docker-compose.yml:service/docker-compose.minio.yml"):
            made.compose("down", "--volumes", "--remove-orphans", check=False, COMPOSE_FILE=files)


def test_everything_is_healthy_without_a_champion(stack):
    assert stack.states() == {**dict.fromkeys(LONG_RUNNING, "healthy"), "bucket": "exited 0"}
    assert stack.health()["status"] == "no model"
    assert stack.get("api", "/ready")[0] == 503


def test_nothing_runs_as_root(stack):
    for service in LONG_RUNNING:
        users = stack.exec(service, "stat", "-c", "%u", "/proc/1").stdout.split()
        assert users and "0" not in users, service


def test_nobody_comes_in_without_a_secret_or_with_a_wrong_one(stack):
    search = b'{"max_results": 1}'
    path = "/api/2.0/mlflow/experiments/search"
    assert stack.get("mlflow", path, body=search)[0] == 401
    assert stack.get("mlflow", path, "admin", "password1234", search)[0] == 401
    assert stack.get("mlflow", path, "admin", stack.secrets["MLFLOW_API_PASSWORD"], search)[0] == 401
    assert stack.get("mlflow", path, "admin", stack.secrets["MLFLOW_ADMIN_PASSWORD"], search)[0] == 200
    assert stack.get("mlflow", "/")[0] == 401
    assert stack.get("mlflow", "/api/2.0/mlflow-artifacts/artifacts")[0] in (401, 403)
    evil = stack.get("mlflow", path, "admin", stack.secrets["MLFLOW_ADMIN_PASSWORD"], search, {"Host": "evil.example"})
    assert evil[0] == 403
    crossing = {"Origin": "https://evil.example"}
    assert stack.get("mlflow", path, "admin", stack.secrets["MLFLOW_ADMIN_PASSWORD"], search, crossing)[0] == 403
    assert stack.get("jupyter", "/api/contents")[0] == 403
    assert stack.get("jupyter", "/api/contents?token=0000")[0] == 403
    assert stack.get("jupyter", f"/api/contents?token={stack.secrets['JUPYTER_TOKEN']}")[0] == 200
    assert stack.get("api", "/webhook", body=b"{}")[0] == 401


def test_databases_and_store_refuse_strangers_inside_too(stack):
    code = """
import os, sys, psycopg
for place in ("postgres postgres", "mlflow mlflow", "optuna mlflow", "optuna mlflow_auth", "optuna optuna"):
    user, database = place.split()
    for password in (None, "wrong", os.environ["PGPASSWORD"]):
        try:
            os.environ.pop("PGPASSWORD", None) if password is None else None
            psycopg.connect(host="postgres", user=user, dbname=database, password=password, connect_timeout=5).close()
            print(user, database, "open", password not in (None, "wrong"))
        except psycopg.OperationalError as error:
            pass
        os.environ["PGPASSWORD"] = sys.argv[1]
"""
    done = stack.exec("jupyter", "python", "-c", code, stack.secrets["OPTUNA_DB_PASSWORD"])
    assert done.stdout.split("\n") == ["optuna optuna open True", ""]
    code = """
import sys, urllib.error, urllib.request
for path in ("/", "/mlflow/", "/mlflow/?list-type=2"):
    try:
        print(urllib.request.urlopen("http://s3:9000" + path, timeout=5).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""
    assert set(stack.exec("jupyter", "python", "-c", code).stdout.split()) == {"403"}
    listing = ("mlflow", "python", "artifacts.py", "list")
    wrong = stack.compose("exec", "-T", "-e", "AWS_SECRET_ACCESS_KEY=wrong", *listing, check=False)
    assert wrong.returncode != 0 and "SignatureDoesNotMatch" in wrong.stderr
    seen = stack.exec("jupyter", "cat", "/project/.env").stdout + stack.exec("jupyter", "env").stdout
    strange = {k for k, v in stack.secrets.items() if v in seen}
    assert strange == {"JUPYTER_TOKEN", "MLFLOW_PIPELINE_PASSWORD", "OPTUNA_DB_PASSWORD"}


def test_only_the_loopback_listens(stack):
    for service in LONG_RUNNING:
        for line in stack.compose("ps", "--format", "{{.Ports}}", service).stdout.split(", "):
            assert "->" not in line or line.startswith("127.0.0.1:"), (service, line)


def test_images_hold_no_secret_and_the_service_is_small(stack):
    sizes = {}
    for name in stack.compose("config", "--images").stdout.split():
        history = stack.run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", name).stdout
        inspected = stack.run("docker", "inspect", name).stdout
        assert not [key for key, value in stack.secrets.items() if value in history + inspected], name
        sizes[name] = json.loads(inspected)[0]["Size"] / 1e6
    base = stack.run("docker", "inspect", "--format", "{{.Size}}", stack.values["PYTHON_IMAGE"]).stdout
    print({name: f"{size:.0f} MB" for name, size in sizes.items()}, f"base {float(base) / 1e6:.0f} MB")
    api = next(size for name, size in sizes.items() if name.endswith("-api"))
    assert api - float(base) / 1e6 <= 500
    for tool in ("gcc", "make"):
        assert stack.exec("api", "sh", "-c", f"command -v {tool}", check=False).returncode != 0


def test_pipeline_runs_inside_and_ends_with_a_candidate(stack):
    done = stack.exec("jupyter", "lending-club", "run")
    print(done.stdout, done.stderr[-600:])
    assert stack.version("candidate") == "1"
    experiment = stack.experiment()
    assert experiment["artifact_location"].startswith("mlflow-artifacts:")
    _, found = stack.mlflow("runs/search", {"experiment_ids": [experiment["experiment_id"]], "max_results": 100})
    tags = [{t["key"]: t["value"] for t in run["data"]["tags"]} for run in found["runs"]]
    nested = [t for t in tags if "mlflow.parentRunId" in t]
    assert len(nested) >= 2 and {run["info"]["status"] for run in found["runs"]} == {"FINISHED"}
    artifacts = stack.artifacts()
    print(len(artifacts), "artifacts in the bucket")
    assert [name for name in artifacts if name.endswith("extra_files/model.onnx")]
    trials = stack.exec(
        "postgres", "psql", "-U", "postgres", "-d", "optuna", "-Atc", "select count(*) from trials where state = 'COMPLETE'"
    )
    assert int(trials.stdout) == 2
    written = stack.folder / "var" / "runs"
    assert written.stat().st_uid == int(stack.values["HOST_UID"])


def test_one_stage_runs_under_papermill(stack):
    stack.exec("jupyter", "papermill", "nbs/04_train.ipynb", "var/out.ipynb")
    assert (stack.folder / "var" / "out.ipynb").is_file()
    assert stack.version("candidate") == "2"


def test_promotion_is_seen_by_the_service(stack):
    stack.exec("jupyter", "lending-club", "promote")
    began = time.monotonic()
    wait_until(lambda: stack.health().get("current_version") == "2", 60, "the new champion")
    print(f"seen {time.monotonic() - began:.1f} s after the promotion")
    status, answer = stack.predict()
    assert status == 200 and answer["model_version"] == "2" and 0 < answer["probability_of_default"] < 1


def test_the_webhook_is_quicker_than_the_poll(stack):
    stack.write(POLL_INTERVAL=3600)
    stack.compose("up", "--detach", "--wait")
    wait_until(lambda: stack.health().get("source") == "registry", 60, "the registry's champion")
    body = {"name": MODEL, "alias": "champion", "version": "1"}
    assert stack.mlflow("registered-models/alias", body, user="pipeline")[0] == 200
    began = time.monotonic()
    wait_until(lambda: stack.health().get("current_version") == "1", 60, "the champion of the webhook")
    print(f"seen {time.monotonic() - began:.1f} s after the alias was set")
    stack.write(POLL_INTERVAL=5)
    stack.compose("up", "--detach", "--wait")


def test_the_service_s_account_cannot_deploy(stack):
    body = {"name": MODEL, "alias": "champion", "version": "2"}
    assert stack.mlflow("registered-models/alias", body, user="api")[0] == 403
    assert stack.mlflow("webhooks", user="api")[0] == 403
    assert stack.mlflow("webhooks", user="pipeline")[0] == 403
    assert stack.mlflow("users/create", {"username": "eve", "password": "x" * 20}, user="pipeline")[0] == 403
    assert stack.version("champion") == "1"


@pytest.mark.parametrize("service", LONG_RUNNING)
def test_each_service_can_be_restarted(stack, service):
    with stack.asked() as statuses:
        stack.compose("restart", service)
        stack.wait_healthy()
        wait_until(lambda: stack.predict()[0] == 200, 60, "an answer")
    if service != "api":
        assert set(statuses) == {200}
    wait_until(lambda: stack.health().get("status") == "ok", 60, f"the service's health: {stack.health()}")


def test_the_service_answers_while_database_and_store_are_dead(stack):
    with stack.asked() as statuses:
        stack.compose("kill", "postgres", "s3")
        wait_until(lambda: stack.health().get("status") == "degraded", 60, "the service noticing it")
        stack.compose("restart", "api")  # also a fresh start answers, from what it has kept
        wait_until(lambda: stack.predict()[0] == 200, 60, "an answer from the kept champion")
        assert stack.health()["source"] == "cache"
        stack.compose("start", "postgres", "s3")
        stack.wait_healthy()
        wait_until(lambda: stack.health().get("status") == "ok", 120, "the registry's return")
    assert set(statuses) <= {200, 0, 503}  # 0, 503: only while the service itself was restarted
    assert statuses[-1] == 200


# another number of trials: the search and the training are done anew, the stages before them are not
@pytest.mark.parametrize(("service", "trials"), [("postgres", 3), ("s3", 4)])
def test_a_run_that_loses_database_or_store_ends_well_when_repeated(stack, service, trials):
    before, known = stack.versions(), stack.running()
    outcome = []
    command = ("jupyter", "lending-club", "run", "--trials", trials)
    run = threading.Thread(target=lambda: outcome.append(stack.exec(*command, check=False)))
    run.start()
    try:
        wait_until(lambda: stack.running() - known, 180, "a run that logs")
        stack.compose("kill", service)
        time.sleep(8)
        stack.compose("start", service)
    finally:
        run.join()
    stack.wait_healthy()
    first = outcome[0]
    print(service, first.returncode, first.stderr[-400:])
    assert "Traceback" not in first.stderr
    if first.returncode:
        assert "lending-club: " in first.stderr
        stack.exec(*command)
    assert len(stack.versions()) > len(before)
    assert stack.version("candidate") == stack.versions()[-1]


def test_down_and_up_keep_everything(stack):
    before, champion = stack.artifacts(), stack.version("champion")
    stack.make("down")
    assert stack.states() == {}
    stack.make("up")
    assert (stack.artifacts(), stack.version("champion")) == (before, champion)
    wait_until(lambda: stack.predict()[0] == 200, 60, "an answer")


def test_backup_brings_everything_back(stack):
    stack.make("backup", "FILE=var/backup.tar")
    archive = stack.folder / "var" / "backup.tar"
    assert archive.stat().st_mode & 0o077 == 0
    before, champion, answer = stack.artifacts(), stack.version("champion"), stack.predict()[1]
    stack.compose("down", "--volumes")
    stack.make("up")
    assert stack.version("champion") is None and stack.artifacts() == []
    refused = stack.make("restore", check=False)
    assert refused.returncode != 0 and "FILE=" in refused.stderr
    damaged = stack.folder / "var" / "damaged.tar"
    damaged.write_bytes(archive.read_bytes()[:-20_000])
    refused = stack.make("restore", "FILE=var/damaged.tar", check=False)
    assert refused.returncode != 0
    stack.make("restore", "FILE=var/backup.tar")
    assert (stack.artifacts(), stack.version("champion")) == (before, champion)
    wait_until(lambda: stack.predict() == (200, answer), 60, "the same answer as before")


def test_the_other_services_secrets_stay_covered_in_jupyterlab(stack):
    shows = ("test", "-s", "/project/.env")
    stack.make("up", "GPU=0")  # writes to .env
    assert stack.exec("jupyter", *shows, check=False).returncode == 1
    settings = stack.folder / ".env"
    shutil.copy(settings, stack.folder / ".env.new")
    os.replace(stack.folder / ".env.new", settings)  # as an editor does
    stack.make("up")
    stack.wait_healthy()
    assert stack.exec("jupyter", *shows, check=False).returncode == 1


def test_a_gpu_is_given_or_refused_with_the_reason(stack):
    done = stack.make("up", "GPU=1", check=False)
    if done.returncode == 0:
        code = "import torch; print(torch.version.cuda is None or torch.cuda.is_available())"
        assert stack.exec("jupyter", "python", "-c", code).stdout == "True\n"
    else:
        print(done.stderr[-400:])
        assert "nvidia" in done.stderr and "make up GPU=0" in done.stderr
        assert stack.predict()[0] == 200
    stack.make("up", "GPU=0")
    assert set(stack.states().values()) == {"healthy", "exited 0"}


def test_minio_takes_over_from_seaweedfs(stack):
    before, champion, answer = stack.artifacts(), stack.version("champion"), stack.predict()[1]
    stack.make("up", "S3=minio")
    assert stack.artifacts() == []
    stack.make("restore", "FILE=var/backup.tar")
    assert (stack.artifacts(), stack.version("champion")) == (before, champion)
    wait_until(lambda: stack.predict() == (200, answer), 60, "the same answer as before")
    test_nothing_runs_as_root(stack)
    test_databases_and_store_refuse_strangers_inside_too(stack)
    test_only_the_loopback_listens(stack)


def test_pipeline_and_promotion_on_minio(stack):
    before = stack.artifacts()
    stack.exec("jupyter", "lending-club", "run", "--trials", "5")
    version = stack.version("candidate")
    assert version == stack.versions()[-1]
    added = set(stack.artifacts()) - set(before)
    print(len(added), "more artifacts in the bucket")
    assert [name for name in added if name.endswith("extra_files/model.onnx")]
    stack.exec("jupyter", "lending-club", "promote")
    wait_until(lambda: stack.health().get("current_version") == version, 60, "the new champion")
    status, answer = stack.predict()
    assert status == 200 and answer["model_version"] == version


def test_minio_comes_back_with_everything(stack):
    before = stack.artifacts()
    with stack.asked() as statuses:
        stack.compose("kill", "s3")
        time.sleep(3)
        stack.compose("start", "s3")
        stack.wait_healthy()
    assert set(statuses) == {200}
    assert stack.artifacts() == before
    stack.make("down")
    stack.make("up")
    assert stack.artifacts() == before


def test_a_backup_of_minio_goes_back_to_seaweedfs(stack):
    before, champion, answer = stack.artifacts(), stack.version("champion"), stack.predict()[1]
    stack.make("backup", "FILE=var/minio.tar")
    stack.make("up", "S3=seaweedfs")
    assert stack.artifacts() != before  # what SeaweedFS had when it was left
    stack.make("restore", "FILE=var/minio.tar")
    assert (stack.artifacts(), stack.version("champion")) == (before, champion)
    wait_until(lambda: stack.predict() == (200, answer), 60, "the same answer as before")
