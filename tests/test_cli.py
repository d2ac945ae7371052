"""The command line: the whole chain on a small sample, and what it says when something is wrong."""

import gzip
import json
import shutil
import signal
import socket
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from conftest import COMMAND, REPO, last_error, lending_club, make_project, process, wait_until

from lending_club.core import stages
from lending_club.core.registry import connect, version_by_alias
from lending_club.core.sample import draw, write_sample
from lending_club.core.settings import load_settings
from lending_club.core.sources import package_folder
from lending_club.core.stages import STAGES, stage_key
from lending_club.core.study import study_name
from lending_club.core.tracking import experiment_id
from lending_club.promote import promote
from lending_club.train import train


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    "A project in which `lending-club run` has ended, and what it said."
    folder = make_project(tmp_path_factory.mktemp("ran") / "project")
    done = lending_club("run", "--seed", 7, cwd=folder, warm=False)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
def test_run_ends_with_a_candidate(ran):
    folder, done = ran
    assert "candidate: version 1" in done.stdout and "roc_auc" in done.stdout
    executed = sorted(p.stem for p in (folder / "var" / "runs").rglob("*.ipynb"))
    assert executed == list(STAGES)
    settings = load_settings(folder)
    client = connect(settings)
    candidate = version_by_alias(settings, client, "candidate")
    assert str(candidate.version) == "1"
    assert version_by_alias(settings, client, "champion") is None
    assert {p.name for p in folder.iterdir()} == {"nbs", "settings.ini", "var"}, "a run writes outside var"
    runs = client.search_runs([experiment_id(settings, client)])
    assert {r.info.run_name: r.info.status for r in runs} == {k: "FINISHED" for k in ("search", "trial 0", "train")}


@pytest.mark.slow
def test_a_version_says_where_it_comes_from(ran):
    folder, _ = ran
    settings = load_settings(folder)
    client = connect(settings)
    candidate = version_by_alias(settings, client, "candidate")
    (path,) = (folder / "var" / "artifacts").rglob("card.json")
    card = json.loads(path.read_text())
    assert card["seeds"] == {"sampling, search and training": 7}
    assert card["settings"]["seed"] == 7 and card["settings"]["train_end"] == "2016-01-01"
    assert set(card["splits"]) == {"train", "validation", "refit", "calibration", "test"}
    assert all(part["loans"] > 0 and part["from"] <= part["to"] for part in card["splits"].values())
    assert card["data_hash"] == candidate.tags["data_hash"] and len(card["data_hash"]) == 64
    assert {"commit", "package_version", "threshold", "test_roc_auc", "sha256.card.json"} <= set(candidate.tags)
    assert not any("uri" in name or "storage" in name for name in card["settings"]), "a URI may hold a password"
    reference = json.loads(path.with_name("reference.json").read_text())
    assert set(reference["inputs"]) == set(card["inputs"]["columns"]) - {"issue_d"}
    assert len(reference["score"]["quantiles"]) == 21
    usual = ("sub-grade alone", "logistic regression", "LightGBM")
    assert set(card["metrics"]) == {"network", *(f"{name}, ended loans" for name in usual)}
    assert {"roc_auc", "pr_auc", "ks", "brier", "ece", "approval_rate", "accepted_bad_rate"} <= set(card["metrics"]["network"])


@pytest.mark.slow
def test_a_run_tells_its_story_in_mlflow(ran):
    folder, _ = ran
    settings = load_settings(folder)
    client = connect(settings)
    runs = {r.info.run_name: r for r in client.search_runs([experiment_id(settings, client)])}
    train_run, search_run = runs["train"], runs["search"]
    pages = [f.path for f in client.list_artifacts(train_run.info.run_id, "notebooks")]
    assert pages == [f"notebooks/{stage}.html" for stage in STAGES]
    pictures = {f.path for f in client.list_artifacts(train_run.info.run_id, "evaluation")}
    assert {f"evaluation/{name}.png" for name in ("evaluation", "decision", "groups")} <= pictures
    assert "evaluation/models_by_term.csv" in pictures
    assert [f.path for f in client.list_artifacts(train_run.info.run_id, "environment")] == ["environment/installed.txt"]
    for run in (train_run, search_run):
        assert {i.tags[0].value for i in run.inputs.dataset_inputs} >= {"train", "validation"}
        assert {i.dataset.digest for i in run.inputs.dataset_inputs} == {run.data.tags["data_hash"][:32]}
    assert {"commit", "clean_tree", "model_version"} <= set(train_run.data.tags)
    assert runs["trial 0"].data.tags["state"] == "complete" and runs["trial 0"].data.metrics["duration_seconds"] > 0


@pytest.mark.slow
def test_a_run_leaves_a_report_without_lessons(ran):
    folder, done = ran
    for path in (folder / "var" / "runs").rglob("*.ipynb"):
        cells = nbformat.read(path, 4).cells
        headings = [cell.source for cell in cells if cell.cell_type == "markdown" and cell.source.startswith("## ")]
        assert [heading.split("\n")[0] for heading in headings] == ["## Run"], path.name
        assert not [cell.source for cell in cells if "lesson" in cell.metadata.get("tags", []) or "#|" in cell.source], path.name
    assert "lesson" not in done.stderr, "a search that is not the run's own"


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_half_and_says_how_to_go_on(project):
    run = (COMMAND, "run", "--data", "sample", "--epochs", 60)
    log = project / "run.log"
    with process(*run, cwd=project, log=log) as running:
        wait_until(lambda: "[5/5] 04_train" in log.read_text(), 600, "the start of the training")
        settings = load_settings(epochs=60)
        client = connect(settings)
        wait_until(lambda: "train" in open_runs(settings, client), 600, "the run of the training")
        running.send_signal(signal.SIGINT)
        assert running.wait(120) == 130
    assert "lending-club: interrupted in 04_train; what had ended is kept, and the same command continues" in log.read_text()
    assert open_runs(settings, client) == set()
    assert version_by_alias(settings, client, "candidate") is None
    done = lending_club(*run[1:], cwd=project)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("unchanged since") == 4 and "candidate: version 1" in done.stdout


def open_runs(settings, client) -> set:
    "Names of the runs that MLflow shows as running."
    found = client.search_runs([experiment_id(settings, client)], "attributes.status = 'RUNNING'")
    return {run.info.run_name for run in found}


@pytest.mark.parametrize(
    "module, stages",
    [
        ("core/networks.py", {"03_hpo", "04_train"}),
        ("train.py", {"04_train"}),
        ("serving/app.py", set()),
    ],
)
def test_a_stages_key_changes_with_the_code_behind_it(settings, tmp_path, module, stages):
    copy = Path(shutil.copytree(package_folder(), tmp_path / "lending_club"))
    before = {stage: stage_key(settings, stage, {}) for stage in STAGES}
    assert {stage: stage_key(settings, stage, {}, copy) for stage in STAGES} == before
    with (copy / module).open("a") as file:
        file.write("LIMIT = 3\n")
    assert {stage for stage in STAGES if stage_key(settings, stage, {}, copy) != before[stage]} == stages


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript", "pyarrow", "torch"])
def test_a_stages_key_changes_with_the_packages_behind_it(settings, monkeypatch, package):
    before = {stage: stage_key(settings, stage, {}) for stage in STAGES}
    monkeypatch.setattr(stages, "version", lambda name: "99" if name == package else version(name))
    assert all(stage_key(settings, stage, {}) != key for stage, key in before.items())


@pytest.mark.parametrize("module, same", [("spellings", True), ("outcomes", True), ("columns", True), ("networks", False)])
def test_a_studys_name_does_not_change_with_the_code_that_reads(settings, tmp_path, module, same):
    copy = Path(shutil.copytree(package_folder(), tmp_path / "lending_club"))
    before = study_name(settings, "0" * 64, copy)
    with (copy / "core" / f"{module}.py").open("a") as file:
        file.write("LIMIT = 3\n")
    assert (study_name(settings, "0" * 64, copy) == before) == same


def test_promote_moves_the_alias_and_shows_both(stocked):
    folder = stocked.root
    first = lending_club("promote", "--if-no-champion", cwd=folder, warm=False)
    assert first.returncode == 0 and "champion: version 1" in first.stdout and "roc_auc" in first.stdout
    kept = lending_club("promote", "--if-no-champion", cwd=folder)
    assert kept.returncode == 0 and "version 1 stays champion" in kept.stdout
    assert "version 1 is champion already: train one first" in last_error(lending_club("promote", cwd=folder))


@pytest.mark.slow
def test_a_second_run_does_only_what_has_changed(ran):
    folder, _ = ran
    again = lending_club("run", "--seed", 7, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("unchanged since") == len(STAGES) and "version 1" in again.stdout
    other = lending_club("run", "--seed", 7, "--epochs", 2, cwd=folder)
    assert other.returncode == 0, other.stderr
    assert other.stderr.count("unchanged since") == 3 and "[4/5] 03_hpo: unchanged" not in other.stderr
    assert "version 2" in other.stdout


@pytest.mark.slow
def test_what_is_gone_is_made_again(ran):
    folder, _ = ran
    settings = load_settings(folder)
    assert lending_club("run", "--seed", 7, cwd=folder).returncode == 0
    connect(settings).delete_registered_model(settings.registered_model_name)
    again = lending_club("run", "--seed", 7, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("unchanged since") == 4 and "candidate: version 1" in again.stdout


def run_notebook(stage: str, out: Path, *parameters):
    "Run a stage's whole notebook under papermill, from the folder of its output."
    out.parent.mkdir(exist_ok=True)
    log = out.parent.parent / "papermill.log"
    papermill = [sys.executable, "-m", "papermill", REPO / "nbs" / f"{stage}.ipynb", out, *parameters]
    with process(*papermill, cwd=out.parent, log=log) as running:
        assert running.wait(600) == 0, log.read_text()[-2_000:]


@pytest.mark.slow
def test_papermill_runs_a_stage_alone_from_anywhere(project):
    out = project / "elsewhere" / "out.ipynb"
    run_notebook("01_clean", out, "-p", "train_end", "2015-07-01")
    assert list((project / "var" / "cache").glob("clean-*")) and not (out.parent / "var").exists()
    (summary,) = (cell for cell in nbformat.read(out, 4).cells if cell.source.startswith("counts = "))
    assert ">2015-05<" in summary.outputs[0].data["text/html"]  # the last vintage that has a month on book before it


@pytest.mark.slow
def test_papermill_trains_and_promotes_from_anywhere(project):
    out = project / "elsewhere" / "out.ipynb"
    run_notebook("04_train", out, "-p", "epochs", "2")
    assert (project / "var" / "mlflow.db").is_file() and not (out.parent / "var").exists()
    settings = load_settings(project)
    candidate = version_by_alias(settings, connect(settings), "candidate")
    assert candidate.tags["seed"] == "42"
    assert "epochs = 2" in out.read_text()
    # the promotion notebook, whose lessons use a registry of their own, promotes in this one
    run_notebook("05_promote", out)
    assert version_by_alias(settings, connect(settings), "champion").version == candidate.version
    assert version_by_alias(settings, connect(settings), "candidate") is None


@pytest.mark.slow
def test_a_training_on_the_sample_as_a_file_gives_the_same_again(stocked, stock):
    "The file holds the loans of the built-in sample, and the same seed gives the same metrics and the next version."
    done = lending_club("sample", "--rows", 5000, "loans.csv.gz", cwd=stocked.root, warm=False)
    assert done.returncode == 0 and "5000 loans" in done.stdout
    from_file, from_sample = train(load_settings(data_path="loans.csv.gz")), stock.first
    assert from_file.card["data_hash"] == from_sample.card["data_hash"]
    assert from_file.card["metrics"] == from_sample.card["metrics"]
    assert from_file.card["threshold"] == from_sample.card["threshold"]
    assert (from_sample.version, from_file.version) == ("1", "3")


# --- what goes wrong


def test_missing_file(project):
    assert "there is no file" in last_error(lending_club("run", "--data", "loan.csv", cwd=project))


def test_web_page_instead_of_loans(project):
    (project / "loans.csv").write_text("<html><body>Please sign in</body></html>")
    assert "holds a web page, not loans" in last_error(lending_club("run", "--data", "loans.csv", cwd=project))


def test_empty_file(project):
    (project / "loans.csv").write_text("")
    assert "loans.csv is empty" in last_error(lending_club("run", "--data", "loans.csv", cwd=project))


@pytest.mark.parametrize(
    "option, value, says",
    [
        ("--train-end", "2016-13-01", "train_end is '2016-13-01'; it must be a date, written like 2016-01-01"),
        ("--val-end", "2015-01-01", "train_end (2016-01-01) must lie before val_end (2015-01-01)"),
        ("--epochs", "many", "epochs is 'many'; it must be a whole number of at least 1"),
    ],
)
def test_bad_option(project, option, value, says):
    assert says in last_error(lending_club("run", option, value, cwd=project))


def test_bad_setting_names_its_place_and_help_still_works(project):
    (project / "settings.ini").write_text("[lending_club]\nepochz = 3\n")
    assert "settings.ini: there is no setting 'epochz'. Did you mean 'epochs'?" in last_error(lending_club("run", cwd=project))
    assert lending_club("run", "--help", cwd=project).returncode == 0


def test_folder_that_cannot_be_written(project):
    shutil.rmtree(project / "var")
    (project / "var").write_text("a file where the folder should be")
    assert "cannot be written" in last_error(lending_club("run", cwd=project))


@pytest.mark.parametrize("command", [["run"], ["promote"]])
def test_mlflow_that_does_not_answer(project, command):
    error = last_error(lending_club(*command, cwd=project, timeout=30, MLFLOW_TRACKING_URI="http://127.0.0.1:9"))
    assert "the MLflow server http://127.0.0.1:9 does not answer" in error


def test_mlflow_that_takes_the_connection_and_says_nothing(project):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        error = last_error(lending_club("run", cwd=project, timeout=30, MLFLOW_TRACKING_URI=uri, REGISTRY_TIMEOUT="1"))
    assert f"the MLflow server {uri} does not answer" in error


def test_a_damaged_file_is_named_before_the_first_stage_and_leaves_nothing_half(project):
    whole = write_sample(project / "whole.csv.gz", 3_000).read_bytes()
    (project / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    done = lending_club("run", "--data", "cut.csv.gz", cwd=project)
    assert "cut.csv.gz is cut off or damaged" in last_error(done) and "[1/5]" not in done.stderr
    assert not list((project / "var").rglob("*.parquet")) and not list((project / "var").rglob("*.part"))


def test_a_failed_stage_leaves_its_notebook(project):
    (project / "nbs").unlink()
    shutil.copytree(REPO / "nbs", project / "nbs")
    cells = ["from lending_club.core.settings import SettingsError", "raise SettingsError('epochs is odd')"]
    notebook = nbformat.read(project / "nbs" / "00_explore.ipynb", 4)
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(notebook, project / "nbs" / "00_explore.ipynb")
    error = last_error(lending_club("run", cwd=project))
    assert "00_explore failed: epochs is odd" in error
    (executed,) = (project / "var" / "runs").rglob("*.ipynb")
    outputs = [o for c in nbformat.read(executed, 4).cells for o in c.get("outputs", [])]
    assert any(o.output_type == "error" and o.ename == "SettingsError" for o in outputs)
    assert str(executed.relative_to(project)) in error


def test_missing_required_column_names_the_nearest(project):
    loans = draw(500).loans.rename(columns={"annual_inc": "anual_income"})
    loans.to_csv(project / "loans.csv", index=False)
    error = last_error(lending_club("run", "--data", "loans.csv", cwd=project))
    assert "lacks the required column 'annual_inc'. Did you mean 'anual_income'?" in error


def test_dates_outside_of_the_file(project):
    with gzip.open(project / "loans.csv.gz", "wt") as file:
        loans = draw(4_000).loans
        loans[loans["issue_d"].str.endswith(("2012", "2013"))].to_csv(file, index=False)
    done = lending_club("run", "--data", "loans.csv.gz", cwd=project)
    error = last_error(done)
    assert "[1/5]" not in done.stderr and "the test set is empty" in error and "the loans cover 2012-01 to 2013-12" in error


def test_a_run_that_fails_while_logging_is_marked_and_moves_no_alias(stocked, stock):
    settings = stocked
    promote(settings)
    kept = settings.var / "artifacts.kept"
    (settings.var / "artifacts").rename(kept)
    (settings.var / "artifacts").write_text("no folder")
    with pytest.raises(Exception, match="artifacts"):
        train(settings)
    (settings.var / "artifacts").unlink()
    kept.rename(settings.var / "artifacts")
    client = connect(settings)
    runs = client.search_runs([experiment_id(settings, client)], order_by=["attributes.start_time"])
    assert [r.info.status for r in runs if r.info.run_name == "train"] == ["FINISHED", "FINISHED", "FAILED"]
    assert version_by_alias(settings, client, "candidate") is None
    assert str(version_by_alias(settings, client, "champion").version) == stock.first.version


@pytest.mark.slow
def test_a_run_that_is_interrupted_says_so(project):
    with process(COMMAND, "run", cwd=project, log=project / "run.log") as running:
        wait_until(lambda: list((project / "var").rglob("00_explore.ipynb")), what="the first stage")
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
    assert "interrupted" in (project / "run.log").read_text()
