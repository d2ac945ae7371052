"""What is learnt from a file: time to event where it tells when loans ended, else their final status; and until which date."""

import logging
from datetime import date

import numpy as np
import pandas as pd
import pytest

from lending_club import clean as cleaning
from lending_club.clean import check_loans, clean_loans, load_clean, split_loans
from lending_club.core.card import LABELS_FROM_THE_FUTURE
from lending_club.core.containers import DataError
from lending_club.core.outcomes import RUNNING_STATUSES
from lending_club.core.registry import connect, download_version
from lending_club.core.sample import draw
from lending_club.core.settings import SettingsError, read_setting, scratch_settings
from lending_club.serving.scorer import NoCurvesError, Scorer
from lending_club.train import Trained, train

SNAPSHOT = date(2019, 3, 1)


@pytest.fixture(scope="module")
def sample() -> pd.DataFrame:
    return draw(2_000).loans


@pytest.fixture
def settings_for(sample, tmp_path):
    "Settings of a run on loans written to a file."

    def write(loans: pd.DataFrame, target: str, **more):
        loans.to_csv(tmp_path / "loans.csv", index=False)
        return scratch_settings(data_path=str(tmp_path / "loans.csv"), target=target, **more)

    return write


def warnings_of(clean) -> list[str]:
    return [text for level, text in clean.notes if level >= logging.WARNING]


# --- by what the file tells


def test_a_file_that_tells_when_loans_ended(sample, settings_for):
    clean = load_clean(settings_for(sample, "auto"))
    assert clean.target == "time_to_event" and clean.snapshot == str(SNAPSHOT) and warnings_of(clean) == []
    assert {"end_month", "default"} <= set(clean.loans) and "last_pymnt_d" not in clean.loans
    assert clean.loans["default"].isna().mean() > 0.3, "running loans are kept"
    assert (clean.loans["default"].isna() == clean.loans["end_month"].isna()).all()


@pytest.mark.parametrize("how", ["no column", "hardly filled", "not of paid loans"])
def test_a_file_that_does_not_tell_is_trained_on_final_statuses(sample, settings_for, caplog, how):
    every = np.arange(len(sample))
    gaps = {"hardly filled": every % 3 > 0, "not of paid loans": (every % 5 == 0) & (sample["loan_status"] == "Fully Paid")}
    loans = sample.drop(columns="last_pymnt_d")
    if how in gaps:
        loans = sample.assign(last_pymnt_d=sample["last_pymnt_d"].mask(gaps[how]))
    settings = settings_for(loans, "auto")
    with caplog.at_level(logging.INFO, "lending_club"):
        clean = load_clean(settings)
    assert clean.target == "final_status" and clean.snapshot is None
    (said,) = [text for text in warnings_of(clean) if "labels from the future" in text]
    assert "last_pymnt_d" in said and "the target is the final status" in said and "\n" not in said
    assert said in caplog.messages
    assert "end_month" not in clean.loans and clean.loans["default"].isin([0, 1]).all()
    assert load_clean(settings).notes == clean.notes, "the cache repeats the warning"


@pytest.mark.parametrize("how", ["no column", "empty", "hardly filled"])
def test_time_to_event_needs_a_file_that_tells(sample, settings_for, monkeypatch, how):
    few = sample["last_pymnt_d"].where(np.arange(len(sample)) % 3 == 0)
    loans = {
        "no column": sample.drop(columns="last_pymnt_d"),
        "empty": sample.assign(last_pymnt_d=None),
        "hardly filled": sample.assign(last_pymnt_d=few),
    }[how]
    settings = settings_for(loans, "time_to_event")
    monkeypatch.setattr(cleaning, "clean_loans", lambda *_: pytest.fail("the error comes before the loans are cleaned"))
    with pytest.raises(DataError, match="last_pymnt_d.* cannot tell when loans ended: .* another copy .* set target = auto"):
        check_loans(settings)


def test_impossible_dates_are_named_and_left_out(sample, settings_for):
    usual = load_clean(settings_for(sample, "auto"))
    old = np.flatnonzero((sample["issue_d"].str[-4:] == "2015") & (sample["loan_status"] == "Fully Paid"))[:3]
    before, after, never = old
    loans = sample.copy()
    column = loans.columns.get_loc("last_pymnt_d")
    loans.iloc[before, column], loans.iloc[after, column], loans.iloc[never, column] = "Jan-2014", "May-2019", None
    clean = load_clean(settings_for(loans, "time_to_event", snapshot=str(SNAPSHOT)))
    (said,) = warnings_of(clean)
    assert said.startswith("3 loans have impossible dates") and said.endswith("they are left out") and "Mar-2019" in said
    for place, paid in ((before, "Jan-2014"), (after, "May-2019"), (never, "none")):
        assert f"{sample['id'][place]} (issued {sample['issue_d'][place]}, last payment {paid})" in said
    assert len(clean.loans) == len(usual.loans) - 3 and clean.target == "time_to_event"
    assert len(split_loans(settings_for(loans, "time_to_event"), clean).train) > 100


def test_a_payment_years_after_all_others_does_not_make_the_snapshot(sample, settings_for):
    wrong, never = np.flatnonzero(sample["loan_status"] == "Current")[[0, 7]]
    loans = sample.copy()
    loans.loc[wrong, "last_pymnt_d"] = "Dec-2024"
    loans.loc[never, ["loan_status", "last_pymnt_d"]] = ["Issued", "Jan-2012"]  # of no loan that was paid out
    clean = load_clean(settings_for(loans, "auto"))
    (said,) = warnings_of(clean)
    assert clean.snapshot == str(SNAPSHOT) and said.startswith("1 loans have impossible dates")
    assert f"{sample['id'][wrong]} (issued" in said and str(sample["id"][never]) not in said
    assert load_clean(settings_for(loans, "auto", snapshot="2019-04-01")).snapshot == "2019-04-01"


def test_a_day_that_no_month_has_is_refused_at_once():
    assert read_setting("snapshot", "2019-02-28", "settings.ini") == "2019-02-28"
    with pytest.raises(SettingsError, match="snapshot is '2019-02-31'; it must be a date up to the 28th"):
        read_setting("snapshot", "2019-02-31", "settings.ini")


def test_many_impossible_dates_are_refused(sample, settings_for):
    with pytest.raises(DataError, match="Jun-2016.*more.* Set snapshot to the month of the file, or target = final_status"):
        load_clean(settings_for(sample, "auto", snapshot="2016-06-01"))


def test_default_is_a_charge_off_and_late_loans_run(sample):
    usual = clean_loans(sample, target="time_to_event", snapshot=SNAPSHOT)
    charged_off = sample["loan_status"].isin(["Charged Off", "Default"])
    for status in ("Default", "Charged Off", *RUNNING_STATUSES):
        some = charged_off & (np.arange(len(sample)) % 2 == 0)
        other = sample.assign(loan_status=sample["loan_status"].mask(some, status))
        loans = clean_loans(other, target="time_to_event", snapshot=SNAPSHOT)
        assert len(loans) == len(usual)
        if status not in RUNNING_STATUSES:
            pd.testing.assert_frame_equal(loans, usual)
        else:
            assert (
                (loans["default"] == 1).sum() == (usual["default"] == 1).sum() - some.sum() < 0.7 * (usual["default"] == 1).sum()
            )
            assert loans["default"].isna().sum() == usual["default"].isna().sum() + some.sum()


# --- what a version says about it


def trained(**settings) -> tuple[Trained, object]:
    own = scratch_settings(sample_rows=6_000, epochs=2, **settings)
    return train(own), own


def scorer_of(result: Trained, settings, folder) -> Scorer:
    return Scorer.load(download_version(settings, connect(settings), result.version, folder, "extra_files"), result.version)


APPLICATION = {"loan_amnt": 10_000, "annual_inc": 60_000, "issue_d": "Jan-2019"}


@pytest.mark.slow
def test_a_version_fitted_through_the_snapshot_and_its_twin(tmp_path):
    result, settings = trained(target="time_to_event", fit_through="snapshot")
    twin, _ = trained(target="time_to_event", fit_through="val_end")
    assert result.card["fit_through"] == (
        "snapshot 2019-03; the metrics are those of its twin, fitted with the same recipe through val_end"
    )
    assert twin.card["fit_through"] == "val_end, as it was evaluated"
    pd.testing.assert_frame_equal(result.metrics, twin.metrics)
    assert result.card["metrics"] == twin.card["metrics"]
    recipe = ("kind", "seeds", "epochs", "epochs_used", "validation_loss", "base_hazards_loss")
    assert [result.card["network"][name] for name in recipe] == [twin.card["network"][name] for name in recipe]
    assert result.card["labels"] == "as known at the snapshot, 2019-03" and result.card["target"] == "time_to_event"
    assert twin.card["labels"] == "as known at val_end"
    assert result.card["threshold"] == result.pipeline[-1].threshold_ != twin.card["threshold"]
    tags = connect(settings).get_model_version(settings.registered_model_name, result.version).tags
    assert tags["fit_through"] == "snapshot" and float(tags["threshold"]) == result.card["threshold"]
    scorer = scorer_of(result, settings, tmp_path)
    assert scorer.threshold == result.card["threshold"]
    for term in (36, 60):
        (answer,) = scorer.score([APPLICATION | {"term": f" {term} months"}], curve=True)
        assert len(answer["cumulative_pd"]) == len(answer["cumulative_payoff"]) == term
        assert answer["cumulative_pd"][-1] == answer["probability_of_default"] > 0
        assert 0 < answer["cumulative_payoff"][-1] < 1 - answer["probability_of_default"]


@pytest.mark.slow
def test_a_version_of_final_statuses_says_that_its_labels_are_from_the_future(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "lending_club"):
        result, settings = trained(target="final_status")
    assert LABELS_FROM_THE_FUTURE.startswith("labels from the future")
    assert result.card["labels"] == LABELS_FROM_THE_FUTURE and result.card["horizon"] == "final status"
    assert connect(settings).get_run(result.run_id).data.tags["labels"] == LABELS_FROM_THE_FUTURE
    (said,) = [record for record in caplog.records if LABELS_FROM_THE_FUTURE in record.getMessage()]
    assert said.levelno == logging.WARNING
    scorer = scorer_of(result, settings, tmp_path)
    with pytest.raises(NoCurvesError, match="trained with target = time_to_event"):
        scorer.score([APPLICATION | {"term": " 36 months"}], curve=True)


def test_final_statuses_cannot_be_fitted_through_the_snapshot():
    with pytest.raises(SettingsError, match="fit_through = snapshot needs the target time_to_event"):
        trained(target="final_status", fit_through="snapshot")
