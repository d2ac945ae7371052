"""Real loans, where they are there."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import lending_club, make_project
from sklearn.metrics import roc_auc_score

from lending_club.clean import clean_loans, load_clean, split_loans, temporal_split
from lending_club.core.data import read_loans
from lending_club.core.preprocess import preprocessing
from lending_club.core.settings import load_settings


def test_both_files_read_as_they_are(real_data):
    early = read_loans(real_data / "accepted_2007_to_2011.csv.gz")
    assert len(early) == 40_392
    mixed = read_loans(real_data / "accepted_sample_2007_to_2018.csv.gz", columns="all")
    assert mixed.shape == (7_535, 151)
    loans = clean_loans(mixed)
    assert len(loans) == 6_071
    from datetime import date

    splits = temporal_split(loans, date(2016, 1, 1), date(2017, 1, 1))
    assert (len(splits.train), len(splits.validation) + len(splits.calibration), len(splits.test)) == (4_925, 860, 286)


def test_columns_of_2007_to_2011_that_hardly_anyone_has_are_dropped(real_data):
    loans = clean_loans(read_loans(real_data / "accepted_2007_to_2011.csv.gz"))
    encoder = preprocessing(seed=0).fit(loans[:13_455])["encode"]
    assert {"fico", "log_tot_cur_bal", "open_acc_6m"} <= set(encoder.dropped_)
    assert {"fico", "open_acc_6m"}.isdisjoint(encoder.numeric_)


@pytest.mark.slow
def test_the_chain_on_the_loans_of_2007_to_2011(real_data, tmp_path):
    project = make_project(tmp_path / "project", "")
    file = real_data / "accepted_2007_to_2011.csv.gz"
    done = lending_club("run", "--data", file, "--train-end", "2010-07-01", "--val-end", "2011-01-01", cwd=project)
    assert done.returncode == 0, done.stderr
    (path,) = (project / "var" / "artifacts").rglob("card.json")
    card = json.loads(path.read_text())
    metrics = pd.DataFrame(card["metrics"])
    for other in ("logistic regression", "LightGBM"):  # a default LightGBM; benchmarks/models.py tunes it
        assert metrics.loc["roc_auc", "network"] >= metrics.loc["roc_auc", f"{other}, ended loans"]
        assert metrics.loc["log_loss", "network"] <= metrics.loc["log_loss", f"{other}, ended loans"] - 0.02
    assert 0.655 < metrics.loc["roc_auc", "sub-grade alone, ended loans"] < 0.675
    assert metrics.loc["ece", "network"] < 0.03
    assert card["target"] == "time_to_event" and card["splits"]["test"]["loans"] == 19_578
    # no column of the matrix alone tells the outcome
    settings = load_settings(project, data_path=str(file), train_end="2010-07-01", val_end="2011-01-01")
    splits = split_loans(settings, load_clean(settings))
    prepare = preprocessing(seed=0).fit(splits.known)
    matrix = prepare.transform(splits.test)
    alone = [roc_auc_score(splits.test["default"], column) for column in matrix.T]
    assert np.max(np.abs(np.array(alone) - 0.5)) < 0.19, "a column that ranks this well alone is a leak"
