"""A fitted Pipeline is never lost: what fails after the fit is continued without a second one."""

import numpy as np
import pytest
from conftest import lending_club

from lending_club.core import compile as compiling
from lending_club.core.graph import ExportError
from lending_club.core.kept import KeptError
from lending_club.core.registry import connect, version_by_alias
from lending_club.core.settings import load_settings
from lending_club.core.tracking import find_run
from lending_club.train import register_run, train


def refuse(*_):
    raise ExportError("PyTorch cannot write the network as an ONNX graph (for this test)")


def test_a_refused_export_leaves_the_pipeline_in_the_run(settings, monkeypatch):
    client = connect(settings)
    with monkeypatch.context() as broken:
        broken.setattr(compiling, "write_graph", refuse)
        with pytest.raises(KeptError, match=r"for this test.*\n.*`lending-club register [0-9a-f]{32}` continues"):
            train(settings)
    run = find_run(settings, client, {"stage": "train"})
    assert run.info.status == "FAILED"
    assert version_by_alias(settings, client, "candidate") is None
    continued = register_run(settings, run.info.run_id)
    assert continued.run_id == run.info.run_id
    assert client.get_run(run.info.run_id).info.status == "FINISHED"
    assert str(version_by_alias(settings, client, "candidate").version) == continued.version

    at_once = train(settings)  # a training that nothing interrupts gives the same
    rows = continued.splits.test.head(200)
    np.testing.assert_array_equal(continued.pipeline.predict_proba(rows), at_once.pipeline.predict_proba(rows))
    assert continued.card["metrics"]["network"] == at_once.card["metrics"]["network"]


def test_the_command_continues_a_run(project, settings):
    first = train(settings)
    done = lending_club("register", first.run_id, cwd=project)
    assert done.returncode == 0 and "version 2" in done.stdout, (done.stdout, done.stderr)
    done = lending_club("register", "0" * 32, cwd=project)
    assert done.returncode == 1 and "Traceback" not in done.stderr


def test_other_loans_are_refused(project, settings):
    first = train(settings)
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr("lending_club.train.load_clean", lambda settings: other_loans(settings))
        with pytest.raises(KeptError, match="was fitted on .* put the loans back as they were, or train again"):
            register_run(load_settings(project), first.run_id)


def other_loans(settings):
    from dataclasses import replace

    from lending_club.clean import load_clean

    return replace(load_clean(settings), data_hash="f" * 64)
