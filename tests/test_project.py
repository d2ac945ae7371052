"""The repository itself: what is generated agrees with what it is generated from."""

import ast
import configparser
import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib

import nbformat
import pytest
from conftest import REPO, clean_environment, skip_without

from lending_club.core.schema import EXAMPLE_APPLICATION
from lending_club.core.settings import Settings, read_setting

NOTEBOOKS = sorted(p for p in (REPO / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def test_readme_is_made_from_the_index():
    spec = importlib.util.spec_from_file_location("make_readme", REPO / "nbs" / "make_readme.py")
    make_readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_readme)
    assert (REPO / "README.md").read_text() == make_readme.render(), "run `make readme`"


def test_package_is_exported_from_the_notebooks(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("nbs", "lending_club"):
        shutil.copytree(REPO / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPO / name, copy)
    code = "from nbdev.doclinks import nbdev_export; nbdev_export()"
    subprocess.run([sys.executable, "-c", code], cwd=copy, env=clean_environment(), check=True, capture_output=True)
    for module in sorted((REPO / "lending_club").glob("*.py")):
        assert (copy / "lending_club" / module.name).read_text() == module.read_text(), f"{module.name}: run `make export`"


def test_one_module_one_notebook():
    exported = [m for p in NOTEBOOKS for m in re.findall(r"#\| default_exp (\w+)", p.read_text())]
    assert len(exported) == len(set(exported))
    modules = {p.stem for p in (REPO / "lending_club").glob("*.py")} - {"__init__", "_modidx"}
    assert set(exported) == modules


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_opens_with_title_and_description(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    first = "".join(cells[0]["source"])
    assert re.match(r"# .+\n\n> .+", first), first
    text = notebook.read_text()
    assert str(REPO) not in text and "/tmp/" not in text, "an output shows a path of the machine that it was made on"


def test_stages_have_a_parameters_cell():
    for stage in ("00_explore", "01_clean", "02_features", "03_hpo", "04_train"):
        cells = json.loads((REPO / "nbs" / f"{stage}.ipynb").read_text())["cells"]
        assert sum("parameters" in c["metadata"].get("tags", []) for c in cells) == 1, stage


def test_settings_file_has_every_setting_with_its_default_but_no_secret():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(REPO / "settings.ini")
    written = {k: read_setting(k, v, "settings.ini") for k, v in parser["lending_club"].items()}
    secrets = {f.name for f in dataclasses.fields(Settings) if not f.repr}
    assert secrets == {"api_keys", "webhook_secret"}
    assert written == {f.name: f.default for f in dataclasses.fields(Settings) if f.name not in {"root"} | secrets}
    assert "not nbdev's" in (REPO / "settings.ini").read_text().split("\n")[0]


def test_the_request_that_the_readme_sends_is_the_example():
    assert json.loads((REPO / "service" / "loan.json").read_text()) == EXAMPLE_APPLICATION


def test_every_dependency_is_pinned():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (REPO / "constraints.txt").read_text().split("\n")}
    assert {re.split(r"[\[>=<]", name)[0].lower() for name in wanted} <= pinned


@pytest.mark.parametrize("path", sorted((REPO / "lending_club").glob("*.py")), ids=lambda p: p.stem)
def test_public_functions_say_what_they_do(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


def test_serving_modules_import_no_heavy_library():
    code = (
        "import sys, lending_club.api, lending_club.serve, lending_club.registry, lending_club.features, lending_club.schema; "
        "print(sorted({'torch', 'sklearn', 'skorch', 'pandas', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_modules_of_the_service_import_lazily_in_app(project):
    code = (
        f"import sys; sys.path.insert(0, {str(REPO)!r}); import service.app; "
        "print(service.app.app.title, sorted({'torch', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=clean_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "Lending Club default prediction []"


@pytest.mark.parametrize("notebook", sorted((REPO / "nbs").glob("0*.ipynb")), ids=lambda path: path.stem)
def test_a_lesson_does_not_overwrite_a_parameter(notebook):
    cells = [cell for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    names = {target.id for cell in tagged for line in ast.parse(cell.source).body for target in line.targets}
    others = (cell for cell in cells if cell not in tagged and not cell.source.startswith("%"))
    lines = (line for cell in others for line in ast.parse(cell.source).body)
    scopes = (ast.FunctionDef, ast.ClassDef, ast.Lambda)
    written = set()
    for line in lines:
        if not isinstance(line, scopes):
            written |= {n.id for n in ast.walk(line) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    assert not names & written, f"the run would get another value than it was given: {names & written}"


def test_what_is_required_is_not_skipped(monkeypatch):
    monkeypatch.setenv("LENDING_CLUB_REQUIRED", "postgres, engine")
    with pytest.raises(AssertionError, match="no engine, though LENDING_CLUB_REQUIRED names engine"):
        skip_without("engine", "no engine")
    with pytest.raises(pytest.skip.Exception, match="no loans"):
        skip_without("loans", "no loans")
    monkeypatch.setenv("LENDING_CLUB_REQUIRED", "postgress")  # requires nothing, so nothing may be skipped for it
    with pytest.raises(AssertionError, match=r"\['postgress'\] in LENDING_CLUB_REQUIRED: name only loans, postgres"):
        skip_without("loans", "no loans")


@pytest.mark.parametrize("machine", ["x86_64", "arm64"])
def test_a_tool_of_the_stack_that_is_missing_is_skipped_only_where_it_cannot_be(monkeypatch, machine):
    import test_compose

    monkeypatch.setattr(test_compose.sys, "platform", "linux")
    monkeypatch.setattr(test_compose.platform, "machine", lambda: machine)
    expected = AssertionError if machine == "x86_64" else pytest.skip.Exception
    with pytest.raises(expected, match="no-such-tool is not installed"):
        test_compose.tool("no-such-tool")
    monkeypatch.setenv("LENDING_CLUB_REQUIRED", "compose")
    with pytest.raises(AssertionError, match="no-such-tool is not installed"):
        test_compose.tool("no-such-tool")
