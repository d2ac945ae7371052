"""The package as a user installs it: source archive and wheel, built, installed in an environment of their own, and run."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest
from conftest import REPO, clean_environment, copy_repository, make_project

pytestmark = pytest.mark.slow

SETTINGS = "sample_rows = 5000\nepochs = 3\nbacktest_as_of = off\n"


def run(*words, cwd: Path, timeout: float = 900, **environment) -> str:
    "Run a command without this repository on Python's path; returns what it said."
    outside = {name: value for name, value in clean_environment().items() if name != "PYTHONPATH"} | environment
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=outside, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[Path, Path]:
    "Source archive and wheel, the wheel built from the archive, from the files that git knows."
    folder = tmp_path_factory.mktemp("package")
    source = copy_repository(folder / "source")
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", source, cwd=folder)
    (archive,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return archive, wheel


@pytest.fixture(scope="module")
def python(archives, tmp_path_factory) -> Path:
    "Python of an environment that has the wheel and what it asks for, in the pinned versions, and nothing else."
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    constraints = REPO / "constraints.txt"
    torch = next(line for line in constraints.read_text().split("\n") if line.startswith("torch=="))
    run(python, "-m", "pip", "install", "--quiet", torch, cwd=folder, timeout=1800)
    run(python, "-m", "pip", "install", "--quiet", "-c", constraints, archives[1], cwd=folder, timeout=1800)
    return python


def test_archives_have_code_and_tables_and_nothing_of_a_run(archives):
    archive, wheel = archives
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    for name in ("lending_club/py.typed", "lending_club/core/sample_tables.json", "lending_club/serving/app.py"):
        assert name in in_wheel
    with tarfile.open(archive) as packed:
        in_archive = {name.partition("/")[2] for name in packed.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "lending_club/cli.py"} <= in_archive
    assert not [name for name in in_wheel | in_archive if name.startswith(("var/", ".venv/", "tests/", "nbs/"))]


def test_one_version_everywhere(python, archives, tmp_path):
    code = "import lending_club, importlib.metadata as m; print(lending_club.__version__, m.version('lending-club'))"
    imported, installed = run(python, "-c", code, cwd=tmp_path).split()
    assert imported == installed
    assert all(f"-{imported}" in path.name for path in archives)


def test_dependencies_agree(python, tmp_path):
    assert run(python, "-m", "pip", "check", cwd=tmp_path).strip() == "No broken requirements found."


def home_of(python: Path, folder: Path) -> dict[str, str]:
    "A home without settings of Jupyter, and this Python first on the path."
    return {"HOME": str(folder), "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}


def test_the_wheel_runs_the_pipeline_and_promotes(python, tmp_path):
    project = make_project(tmp_path / "project", SETTINGS)
    command = python.with_name("lending-club")
    home = home_of(python, tmp_path)
    run(command, "run", cwd=project, **home)
    assert "champion" in run(command, "promote", cwd=project, **home)
    code = (
        "import json, lending_club; from lending_club.core.settings import load_settings; "
        "from lending_club.core.registry import connect, version_by_alias; s = load_settings(); "
        "print(lending_club.__file__); print(version_by_alias(s, connect(s), s.champion_alias).version)"
    )
    where, version = run(python, "-c", code, cwd=project, **home).split()
    assert Path(where).is_relative_to(python.parent.parent) and version == "1"


def test_a_stage_runs_under_papermill_with_its_lessons(python, tmp_path):
    project = make_project(tmp_path / "project", SETTINGS)
    run(python.with_name("papermill"), "nbs/02_features.ipynb", "out.ipynb", cwd=project, **home_of(python, tmp_path))
    cells = [cell for cell in nbformat.read(project / "out.ipynb", 4).cells if cell.cell_type == "code"]
    lessons = [cell for cell in cells if "lesson" in cell.metadata.get("tags", [])]
    assert len(lessons) >= 5 and all(cell.execution_count for cell in cells if not cell.source.startswith("#| default_exp"))
