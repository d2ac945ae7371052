"""CONTRIBUTING's recipes, followed word by word in a copy of the repository: each change ends in the running service."""

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import nbformat
import pytest
from conftest import REPO, answers, change_settings, clean_environment, copy_repository, free_port, process, wait_until

GUIDE = (REPO / "CONTRIBUTING.md").read_text()


def blocks(language: str) -> list[str]:
    "The fenced blocks of the guide in this language, without the list's indent."
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", GUIDE, re.M | re.S)
    return [re.sub(rf"^{indent}", "", text, flags=re.M) for indent, text in found]


def changes() -> list[tuple[str, str, str]]:
    "File, text before and text after, of every part of every diff."
    found = []
    for block in blocks("diff"):
        first, _, rest = block.partition("\n")
        for part in rest.split("@@\n"):
            lines = part.rstrip("\n").split("\n")
            before, after = ([line[1:] for line in lines if line[:1] in kinds] for kinds in (" -", " +"))
            found.append((first.removeprefix("--- "), "\n".join(before), "\n".join(after)))
    return found


def replace(source: str, before: str, after: str) -> str:
    at = f"\n{source}\n".find(f"\n{before}\n")
    return source[:at] + after + source[at + len(before) :] if at >= 0 else source


def apply(root: Path, name: str, before: str, after: str):
    "Change the one cell, or the file, that has these lines."
    path = root / name
    if path.suffix != ".ipynb":
        text = path.read_text()
        assert (changed := replace(text, before, after)) != text, f"{name} lacks {before!r}"
        path.write_text(changed)
        return
    notebook = nbformat.read(path, 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and f"\n{before}\n" in f"\n{cell.source}\n"]
    assert len(cells) == 1, f"{name}: {len(cells)} cells have {before!r}"
    cells[0].source = replace(cells[0].source, before, after)
    nbformat.write(notebook, path)


def test_the_guide_has_four_recipes_whose_lines_are_there(tmp_path):
    recipes = re.findall(r"^## Add an? (\w+)$", GUIDE, re.M)
    assert recipes == ["feature", "metric", "model", "setting"]
    for name, _, _ in changes():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, tmp_path / name)
    for change in changes():
        apply(tmp_path, *change)


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    "A copy of the repository with every recipe's change, exported."
    root = copy_repository(tmp_path_factory.mktemp("contributing") / "lending-club")
    for change in changes():
        apply(root, *change)
    run(root, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()")
    change_settings(root, sample_rows=5000, epochs=3, backtest_as_of="off", poll_interval=0.3)
    return root


def run(root: Path, *words, **environment) -> str:
    "Python on the copy's package."
    done = subprocess.run(
        [sys.executable, *words],
        cwd=root,
        env=clean_environment(PYTHONPATH=str(root), **environment),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


COMMAND = ("-c", "import sys; from lending_club.cli import main; sys.exit(main())")


@pytest.mark.slow
def test_lessons_say_what_the_guide_says(changed):
    feature, metric = blocks("python")
    imports = "from lending_club.core.features import *\nfrom lending_club.core.applications import RawColumns\n"
    assert run(changed, "-c", f"{imports}print({feature.strip()})").strip() == "[[0.25]]"
    assert float(run(changed, "-c", f"from lending_club.core.metrics import *\nprint({metric.strip()})")) == 0


@pytest.mark.slow
def test_the_changed_notebooks_still_hold(changed):
    for name in sorted({name for name, _, _ in changes() if name.endswith(".ipynb")}):
        run(changed, "-c", f"from nbdev.test import nbdev_test; nbdev_test({name!r}, n_workers=0)")


@pytest.mark.slow
def test_each_change_ends_in_the_service(changed, tmp_path):
    run(changed, *COMMAND, "run", "--network", "linear")
    run(changed, *COMMAND, "promote")
    code = (
        "import json; from lending_club.core.settings import load_settings; "
        "from lending_club.core.registry import connect, version_by_alias; s = load_settings(); c = connect(s); "
        "v = version_by_alias(s, c, s.champion_alias); print(json.dumps(sorted(c.get_run(v.run_id).data.metrics)))"
    )
    assert "test_brier_skill" in json.loads(run(changed, "-c", code))
    (tables,) = changed.glob("var/**/extra_files/encoder.json")
    assert "inquiries_to_open_acc" in tables.read_text()
    assert json.loads(tables.with_name("card.json").read_text())["network"]["kind"] == "linear"
    url = f"http://127.0.0.1:{(port := free_port())}"
    served = (sys.executable, *COMMAND, "serve", "--port", port)
    own = {"PYTHONPATH": str(changed), "CONTACT": "Credit Risk, floor 3"}
    with process(*served, cwd=changed, log=tmp_path / "serve.log", **own):
        wait_until(lambda: answers(f"{url}/ready"), what="the champion")
        request = urllib.request.Request(f"{url}/predict", data=(REPO / "service" / "loan.json").read_bytes())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as response:
            assert 0 < json.load(response)["probability_of_default"] < 1
        with urllib.request.urlopen(f"{url}/openapi.json", timeout=30) as response:
            assert json.load(response)["info"]["contact"] == {"name": "Credit Risk, floor 3"}
