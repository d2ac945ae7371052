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
import zipfile
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import nbformat
import pytest
from conftest import PARTS, REPO, clean_environment, skip_without

from lending_club.core.schema import EXAMPLE_APPLICATION
from lending_club.core.settings import Settings, read_setting
from lending_club.core.sources import modules_behind

PACKAGE = REPO / "lending_club"
NOTEBOOKS = sorted(p for p in (REPO / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.name not in ("__init__.py", "_modidx.py"))
STAGES = ("explore", "clean", "features", "hpo", "train", "promote", "serve")  # in the order of their notebooks' numbers
HEAVY = ("pandas", "sklearn", "skorch", "torch", "scipy", "mlflow", "matplotlib", "optuna", "pyarrow", "plotly")


def dotted(path: Path) -> str:
    "A module's name below the package."
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def normalized(requirement: str) -> str:
    "A distribution's name out of a line such as `Some_Name[extra]>=3`."
    return re.split(r"[\[>=<;! ]", requirement)[0].strip().lower().replace("_", "-")


def load_script(path: Path):
    "A Python file that is in no package, as a module."
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def structure():
    return load_script(REPO / "benchmarks" / "structure.py")


@pytest.fixture(scope="module")
def graph(structure) -> dict[str, set[str]]:
    "Module to the package's modules that it imports itself, lazily too."
    return structure.import_graph(REPO)


def test_readme_and_docs_are_made_from_their_notebooks():
    make_readme = load_script(REPO / "nbs" / "make_readme.py")
    pages = make_readme.pages()
    assert REPO / "README.md" in pages.values() and len(pages) >= 4
    for notebook, page in pages.items():
        assert page.read_text() == make_readme.render(notebook), f"{page.name}: run `make readme`"


def test_the_readme_is_short():
    assert len((REPO / "README.md").read_text().split()) <= 1800


PAGES = [REPO / "README.md", *sorted(REPO.glob("[A-Z]*.md")), *sorted((REPO / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", dict.fromkeys(PAGES), ids=lambda path: path.stem)
def test_links_lead_somewhere(page):
    for link, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        target = (page.parent / link).resolve() if link else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, anchor


def test_package_is_exported_from_the_notebooks(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("nbs", "lending_club"):
        shutil.copytree(REPO / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPO / name, copy)
    code = "from nbdev.doclinks import nbdev_export; nbdev_export()"
    subprocess.run([sys.executable, "-c", code], cwd=copy, env=clean_environment(), check=True, capture_output=True)
    exported = {p.relative_to(copy): p.read_text() for p in sorted((copy / "lending_club").rglob("*.py"))}
    here = {p.relative_to(REPO): p.read_text() for p in sorted(PACKAGE.rglob("*.py"))}
    assert sorted(exported) == sorted(here)
    different = [str(name) for name, text in here.items() if exported[name] != text]
    assert not different, f"{different}: run `make export`"


def test_one_module_one_notebook():
    exported = {}
    for notebook in NOTEBOOKS:
        names = re.findall(r"#\| default_exp ([\w.]+)", notebook.read_text())
        place = notebook.relative_to(REPO / "nbs").with_suffix("")
        # nbs/core/files.ipynb is core.files, nbs/01_clean.ipynb is clean
        assert names in ([".".join([*place.parts[:-1], re.sub(r"^\d\d_", "", place.name)])], []), notebook
        exported |= dict.fromkeys(names, notebook)
    assert set(exported) == {dotted(path) for path in FILES}
    assert [p.stem for p in NOTEBOOKS if p.parent == REPO / "nbs"] == [
        *(f"{number:02}_{stage}" for number, stage in enumerate(STAGES)),
        "cli",
        "index",
    ]


def test_no_module_imports_itself_through_others(graph, structure):
    assert structure.circles(graph) == []
    assert structure.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_two_readers_of_the_imports_agree(graph, structure):
    for name in ("clean", "train", "serving.app"):  # the names of caches and studies depend on the package's own reader
        assert modules_behind(name) == structure.closure(graph, name)


def test_imports_point_down(graph):
    for name, imported in graph.items():
        room = name.partition(".")[0]
        rooms = {other.partition(".")[0] for other in imported}
        if room == "core":
            allowed = {"core"}
        elif room == "serving":
            allowed = {"core", "serving"}
        elif room == "cli":
            allowed = {"core", "serving", *STAGES}
        else:
            allowed = {"core", *STAGES[: STAGES.index(room)]} | ({"serving"} if room == "serve" else set())
        assert rooms <= allowed, f"{name} imports {sorted(rooms - allowed)}"


def test_modules_are_short():
    lengths = {dotted(path): len(path.read_text().splitlines()) for path in FILES}
    assert not {name: length for name, length in lengths.items() if length > 460}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: str(p.relative_to(REPO / "nbs")))
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


@pytest.mark.parametrize("stage", ("00_explore", "01_clean", "02_features", "03_hpo", "04_train"))
def test_a_stage_shows_its_run_first_and_then_how_it_works(stage):
    cells = nbformat.read(REPO / "nbs" / f"{stage}.ipynb", 4).cells
    tags = [cell.metadata.get("tags", []) for cell in cells]
    heads = [cell.source.split("\n")[0] if cell.cell_type == "markdown" else "" for cell in cells]
    parameters = [number for number, own in enumerate(tags) if "parameters" in own]
    (run,), (how,) = ([n for n, head in enumerate(heads) if head == title] for title in ("## Run", "## How it works"))
    assert parameters[0] < run < how
    assert [n for n, own in enumerate(tags) if "lesson" in own] == list(range(how, len(cells))), "tag the cells below, no others"
    for cell in cells[:how]:
        assert "#| export" not in cell.source, "the run imports the package; what is exported stands below"


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
    stated = tomllib.loads((REPO / "pyproject.toml").read_text())
    extras = stated["project"]["optional-dependencies"]
    groups = stated["dependency-groups"].values()
    wanted = {normalized(line) for part in (stated["project"]["dependencies"], *extras.values(), *groups) for line in part}
    pinned = {normalized(line) for line in (REPO / "constraints.txt").read_text().split("\n")}
    assert wanted - {"lending-club"} <= pinned  # an extra may name another one


@pytest.fixture(scope="module")
def cells() -> dict:
    "The code cells of each notebook, as the benchmark of the notebooks counts them."
    notebooks = load_script(REPO / "benchmarks" / "notebooks.py")
    return {path.stem: notebooks.code_cells(path) for path in sorted((REPO / "nbs").rglob("*.ipynb"))}


def test_exported_cells_are_short(cells):
    exported = {name: [cell.lines for cell in own if cell.kind == "code"] for name, own in cells.items()}
    assert not {name: max(lines) for name, lines in exported.items() if max(lines, default=0) > 40}


def test_code_has_visible_lessons(cells):
    kinds = {name: [cell.kind for cell in own] for name, own in cells.items()}
    few = {name for name, own in kinds.items() if own.count("code") > own.count("lesson")}
    assert not few, f"fewer lessons than exported cells: {sorted(few)}"
    hidden = {name for name, own in kinds.items() if own.count("hidden") > 2}
    assert not hidden, f"hide only what is glue: {sorted(hidden)}"


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_public_functions_say_what_they_do(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list):
                continue  # a signature of the function that follows
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


def test_serving_modules_import_no_heavy_library():
    names = sorted(f"lending_club.{dotted(path)}" for path in FILES if dotted(path).startswith("serving."))
    assert len(names) >= 6
    code = f"import importlib, sys; [importlib.import_module(n) for n in {names}]; print(sorted({{*{HEAVY}}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_modules_that_serving_imports_name_no_heavy_library_at_the_top(structure):
    at_top = structure.import_graph(REPO, lazy=False)
    modules = structure.package_modules(REPO)
    served = structure.closure(at_top, *(name for name in modules if name.startswith("serving.")))
    assert "core.compiled" in served
    for name in served:
        libraries = {full.partition(".")[0] for full in structure.imported_names(modules[name], REPO, lazy=False)}
        assert not libraries & {*HEAVY}, name


def test_the_image_of_the_service_has_what_the_service_imports(structure):
    at_top = structure.import_graph(REPO, lazy=False)
    modules = structure.package_modules(REPO)
    served = structure.closure(at_top, "cli", *(name for name in modules if name.startswith("serving.")))
    named = {full.partition(".")[0] for name in served for full in structure.imported_names(modules[name], REPO, lazy=False)}
    libraries = named - {"lending_club"} - sys.stdlib_module_names
    assert {"numpy", "fastapi"} <= libraries
    image = set(tomllib.loads((REPO / "pyproject.toml").read_text())["dependency-groups"]["serve"])
    image |= {normalized(line) for library in ("fastapi", "pydantic") for line in requires(library)}
    found = packages_distributions()
    lacking = {name for name in libraries if not {normalized(distribution) for distribution in found[name]} & image}
    assert not lacking, f"the group serve of pyproject.toml lacks {sorted(lacking)}"


def test_the_wheel_has_every_module_and_the_tables(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(PACKAGE, source / "lending_club", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    # without a download where the environment's own setuptools is new enough for pyproject.toml
    offline = ["--no-build-isolation", "--no-index"] if int(version("setuptools").partition(".")[0]) >= 77 else []
    command = [sys.executable, "-m", "pip", "wheel", source, "--no-deps", *offline, "-w", tmp_path]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {path.relative_to(source).as_posix() for path in (source / "lending_club").rglob("*") if path.is_file()} <= names
    assert "lending_club/core/sample_tables.json" in names


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


def outcome(call, *arguments) -> tuple[str, str]:
    "How a call ends that may skip or fail, and its reason. A skip that got out would skip the test that looks for it."
    try:
        call(*arguments)
    except pytest.skip.Exception as skipped:
        return "skipped", str(skipped)
    except AssertionError as error:
        return "failed", str(error)
    return "went on", ""


@pytest.mark.parametrize("part", PARTS)
def test_what_is_required_is_not_skipped(monkeypatch, part):
    others = " ".join(name for name in PARTS if name != part)
    monkeypatch.delenv("LENDING_CLUB_REQUIRED", raising=False)
    assert outcome(skip_without, part, "it is not here") == ("skipped", "it is not here")
    monkeypatch.setenv("LENDING_CLUB_REQUIRED", others)
    assert outcome(skip_without, part, "it is not here") == ("skipped", "it is not here")
    for required in (part, f"{others}, {part}", ",".join(PARTS)):
        monkeypatch.setenv("LENDING_CLUB_REQUIRED", required)
        how, reason = outcome(skip_without, part, "it is not here")
        assert how == "failed" and f"it is not here, though LENDING_CLUB_REQUIRED names {part}" in reason, required


def test_a_name_that_requires_nothing_is_refused(monkeypatch):
    monkeypatch.setenv("LENDING_CLUB_REQUIRED", "postgress")  # nothing may be skipped for it
    how, reason = outcome(skip_without, "loans", "no loans")
    assert how == "failed" and "['postgress'] in LENDING_CLUB_REQUIRED: name only loans, postgres" in reason
    monkeypatch.delenv("LENDING_CLUB_REQUIRED")
    how, reason = outcome(skip_without, "engin", "no engine")  # a part that no one could require
    assert how == "failed" and "engin in LENDING_CLUB_REQUIRED: name only" in reason


@pytest.mark.parametrize("machine", ["x86_64", "arm64"])
def test_a_tool_of_the_stack_that_is_missing_is_skipped_only_where_it_cannot_be(monkeypatch, machine):
    import test_compose

    monkeypatch.setattr(test_compose.sys, "platform", "linux")
    monkeypatch.setattr(test_compose.platform, "machine", lambda: machine)
    monkeypatch.delenv("LENDING_CLUB_REQUIRED", raising=False)
    how, reason = outcome(test_compose.tool, "no-such-tool")
    assert how == ("failed" if machine == "x86_64" else "skipped") and "no-such-tool is not installed" in reason
    monkeypatch.setenv("LENDING_CLUB_REQUIRED", "compose")
    how, reason = outcome(test_compose.tool, "no-such-tool")
    assert how == "failed" and "no-such-tool is not installed" in reason
