"""Runs beside each other, killed ones, moved and copied projects, and what is said before the first stage."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from conftest import (
    COMMAND,
    clean_environment,
    give_databases,
    last_error,
    lending_club,
    make_project,
    new_database,
    process,
    service,
    wait_until,
)

from lending_club.clean import load_clean
from lending_club.core.loans import loans_key
from lending_club.core.pipeline import STAGES, run_stage, stage_key
from lending_club.core.registry import connect
from lending_club.core.sample import draw
from lending_club.core.settings import load_settings
from lending_club.core.tracking import experiment_id, log_loans, record_run

TINY = "sample_rows = 3000\nepochs = 1\npoll_interval = 0.3\n"
KERNEL = {"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}}
LOADED = "from lending_club.core.settings import load_settings\nsettings = load_settings()"
CELLS = {
    "03_hpo": [
        "from lending_club.clean import load_clean, temporal_split\nfrom lending_club.hpo import search",
        LOADED,
        "clean = load_clean(settings)",
        "search(settings, clean, temporal_split(clean.loans, settings.train_end, settings.val_end))",
    ],
    "04_train": ["from lending_club.train import train", LOADED, "train(settings)"],
}


def quick_project(folder: Path, settings: str = TINY, **cells: list[str]) -> Path:
    "A project whose stages do the least: the last two search and train, the others nothing, or the cells given."
    project = make_project(folder, settings)
    (project / "nbs").unlink()
    (project / "nbs").mkdir()
    for stage in STAGES:
        own = cells.get(f"stage_{stage[:2]}", CELLS.get(stage, ["1 + 1"]))
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in own], metadata=KERNEL)
        nbformat.write(notebook, project / "nbs" / f"{stage}.ipynb")
    return project


def ran_well(done) -> bool:
    assert done.returncode == 0, done.stderr
    return True


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    "A quick project in which two runs were started at once, and what both said."
    folder = quick_project(tmp_path_factory.mktemp("ran") / "project")
    logs = [folder.parent / f"{name}.log" for name in ("first", "second")]
    with process(COMMAND, "run", cwd=folder, log=logs[0]) as first, process(COMMAND, "run", cwd=folder, log=logs[1]) as second:
        codes = [running.wait(600) for running in (first, second)]
    said = [log.read_text() for log in logs]
    assert codes == [0, 0], said
    return folder, said


# --- beside each other


OPEN_BOTH = """
from lending_club.core.registry import connect
from lending_club.core.settings import load_settings
from lending_club.core.study import open_storage

settings = load_settings()
open_storage(settings.optuna_storage, settings.network)
connect(settings)
"""


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_processes_that_make_the_tables_at_once(tmp_path, request, database):
    project, where = make_project(tmp_path / "project"), {}
    if database == "postgresql":
        server = request.getfixturevalue("postgres")
        where = {"MLFLOW_TRACKING_URI": new_database(server, "runs"), "OPTUNA_STORAGE": new_database(server, "studies")}
    logs = [project.parent / f"{number}.log" for number in range(3)]
    with ExitStack() as stack:
        started = [stack.enter_context(process(sys.executable, "-c", OPEN_BOTH, cwd=project, log=log, **where)) for log in logs]
        codes = [running.wait(120) for running in started]
    assert codes == [0, 0, 0], [log.read_text()[-1_000:] for log in logs]


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_runs_of_the_same_loans_at_once(settings, request, database):
    "Each makes the experiment, and the datasets, that the others make at that moment."
    if database == "postgresql":
        settings = replace(settings, mlflow_tracking_uri=new_database(request.getfixturevalue("postgres"), "at_once"))
    client = connect(settings)
    loans = pd.DataFrame({"loan_amnt": [5000.0], "term": [" 36 months"], "default": [0]})
    clean = SimpleNamespace(loans=loans, data_hash="0" * 64, source="a file")
    together = threading.Barrier(6, timeout=60)

    def take_part(own):
        together.wait()
        with record_run(own, client, "a run"):
            log_loans(own, clean, {"train": loans, "val": loans})

    with ThreadPoolExecutor(6) as pool:
        for round_ in range(3):
            own = replace(settings, experiment=f"round {round_}")
            list(pool.map(take_part, [own] * 6))
            runs = client.search_runs([experiment_id(own, client)])
            assert [run.info.status for run in runs] == ["FINISHED"] * 6
            assert {tuple(sorted(d.dataset.name for d in run.inputs.dataset_inputs)) for run in runs} == {
                ("a file: train, 1 loans", "a file: val, 1 loans")
            }


@pytest.mark.slow
def test_the_second_of_two_runs_waits_and_finds_nothing_to_do(ran):
    folder, said = ran
    worked, waited = sorted(said, key=lambda text: "waiting for it" in text)
    assert re.search(r"another run \(process \d+, since 20[\d: -]+\) is working in this folder: waiting for it", waited), said
    assert "waiting" not in worked and "unchanged" not in worked
    assert waited.count("unchanged since") == len(STAGES)
    assert all("candidate: version 1" in text for text in said)
    assert {p.name for p in folder.iterdir()} == {"nbs", "settings.ini", "var"}, "a run writes outside var"
    assert not list((folder / "var" / "tmp").iterdir()) and not (folder / "var" / "run.json").exists()


SAYS_ITSELF = """
import os, sys
from pathlib import Path
from lending_club.core.pipeline import run_stage
from lending_club.core.settings import load_settings
settings = load_settings()
for _ in range(2):
    run_stage(settings, "00_explore", {}, settings.var / sys.argv[1])
"""


@pytest.mark.slow
def test_kernels_at_the_same_time_do_not_hear_each_other(tmp_path):
    project = quick_project(tmp_path / "project", stage_00=["import time", "time.sleep(0.5)", "print('mine')"])
    environments = [clean_environment(VAR_DIR=name) for name in ("var", "other", "var", "other")]
    how = {"cwd": project, "stderr": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen([sys.executable, "-c", SAYS_ITSELF, str(number)], env=environment, **how)
        for number, environment in enumerate(environments)
    ]
    said = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    assert not any("Signature" in text or "respond" in text for text in said), said
    assert {p.name for p in project.iterdir()} == {"nbs", "settings.ini", "var", "other"}


@pytest.mark.parametrize("letters", [20, 200])
def test_a_var_of_any_length_has_kernels(tmp_path, letters):
    project = quick_project(tmp_path / "project", stage_00=["import tempfile, os", "(tempfile.gettempdir(), os.getcwd())"])
    var = tmp_path / ("a" * letters)
    settings = load_settings(project, var_dir=str(var))
    shown = nbformat.read(run_stage(settings, "00_explore", {}, var), 4).cells[-1].outputs[0]["data"]["text/plain"]
    temporary, works_in = eval(shown)
    assert Path(temporary).is_relative_to(var / "tmp") and works_in == str(project)
    assert not list((var / "tmp").iterdir())


@contextmanager
def as_it_is(folder: Path):
    yield []


# root writes to read-only folders too, unless it gives up the right to
POWERLESS = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []


@contextmanager
def read_only(folder: Path):
    "Nobody can write to a folder or to what is in it, around the block; yields what a command is to be started through."
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        assert subprocess.run([*POWERLESS, "touch", folder / "new"], stderr=subprocess.DEVNULL).returncode == 1
        yield POWERLESS
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)


@pytest.mark.slow
@pytest.mark.parametrize("protect", [as_it_is, read_only])
def test_var_elsewhere_takes_everything_and_no_home_is_needed(tmp_path, protect):
    project = quick_project(tmp_path / "project")
    before = sorted(project.rglob("*"))
    with protect(project) as through:
        done = lending_club("run", cwd=project, through=through, VAR_DIR=str(tmp_path / "elsewhere"), HOME="/nonexistent")
    assert ran_well(done) and "candidate: version 1" in done.stdout
    assert sorted(project.rglob("*")) == before, "a run writes into the project's folder"
    assert {"mlflow.db", "optuna.db", "artifacts", "runs", "cache"} <= {p.name for p in (tmp_path / "elsewhere").iterdir()}


def kernels_of(pid: int) -> list[int]:
    "The children of a process, where the system tells."
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in file.read_text().split()] if file.is_file() else []


@pytest.mark.slow
def test_a_killed_run_blocks_nothing_and_its_leftovers_go(tmp_path):
    project = quick_project(tmp_path / "project", stage_00=["import tempfile, time", "tempfile.mkdtemp()", "time.sleep(600)"])
    tmp = project / "var" / "tmp"
    with process(COMMAND, "run", cwd=project, log=tmp_path / "log") as running:
        wait_until(lambda: tmp.is_dir() and list(tmp.glob("*/tmp*")), what="the stage's temporary folder")
        kernels = kernels_of(running.pid)
        running.send_signal(signal.SIGKILL)
        running.wait(10)
    wait_until(lambda: not any(Path(f"/proc/{kernel}").exists() for kernel in kernels), what="the kernel's end")
    part = project / "var" / "cache" / ".clean.parquet.x.part"
    part.parent.mkdir(exist_ok=True)
    part.touch()
    for path in (part, *tmp.iterdir()):
        os.utime(path, (time.time() - 10,) * 2)
    assert list(tmp.iterdir()) and (project / "var" / "run.json").is_file()
    quick_project(tmp_path / "again")
    shutil.rmtree(project / "nbs")
    shutil.copytree(tmp_path / "again" / "nbs", project / "nbs")
    done = lending_club("run", cwd=project)
    assert ran_well(done) and "waiting" not in done.stderr
    assert not list(tmp.iterdir()) and not part.exists()


# --- moved and copied


def files_below(folder: Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow
def test_a_moved_project_goes_on_and_is_served(ran, tmp_path):
    folder, _ = ran
    old = Path(shutil.copytree(folder, tmp_path / "old"))
    ran_well(lending_club("run", cwd=old))  # this copy's own files are the ones that its database names from now on
    moved = old.rename(tmp_path / "moved here")
    again = lending_club("run", cwd=moved)
    assert ran_well(again) and again.stderr.count("unchanged since") == len(STAGES), again.stderr
    assert f"the registry's artifacts are now in {moved / 'var' / 'artifacts'}, no longer in {old}" in again.stderr
    assert "moved" not in lending_club("run", cwd=moved).stderr, "it is said once"
    assert ran_well(lending_club("promote", cwd=moved))
    with service(moved, tmp_path, CACHE_CHAMPION="no") as url:
        health = wait_until(lambda: _health(url) if _health(url)["status"] == "ok" else None, what="the champion")
    assert health["current_version"] == "1"
    trained = lending_club("run", "--seed", 8, cwd=moved)
    assert ran_well(trained) and "candidate: version 2" in trained.stdout
    assert not old.exists(), "the old place was made anew"


def test_a_moved_project_knows_its_own_file_again(tmp_path):
    project = quick_project(tmp_path / "project")
    draw(2_000).loans.to_csv(project / "loans.csv", index=False)

    def keys(project):
        by_option = {"data_path": str(project / "loans.csv")}
        settings = load_settings(project, data_path="loans.csv"), load_settings(project, **by_option)
        load_clean(settings[0])
        return [loans_key(each) for each in settings], [stage_key(settings[1], stage, by_option) for stage in STAGES]

    before = keys(project)
    moved = project.rename(tmp_path / "moved here")
    assert keys(moved) == before and len(set(before[0])) == 1
    assert len(list((moved / "var" / "cache").glob("clean-*"))) == 1, "the loans were cleaned again"
    with (moved / "loans.csv").open("a") as file:
        file.write("\n")
    assert keys(moved)[0] != before[0]


def test_the_command_names_a_file_in_the_project_from_there(tmp_path):
    project = make_project(tmp_path / "project")
    done = lending_club("run", "--data", "sub/../loans.csv", cwd=project)
    assert f"there is no file {project / 'loans.csv'}" in last_error(done)
    (project / "sample").write_text("this is a file")
    assert "built-in" not in last_error(lending_club("run", "--data", "./sample", cwd=project))


def _health(url) -> dict:
    import json
    import urllib.request

    with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_a_copy_works_on_its_own_files(ran, tmp_path):
    folder, _ = ran
    before = files_below(folder)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    trained = lending_club("run", "--seed", 8, cwd=copy)
    assert ran_well(trained) and "candidate: version 2" in trained.stdout
    settings = load_settings(copy)
    client = connect(settings)
    places = {run.info.artifact_uri for run in client.search_runs([experiment_id(settings, client)])}
    assert places and all(place.startswith((copy / "var" / "artifacts").as_uri()) for place in places)
    changed = {path for path, at in files_below(folder).items() if before.get(path) != at}
    assert not changed, "the copy has written to the original"


@pytest.mark.parametrize("original_stays, says", [(True, "belongs to another project"), (False, "does not exist")])
def test_artifacts_that_did_not_come_along_are_asked_for(stock, tmp_path, original_stays, says):
    original = stock.copy_to(tmp_path / "original").root
    other = quick_project(tmp_path / "other")
    (other / "var").mkdir()
    shutil.copy(original / "var" / "mlflow.db", other / "var")
    if not original_stays:
        shutil.rmtree(original)
    for command in ("run", "promote"):
        error = last_error(lending_club(command, cwd=other))
        assert f"names {original / 'var' / 'artifacts'} for its artifacts, which {says}" in error
        assert "run `lending-club relocate`" in error
    relocated = lending_club("relocate", cwd=other)
    assert ran_well(relocated) and f"are now in {other / 'var' / 'artifacts'}" in relocated.stdout
    assert "nothing to do" in lending_club("relocate", cwd=other).stdout
    assert connect(load_settings(other)).get_experiment_by_name("lending_club").artifact_location.startswith(other.as_uri())
    assert original.exists() == original_stays


# --- before the first stage


@pytest.mark.parametrize(
    "setting, says",
    [
        ("network = tabn", "settings.ini: network is 'tabn'; it must be 'tabm' or 'mlp'. Did you mean 'tabm'?"),
        ("torch_device = gpu", "torch_device is 'gpu'; it must be 'auto', 'cpu', 'cuda' or cuda:1"),
        ("torch_device = cuda:99", "torch_device is 'cuda:99', but PyTorch finds"),
        ("log_format = xml", "log_format is 'xml'; it must be 'json' or 'text'"),
        ("candidate_alias = latest", "candidate_alias is 'latest'; it must be an alias"),
        ("candidate_alias = champion", "candidate_alias and champion_alias are both 'champion'"),
        ("registered_model_name = a/b", "registered_model_name is 'a/b'; it must be a name without / and :"),
        ("search_minutes = inf", "search_minutes is 'inf'; it must be a number of at least 0"),
        ("data_path = loans.csv", "there is no file"),
    ],
)
def test_a_setting_that_cannot_work_is_named_before_the_first_stage(tmp_path, new_databases, setting, says):
    done = lending_club("run", cwd=give_databases(quick_project(tmp_path / "project", f"{TINY}{setting}\n"), new_databases))
    assert says in last_error(done) and "[1/5]" not in done.stderr


@pytest.mark.parametrize(
    "statuses, says",
    [
        (["Current", "Issued"], "no ended ones"),
        (["Fully Paid", "Current"], "no bad ones"),
    ],
)
def test_loans_that_cannot_be_learnt_from_are_refused_before_the_first_stage(tmp_path, new_databases, statuses, says):
    project, loans = give_databases(quick_project(tmp_path / "project"), new_databases), draw(300).loans
    loans["loan_status"] = [statuses[i % len(statuses)] for i in range(len(loans))]
    loans.to_csv(project / "loans.csv", index=False)
    done = lending_club("run", "--data", "loans.csv", cwd=project)
    error = last_error(done)
    assert says in error and all(status in error for status in statuses)
    assert "[1/5]" not in done.stderr and not list((project / "var").rglob("*.ipynb"))


@pytest.mark.slow
def test_what_was_noticed_while_reading_is_said_before_the_first_stage(tmp_path, new_databases):
    project = give_databases(quick_project(tmp_path / "project", stage_00=["1 / 0"]), new_databases)
    folder = project / "quarters"
    folder.mkdir()
    loans = draw(3_000).loans
    loans[:1_500].rename(columns=str.upper).to_csv(folder / "2014.csv", index=False)
    loans[1_500:].assign(term=loans["term"].str.strip()).to_csv(folder / "2015.csv", index=False)
    (folder / "notes.txt").write_text("bought in 2019\n")
    said = [lending_club("run", "--data", folder, cwd=project) for _ in range(2)]  # the second time from the cache
    for done in said:
        before = done.stderr.partition("[1/5]")[0]
        assert last_error(done) and suspect_lines(before) == []
        assert "2014.csv names columns in another way: ID is id, " in before
        assert "2 tables were read, with their number of rows: 2014.csv (1500), 2015.csv (1500)" in before
        assert "passed over: " in before and "notes.txt" in before and "in another spelling: " in before
    clean = load_clean(load_settings(project, data_path="quarters"))
    assert all(text in said[1].stderr for _, text in clean.notes) and len(clean.notes) >= 4


def test_a_deleted_experiment_is_named_before_the_first_stage(tmp_path, new_databases):
    project = give_databases(quick_project(tmp_path / "project"), new_databases)
    settings = load_settings(project)
    client = connect(settings)
    number = experiment_id(settings, client)
    client.delete_experiment(number)
    done = lending_club("run", cwd=project)
    assert f"was deleted in MLflow: restore it there (mlflow experiments restore --experiment-id {number})" in last_error(done)
    assert "[1/5]" not in done.stderr


@pytest.mark.parametrize(
    "file, schema, says",
    [
        ("mlflow.db", "451aebb31d03", "bring it up to date with: mlflow db upgrade sqlite:///"),
        ("mlflow.db", "ffffffffffff", "a newer MLflow has written it"),
        ("optuna.db", "v3.0.0.a", "bring it up to date with: optuna storage upgrade --storage sqlite:///"),
        ("optuna.db", "v99", "a newer Optuna has written it"),
        ("mlflow.db", None, "mlflow.db cannot be opened"),
        ("optuna.db", None, "optuna.db cannot be opened"),
    ],
)
def test_a_database_of_another_release_is_named_before_the_first_stage(tmp_path, new_databases, file, schema, says):
    project = give_databases(quick_project(tmp_path / "project"), new_databases)
    if schema is None:
        (project / "var" / file).write_bytes(b"no database" * 1000)
    else:
        with sqlite3.connect(project / "var" / file) as database:
            database.execute("update alembic_version set version_num = ?", (schema,))
    done = lending_club("run", cwd=project)
    assert says in last_error(done) and "[1/5]" not in done.stderr


def test_registering_a_run_that_is_not_there_names_it(settings):
    assert "no-such-run" in last_error(lending_club("register", "no-such-run", cwd=settings.root))


# --- nothing that looks like an error

SUSPECT = re.compile(r"warning|error|traceback", re.IGNORECASE)
ALLOWED = re.compile("calibration error|standard error|error bar|error_|_error", re.IGNORECASE)  # words of statistics


def suspect_lines(text: str) -> list[str]:
    return [line for line in re.split(r"[\n\r]", text) if SUSPECT.search(line) and not ALLOWED.search(line)]


def few_columns(folder: Path, extra: list) -> Path:
    "A file with the required columns and some more."
    path, columns = folder / "few.csv", [*extra, "loan_amnt", "term", "annual_inc", "issue_d", "loan_status"]
    draw(6_000).loans[columns].to_csv(path, index=False)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("source", ["sample", "required columns", "few columns", "real"])
def test_a_run_that_ends_well_has_no_line_that_looks_like_an_error(source, tmp_path, request):
    words = ["--epochs", 1]
    if source == "required columns":
        words += ["--data", few_columns(tmp_path, ["last_pymnt_d"])]
    elif source == "few columns":
        words += ["--data", few_columns(tmp_path, ["id", "grade", "sub_grade", "purpose", "int_rate", "dti"])]
    elif source == "real":
        file = request.getfixturevalue("real_data") / "accepted_2007_to_2011.csv.gz"
        words += ["--data", file, "--train-end", "2010-10-01", "--val-end", "2011-03-01"]
    project = make_project(tmp_path / "project", "sample_rows = 6000\n")
    done = lending_club("run", *words, cwd=project, timeout=3000)
    assert ran_well(done) and suspect_lines(done.stdout + done.stderr) == []
    for path in (project / "var" / "runs").rglob("*.ipynb"):
        for cell in nbformat.read(path, 4).cells:
            text = "".join(o["text"] for o in cell.get("outputs", []) if o.output_type == "stream")
            assert suspect_lines(text) == [], path.name
