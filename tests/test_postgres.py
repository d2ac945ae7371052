"""The same code on PostgreSQL, by settings alone."""

import pytest
from conftest import lending_club, make_project, new_database

from lending_club.core.registry import connect, version_by_alias
from lending_club.core.settings import load_settings


@pytest.mark.slow
def test_run_and_promote_on_postgresql(postgres, tmp_path):
    project = make_project(tmp_path / "project")
    where = {"MLFLOW_TRACKING_URI": new_database(postgres, "mlflow"), "OPTUNA_STORAGE": new_database(postgres, "optuna")}
    ran = lending_club("run", "--trials", 2, cwd=project, timeout=400, **where)
    assert ran.returncode == 0, ran.stderr
    assert lending_club("promote", cwd=project, **where).returncode == 0
    settings = load_settings(project, mlflow_tracking_uri=where["MLFLOW_TRACKING_URI"])
    assert str(version_by_alias(settings, connect(settings), "champion").version) == "1"
    assert not list((project / "var").glob("*.db"))
