"""A fitted Pipeline is never lost: what fails after the fit is continued without a second one."""

import re
import signal
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import COMMAND, lending_club, make_project, process, wait_until

from lending_club.core import hazard_calibration
from lending_club.core.graph import ExportError
from lending_club.core.kept import KeptError, how_to_continue, unfinished_run
from lending_club.core.pipeline import STAGES, StageError, run_stage
from lending_club.core.registry import connect, version_by_alias
from lending_club.core.settings import load_settings
from lending_club.core.tracking import find_run
from lending_club.train import register_run, train


def refuse(*_):
    raise ExportError("PyTorch cannot write the network as an ONNX graph (for this test)")


@pytest.mark.slow
def test_a_refused_export_leaves_the_pipeline_in_the_run(settings, stock, monkeypatch):
    client = connect(settings)
    with monkeypatch.context() as broken:
        broken.setattr(hazard_calibration, "write_graph", refuse)
        with pytest.raises(KeptError, match=r"for this test.*\n.*`lending-club register [0-9a-f]{32}` continues"):
            train(settings)
    run = find_run(settings, client, {"stage": "train"})
    assert run.info.status == "FAILED"
    assert version_by_alias(settings, client, "candidate") is None
    continued = register_run(settings, run.info.run_id)
    assert continued.run_id == run.info.run_id
    assert client.get_run(run.info.run_id).info.status == "FINISHED"
    assert str(version_by_alias(settings, client, "candidate").version) == continued.version

    at_once = stock.first  # a training of these settings that nothing interrupted gave the same
    rows = continued.splits.test.head(200)
    np.testing.assert_array_equal(continued.pipeline.predict_proba(rows), at_once.pipeline.predict_proba(rows))
    assert continued.card["metrics"]["network"] == at_once.card["metrics"]["network"]


@pytest.mark.slow
def test_the_command_continues_a_run(stocked, stock):
    done = lending_club("register", stock.first.run_id, cwd=stocked.root, warm=False)
    assert done.returncode == 0 and "version 3" in done.stdout, (done.stdout, done.stderr)
    done = lending_club("register", "0" * 32, cwd=stocked.root)
    assert done.returncode == 1 and "Traceback" not in done.stderr


# What may happen to a stage behind its fit, as cells that run in its place
TRAINING = "from lending_club import train\nfrom lending_club.core.settings import load_settings"
BEHIND_THE_FIT = {
    # what the process has said is on its way for some milliseconds, which end with the process
    "killed": "import os, time\ntrain.assemble_pipeline = lambda *_: (time.sleep(1), os.kill(os.getpid(), 9))",
    "failed": "def fail(*_):\n    raise OSError('no space left on the device')\ntrain.assemble_pipeline = fail",
    "waits": "import time\ntrain.assemble_pipeline = lambda *_: time.sleep(600)",
}


def project_that(folder: Path, happens: str) -> Path:
    "A project whose last stage trains and then is hindered; its other stages do nothing."
    project = make_project(folder, "sample_rows = 3000\nepochs = 1\n")
    (project / "nbs").unlink()
    (project / "nbs").mkdir()
    cells = [TRAINING, "from lending_club.core.notices import show_log\nshow_log()", BEHIND_THE_FIT[happens]]
    for stage in STAGES:
        own = [*cells, "train.train(load_settings())"] if stage == "04_train" else ["1 + 1"]
        kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}}
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in own], metadata=kernel)
        nbformat.write(notebook, project / "nbs" / f"{stage}.ipynb")
    return project


def failed_stage(settings) -> str:
    "What the last stage says when it fails."
    with pytest.raises(StageError) as error:
        run_stage(settings, "04_train", {}, settings.var / "runs")
    return str(error.value)


@pytest.mark.slow
def test_a_stage_whose_process_is_killed_behind_its_fit_names_the_command(tmp_path, capfd):
    settings = load_settings(project_that(tmp_path / "project", "killed"))
    said, client = failed_stage(settings), connect(settings)
    kept = unfinished_run(settings, client, 0)
    assert "04_train failed: its process ended, as it does where the memory does not suffice; " in said
    assert said.endswith(how_to_continue(kept))
    assert f"should a later step fail: {how_to_continue(kept)}" in capfd.readouterr().err, "it is said before anything fails"
    assert client.get_run(kept).info.status == "KILLED" and not list((settings.var / "tmp").iterdir())


@pytest.mark.slow
def test_a_stage_that_fails_behind_its_fit_names_the_command_and_the_next_one_no_older_fit(tmp_path):
    project = project_that(tmp_path / "project", "failed")
    settings = load_settings(project)
    said = failed_stage(settings)
    kept = unfinished_run(settings, connect(settings), 0)
    assert "04_train failed: OSError: no space left on the device; " in said and said.count(how_to_continue(kept)) == 1
    path = project / "nbs" / "04_train.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells = [nbformat.v4.new_code_cell("1 / 0")]
    nbformat.write(notebook, path)
    said = failed_stage(settings)
    assert "ZeroDivisionError" in said and "register" not in said


@pytest.mark.slow
def test_ctrl_c_behind_the_fit_names_the_command_which_then_registers(tmp_path):
    project = project_that(tmp_path / "project", "waits")
    log = tmp_path / "run.log"
    with process(COMMAND, "run", cwd=project, log=log) as running:
        wait_until(lambda: "should a later step fail" in log.read_text(), 300, "the end of the fit")
        running.send_signal(signal.SIGINT)
        assert running.wait(120) == 130
    said = log.read_text().splitlines()[-1]
    kept = re.search(r"register ([0-9a-f]{32})`", said)[1]
    assert said == f"lending-club: interrupted in 04_train; {how_to_continue(kept)}, and the same command would fit anew"
    done = lending_club("register", kept, cwd=project)
    assert done.returncode == 0 and "candidate: version 1" in done.stdout, done.stderr


def test_other_loans_are_refused(stocked, stock):
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr("lending_club.train.load_clean", lambda settings: other_loans(settings))
        with pytest.raises(KeptError, match="was fitted on .* put the loans back as they were, or train again"):
            register_run(stocked, stock.first.run_id)


def other_loans(settings):
    from dataclasses import replace

    from lending_club.clean import load_clean

    return replace(load_clean(settings), data_hash="f" * 64)
