"""The stack's files, checked without an engine: what is published, who holds which secret, who runs as whom."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import REPO, clean_environment, skip_without

DOCKERFILES = sorted((REPO / "service").glob("*.Dockerfile"))
GPU, MINIO = "service/docker-compose.gpu.yml", "service/docker-compose.minio.yml"
SECRET = re.compile(r"_(PASSWORD|SECRET|TOKEN|KEY)$")


def example() -> dict[str, str]:
    lines = (REPO / ".env.example").read_text().split("\n")
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def secrets_of_example() -> set[str]:
    return {name for name in example() if SECRET.search(name)}


def outside_environment(**extra) -> dict:
    "No variable of the shell may take the place of one of .env."
    return {k: v for k, v in clean_environment().items() if k not in example() and not k.startswith("COMPOSE_")} | extra


def tool(name: str) -> str:
    "A command beside this Python, or on the path."
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        there = sys.platform == "linux" and platform.machine() == "x86_64"
        assert not there, f"{name} is not installed, though it is part of the dev extra here: pip install -e '.[dev]'"
        skip_without("compose", f"{name} is not installed; the dev extra has it on Linux x86-64 only")
    return found


@pytest.fixture
def stack(tmp_path) -> Path:
    "A folder with the stack's files and an .env, as `make up` writes it; owned by an ordinary user."
    folder = tmp_path / "stack"
    (folder / "service").mkdir(parents=True)
    for name in ("docker-compose.yml", ".env.example"):
        shutil.copy(REPO / name, folder)
    for path in (REPO / "service").glob("*.*"):
        if path.is_file():
            shutil.copy(path, folder / "service")
    if os.geteuid() == 0:
        os.chown(folder, 1000, 1000)
    subprocess.run([folder / "service" / "stack.sh", "env"], env=outside_environment(), check=True, capture_output=True)
    return folder


def compose(folder: Path, *words, overrides=()) -> subprocess.CompletedProcess:
    files = [word for name in ("docker-compose.yml", *overrides) for word in ("-f", name)]
    command = [tool("docker-compose"), *files, *words]
    return subprocess.run(command, cwd=folder, env=outside_environment(), capture_output=True, text=True, timeout=60)


def services(folder: Path, *overrides) -> dict:
    done = compose(folder, "config", overrides=overrides)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["services"]


@pytest.mark.parametrize("overrides", [(), (GPU,), (MINIO,), (GPU, MINIO)], ids=["plain", "gpu", "minio", "both"])
def test_compose_file_is_valid(stack, overrides):
    done = compose(stack, "config", "--quiet", overrides=overrides)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_secrets_compose_names_the_command_to_run(stack):
    (stack / ".env").unlink()
    done = compose(stack, "config", "--quiet")
    assert done.returncode != 0
    assert "make up" in done.stderr
    shutil.copy(stack / ".env.example", stack / ".env")  # the example as it is has no secret either
    done = compose(stack, "config", "--quiet")
    assert done.returncode != 0 and "make up" in done.stderr


@pytest.mark.parametrize("missing", sorted(secrets_of_example() - {"WEBHOOK_SECRET"}))
def test_no_secret_has_a_default(stack, missing):
    text = re.sub(f"^{missing}=.*$", f"{missing}=", (stack / ".env").read_text(), flags=re.M)
    (stack / ".env").write_text(text)
    done = compose(stack, "config", "--quiet")
    assert done.returncode != 0 and missing in done.stderr and "make up" in done.stderr


def test_only_the_loopback_is_published(stack):
    for overrides in ((), (MINIO,)):
        for name, service in services(stack, *overrides).items():
            assert service.get("network_mode") is None, name
            assert list(service["networks"]) == ["private"], name
            for port in service.get("ports", ()):
                assert port["host_ip"] == "127.0.0.1", (name, port)
    published = {name: [int(p["published"]) for p in s.get("ports", ())] for name, s in services(stack).items()}
    # SeaweedFS' own pages ask for no login, so they are not published; MinIO's console does
    expected = {"postgres": [], "s3": [], "bucket": [], "mlflow": [5000], "jupyter": [8888], "api": [8000]}
    assert published == expected
    assert [int(port["published"]) for port in services(stack, MINIO)["s3"]["ports"]] == [9090]


def test_each_service_is_restarted_checked_and_waited_for(stack):
    known = services(stack)
    for name, service in known.items():
        one_shot = name == "bucket"
        assert service["restart"] == ("no" if one_shot else "unless-stopped"), name
        assert ("healthcheck" in service) != one_shot, name
        for other, condition in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other == "bucket" else "service_healthy"
            assert condition["condition"] == wanted, (name, other)
    assert {name: sorted(s.get("depends_on", ())) for name, s in known.items()} == {
        "postgres": [],
        "s3": [],
        "bucket": ["s3"],
        "mlflow": ["bucket", "postgres"],
        "jupyter": ["mlflow"],
        "api": ["mlflow"],
    }


def test_nothing_runs_as_root_or_with_privileges(stack):
    known = services(stack)
    assert known["postgres"]["user"] == "postgres"
    assert known["jupyter"]["user"] not in ("0:0", "root")
    for name, service in known.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged") and not service.get("cap_add"), name
        assert "docker.sock" not in str(service.get("volumes")), name
    for path in DOCKERFILES:
        last = re.findall(r"^USER (.+)$", path.read_text(), re.M)[-1]
        assert last in ("1000:1000", "${HOST_UID}:${HOST_GID}"), path.name


HOLDERS = {
    "postgres": {"POSTGRES_PASSWORD", "MLFLOW_DB_PASSWORD", "MLFLOW_AUTH_DB_PASSWORD", "OPTUNA_DB_PASSWORD"},
    "s3": {"S3_ACCESS_KEY", "S3_SECRET_KEY"},
    "bucket": {"S3_ACCESS_KEY", "S3_SECRET_KEY"},
    "mlflow": {
        "S3_ACCESS_KEY",
        "S3_SECRET_KEY",
        "MLFLOW_DB_PASSWORD",
        "MLFLOW_AUTH_DB_PASSWORD",
        "MLFLOW_ADMIN_PASSWORD",
        "MLFLOW_PIPELINE_PASSWORD",
        "MLFLOW_API_PASSWORD",
        "MLFLOW_FLASK_SECRET",
        "MLFLOW_WEBHOOK_FERNET_KEY",
        "WEBHOOK_SECRET",
    },
    "jupyter": {"JUPYTER_TOKEN", "MLFLOW_PIPELINE_PASSWORD", "OPTUNA_DB_PASSWORD"},
    "api": {"MLFLOW_API_PASSWORD", "WEBHOOK_SECRET"},
}


@pytest.mark.parametrize("overrides", [(), (MINIO,)], ids=["seaweedfs", "minio"])
def test_each_service_holds_its_own_secrets_only(stack, overrides):
    values = dict(line.split("=", 1) for line in (stack / ".env").read_text().split("\n") if "=" in line and line[0] != "#")
    secrets = {values[name]: name for name in secrets_of_example() if values[name]}
    known = services(stack, *overrides)
    held = {name: {secrets[v] for v in s["environment"].values() if v in secrets} for name, s in known.items()}
    assert held == HOLDERS
    for name, service in known.items():
        rest = str({key: value for key, value in service.items() if key != "environment"})
        assert not [secret for value, secret in secrets.items() if value in rest], f"{name}: a secret in a command or build"
    hidden = [v for v in known["jupyter"]["volumes"] if v["target"] == "/project/.env"]
    assert hidden and hidden[0]["source"] == "/dev/null"


def test_example_has_every_variable_and_no_secret():
    text = "".join((REPO / name).read_text() for name in ("docker-compose.yml", GPU, MINIO))
    used = set(re.findall(r"\$\{(\w+)", text)) - {"COMPOSE_PROJECT_NAME"}
    assert set(example()) == used | {"COMPOSE_FILE", "COMPOSE_PATH_SEPARATOR"}
    assert {name: example()[name] for name in secrets_of_example()} == dict.fromkeys(secrets_of_example(), "")
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", text):
        assert example()[name] == default, f"{name}: docker-compose.yml has another default"


def test_secrets_are_random_private_and_kept(stack):
    path = stack / ".env"
    first = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    values = dict(line.split("=", 1) for line in first.split("\n") if "=" in line and not line.startswith("#"))
    made = [values[name] for name in secrets_of_example()]
    assert len(set(made)) == len(made) and min(map(len, made)) >= 40
    assert values["HOST_UID"] not in ("", "0")
    again = {"env": outside_environment(), "check": True, "capture_output": True}
    subprocess.run([stack / "service" / "stack.sh", "env"], **again)
    assert path.read_text() == first
    without_token = first.replace(f"JUPYTER_TOKEN={values['JUPYTER_TOKEN']}\n", "")
    path.write_text(without_token.replace("POLL_INTERVAL=60", "POLL_INTERVAL=5"))
    subprocess.run([stack / "service" / "stack.sh", "env"], **again)  # as after an upgrade that brings a new variable
    assert re.search(r"^JUPYTER_TOKEN=[0-9a-f]{48}$", path.read_text(), re.M)
    assert "POLL_INTERVAL=5\n" in path.read_text()
    path.unlink()
    subprocess.run([stack / "service" / "stack.sh", "env"], **again)
    assert not [value for value in made if value in path.read_text()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be refused for being root")
def test_root_s_own_repository_is_refused(stack):
    (stack / ".env").unlink()
    os.chown(stack, 0, 0)
    command = [stack / "service" / "stack.sh", "env"]
    done = subprocess.run(command, env=outside_environment(), capture_output=True, text=True)
    assert done.returncode == 1 and "HOST_UID" in done.stderr


def test_secrets_reach_neither_git_nor_a_builder():
    ignored = [*(REPO / ".gitignore").read_text().split("\n")]
    assert ".env" in ignored and "var/" in ignored
    rules = [line for line in (REPO / ".dockerignore").read_text().split("\n") if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert let_in == {"constraints.txt", "pyproject.toml", "settings.ini", "lending_club", "service"}
    for path in DOCKERFILES:
        names = re.findall(r"^(?:ARG|ENV) (\w+)", path.read_text(), re.M)
        assert not [name for name in names if SECRET.search(name)], path.name


def test_images_are_pinned():
    defaults = example()
    images = [defaults[name] for name in ("PYTHON_IMAGE", "POSTGRES_IMAGE", "S3_IMAGE", "MINIO_IMAGE")]
    for image in images:
        assert re.search(r":[\w.-]*\d", image) and not image.endswith(":latest"), image
    for path in DOCKERFILES:
        base = re.search(r"^ARG (\w+_IMAGE)=(.+)$", path.read_text(), re.M)
        assert defaults[base[1]] == base[2], path.name


GROUPS = {"serve": "api.Dockerfile", "mlflow-server": "mlflow.Dockerfile"}  # of pyproject.toml, to what installs them


@pytest.mark.parametrize(("group", "dockerfile"), GROUPS.items())
def test_images_install_pinned_versions_before_the_code(group, dockerfile):
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (REPO / "constraints.txt").read_text().split("\n")}
    groups = tomllib.loads((REPO / "pyproject.toml").read_text())["dependency-groups"]
    wanted = {re.sub(r"\[.*", "", line).lower() for line in groups[group]}
    assert wanted | {"pip"} <= pinned  # the image installs the pinned pip first: that of its base may know no groups
    text = (REPO / "service" / dockerfile).read_text()
    installed = text.index(f"--group {group}")
    assert "-c constraints.txt" in text[:installed].split("RUN")[-1]
    for code in ("lending_club lending_club", "settings.ini", "service/app.py", "service/mlflow_server.py"):
        assert f"COPY {code}" not in text[:installed], f"{dockerfile}: a change of the code would install everything anew"


def test_jupyterlab_installs_the_extra_of_the_notebooks_and_no_code():
    text = (REPO / "service" / "jupyter.Dockerfile").read_text()
    installed = text.index("-e '.[notebooks]'")
    assert "-c constraints.txt" in text[:installed].split("RUN")[-1]
    copied = re.findall(r"^COPY (.+)$", text[:installed], re.M)
    assert copied == ["constraints.txt ./", "pyproject.toml ./", "lending_club/__init__.py lending_club/"]


def test_the_service_installs_no_framework():
    service = tomllib.loads((REPO / "pyproject.toml").read_text())["dependency-groups"]["serve"]
    assert not {"torch", "pandas", "scikit-learn", "skorch", "mlflow"} & set(service)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path):
    done = subprocess.run([tool("hadolint"), "--no-color", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "", done.stdout


@pytest.mark.parametrize("name", ["stack.sh", "postgres-init.sh"])
def test_scripts_are_posix_shell(name):
    path = REPO / "service" / name
    assert os.access(path, os.X_OK)
    subprocess.run(["sh", "-n", path], check=True)


def test_overrides_are_chosen_by_make_and_remembered(stack, tmp_path):
    "With a `docker` that only notes how it is called."
    calls = tmp_path / "bin" / "docker"
    calls.parent.mkdir()
    calls.write_text("#!/bin/sh\nexit 0\n")
    calls.chmod(0o755)

    def up(**choice):
        environment = outside_environment(PATH=f"{calls.parent}:{os.environ['PATH']}", **choice)
        subprocess.run([stack / "service" / "stack.sh", "up"], env=environment, check=True, capture_output=True)
        return re.search("^COMPOSE_FILE=(.*)$", (stack / ".env").read_text(), re.M)[1].split(":")

    assert up() == ["docker-compose.yml"]
    assert up(GPU="1") == ["docker-compose.yml", GPU]
    assert up(S3="minio") == ["docker-compose.yml", GPU, MINIO]
    assert set(up()) == set(up(GPU="1")) == {"docker-compose.yml", GPU, MINIO}
    assert up(GPU="0", S3="seaweedfs") == ["docker-compose.yml"]


OLD_SEAWEEDFS = "service/docker-compose.seaweedfs.yml"


@pytest.mark.parametrize(
    ("before", "after"),
    [("docker-compose.yml", f"docker-compose.yml:{MINIO}"), (f"docker-compose.yml:{OLD_SEAWEEDFS}", "docker-compose.yml")],
    ids=["minio", "seaweedfs"],
)
def test_a_stack_of_an_earlier_release_stays_on_its_store(stack, before, after):
    path = stack / ".env"
    old = {"COMPOSE_FILE": before, "S3_IMAGE": "my/minio:1", "SEAWEEDFS_IMAGE": "my/seaweedfs:2", "MINIO_IMAGE": None}
    kept = [line for line in path.read_text().split("\n") if line.partition("=")[0] not in old]
    path.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in old.items() if value), ""]))
    for _ in range(2):
        done = subprocess.run(
            [stack / "service" / "stack.sh", "env"], env=outside_environment(), check=True, capture_output=True, text=True
        )
        values = dict(line.split("=", 1) for line in path.read_text().split("\n") if "=" in line and line[0] != "#")
        assert (values["COMPOSE_FILE"], values["S3_IMAGE"], values["MINIO_IMAGE"]) == (after, "my/seaweedfs:2", "my/minio:1")
        assert "SEAWEEDFS_IMAGE" not in values and values["S3_SECRET_KEY"]
    assert done.stderr == ""  # said once
