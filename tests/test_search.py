"""The search under a killed process, on a real database."""

import dataclasses
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from conftest import new_database, process, wait_until

from lending_club.clean import load_clean, temporal_split
from lending_club.core.registry import connect
from lending_club.core.settings import load_settings
from lending_club.core.sources import package_folder
from lending_club.core.study import best_parameters, count_done, open_storage, study_name
from lending_club.core.tracking import experiment_id
from lending_club.hpo import run_trials, search

TRIALS = 6
SEARCH = """
from lending_club.clean import load_clean, temporal_split
from lending_club.hpo import search
from lending_club.core.settings import load_settings

settings = load_settings()
clean = load_clean(settings)
search(settings, clean, temporal_split(clean.loans, settings.train_end, settings.val_end))
"""

KILLED_WHILE_DRAWING = """
import os
import signal

from lending_club import hpo


def suggest(trial, network, complete=hpo.suggest):
    if trial.number == 2:
        trial.suggest_categorical("k", hpo.SPACE["tabm"]["k"].choices)
        trial.suggest_categorical("width", hpo.SPACE["tabm"]["width"].choices)
        os.kill(os.getpid(), signal.SIGKILL)
    return complete(trial, network)


hpo.suggest = suggest
"""


@pytest.mark.parametrize(
    "module, line, changes",
    [
        ("core/networks.py", "LIMIT = 3", True),
        ("core/features.py", "LIMIT = 3", True),
        ("clean.py", "LIMIT = 3", True),
        ("core/networks.py", "# a comment", False),
        ("core/plots.py", "LIMIT = 3", False),
        ("core/tracking.py", "LIMIT = 3", False),
        ("core/settings.py", "LIMIT = 3", False),
    ],
)
def test_the_studys_name_changes_with_the_code_that_decides_a_trial(settings, tmp_path, module, line, changes):
    copy = Path(shutil.copytree(package_folder(), tmp_path / "lending_club"))
    before = study_name(settings, "0" * 64, copy)
    assert before == study_name(settings, "0" * 64)
    with (copy / module).open("a") as file:
        file.write(line + "\n")
    assert (study_name(settings, "0" * 64, copy) != before) == changes


@pytest.mark.parametrize(
    "line",
    [
        "from lending_club import extra",
        "from lending_club.core import text, more",
        "import lending_club.core.more as own",
        "from . import more",
        "def late():\n    from ..extra import LIMIT\n    return LIMIT",
    ],
)
def test_every_form_of_import_counts(settings, tmp_path, line):
    copy = Path(shutil.copytree(package_folder(), tmp_path / "lending_club"))
    (copy / "extra.py").write_text("LIMIT = 1\n")
    (copy / "core" / "more.py").write_text("LIMIT = 1\n")
    with (copy / "core" / "networks.py").open("a") as file:
        file.write(line + "\n")
    before = study_name(settings, "0" * 64, copy)
    for name in ("extra.py", "core/more.py"):
        (copy / name).write_text("LIMIT = 22\n")
    assert study_name(settings, "0" * 64, copy) != before


def the_study(settings, clean):
    storage = optuna.storages.RDBStorage(settings.optuna_storage)
    return optuna.load_study(study_name=study_name(settings, clean.data_hash, target=clean.target), storage=storage)


def outcomes(study) -> list:
    "What the trials that count came to."
    return [(t.state, t.params, t.value, t.intermediate_values) for t in study.trials if t.state.name in ("COMPLETE", "PRUNED")]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["in an epoch", "while its parameters are drawn"])
def test_a_killed_search_ends_with_the_trials_of_an_undisturbed_one(project, moment):
    (project / "settings.ini").write_text(f"[lending_club]\nsample_rows = 6000\nepochs = 12\ntrials = {TRIALS}\n")
    settings = load_settings()
    clean = load_clean(settings)
    splits = temporal_split(clean.loans, settings.train_end, settings.val_end)
    log = project / "search.log"
    code = SEARCH if moment == "in an epoch" else KILLED_WHILE_DRAWING + SEARCH
    with process(sys.executable, "-c", code, cwd=project, log=log) as running:
        if moment == "in an epoch":
            wait_until(lambda: study_begun(settings, clean) and third_is_training(settings, clean), 400, "the third trial")
            running.kill()
        assert running.wait(400) == -signal.SIGKILL, log.read_text()[-2_000:]
    lost = [trial.number for trial in the_study(settings, clean).trials if trial.state.name == "RUNNING"]
    assert lost, "nothing was running when the process was killed"
    continued = search(settings, clean, splits)
    assert count_done(continued) == TRIALS
    assert [trial.number for trial in continued.trials if trial.state.name == "FAIL"] == lost

    undisturbed = dataclasses.replace(settings, optuna_storage=f"sqlite:///{project}/other.db", experiment="undisturbed")
    assert outcomes(continued) == outcomes(search(undisturbed, clean, splits))
    found = [best_parameters(own, clean.data_hash, clean.target)[0] for own in (settings, undisturbed)]
    assert found[0] == found[1]

    client = connect(settings)
    runs = {r.info.run_name: r for r in client.search_runs([experiment_id(settings, client)])}
    assert len(runs) == 1 + TRIALS + len(lost), "one parent, and a nested run for each trial, lost ones too"
    assert {r.data.tags["mlflow.parentRunId"] for n, r in runs.items() if n != "search"} == {runs["search"].info.run_id}
    assert runs[f"trial {lost[0]}"].info.status == "KILLED" and runs[f"trial {lost[0]}"].data.tags["state"] == "failed"
    assert runs["search"].info.status == "FINISHED"


def study_begun(settings, clean) -> bool:
    names = optuna.get_all_study_names(optuna.storages.RDBStorage(settings.optuna_storage))
    return study_name(settings, clean.data_hash, target=clean.target) in names


def third_is_training(settings, clean) -> bool:
    study = the_study(settings, clean)
    return len(study.trials) == 3 and bool(study.trials[2].intermediate_values) and not study.trials[2].state.is_finished()


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_those_who_share_a_study_run_its_total_and_no_more(settings, request, database):
    if database == "postgresql":
        settings = dataclasses.replace(settings, optuna_storage=new_database(request.getfixturevalue("postgres"), "turns"))

    def opened():
        return open_storage(settings.optuna_storage, settings.network)

    optuna.create_study(study_name="shared", storage=opened())

    def evaluate(trial):
        value = trial.suggest_float("x", 0, 1)
        time.sleep(0.05 * value)  # so that one ends while others count what has begun
        return value

    def take_part(_):
        storage = opened()
        run_trials(optuna.load_study(study_name="shared", storage=storage), storage, evaluate, "tabm", trials=20, seed=42)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(take_part, range(6)))
    trials = optuna.load_study(study_name="shared", storage=opened()).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 20
    assert len({trial.value for trial in trials}) == 20, "two trials were drawn alike"


@pytest.mark.slow
def test_two_processes_share_a_study(postgres, project):
    (project / "settings.ini").write_text(
        f"[lending_club]\nsample_rows = 4000\nepochs = 6\ntrials = {TRIALS}\n"
        f"optuna_storage = {new_database(postgres, 'shared')}\n"
    )
    settings = load_settings()
    clean = load_clean(settings)
    logs = [project / "first.log", project / "second.log"]
    with (
        process(sys.executable, "-c", SEARCH, cwd=project, log=logs[0]) as first,
        process(sys.executable, "-c", SEARCH, cwd=project, log=logs[1]) as second,
    ):
        assert (first.wait(600), second.wait(600)) == (0, 0), [log.read_text()[-2_000:] for log in logs]
    study = the_study(settings, clean)
    assert count_done(study) == TRIALS and len(study.trials) == TRIALS
    assert len({str(trial.params) for trial in study.trials}) == TRIALS, "two trials were drawn alike"
