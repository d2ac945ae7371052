"""Policies from the settings to the service: each is registered, promoted and served, and its answers can be recomputed."""

import dataclasses
import json
import urllib.error
import urllib.request
from datetime import date

import numpy as np
import pandas as pd
import pytest
from conftest import REPO, last_error, lending_club, service, wait_until
from fastapi.testclient import TestClient

from lending_club.clean import load_clean, split_loans
from lending_club.core.conformal import is_referred
from lending_club.core.curve_example import version_with_curves
from lending_club.core.examples import sample_applications
from lending_club.core.money_plots import committee_table
from lending_club.core.payments import PAYMENT_COLUMNS, PAYMENTS
from lending_club.core.policy import Policy, PolicyError
from lending_club.core.policy_fit import fit_money
from lending_club.core.registry import connect, download_version
from lending_club.core.sample import draw
from lending_club.core.schema import EXAMPLE_APPLICATION
from lending_club.core.settings import load_settings, scratch_settings
from lending_club.promote import promote
from lending_club.serving.app import create_app
from lending_club.serving.scorer import Scorer, ServingError, read_files
from lending_club.train import check_decision, train

ASSUMPTIONS = {"recovery_rate": 0.07, "recovery_lag": 9, "servicing_fee": 0.01}
RULES = {"assumptions": ASSUMPTIONS, "funding_cost": 0.04, "hurdle_rate": 0.07}
RETURN = {
    "name": "return",
    "figure": "net_present_value",
    "unit": "USD",
    "bar": 0.0,
    "yearly_rate": 0.07,
    "assumptions": ASSUMPTIONS,
}
GOLDEN = REPO / "tests" / "golden" / "0.3.0"


def with_card(**own) -> Scorer:
    "A small version with curves whose card says more."
    files = version_with_curves(read_files(GOLDEN))
    card = json.loads(files["card.json"]) | own
    return Scorer.from_content(files | {"card.json": json.dumps(card).encode()}, "7")


def safest() -> dict:
    "The application of the sample with the least PD."
    some = sample_applications()
    answers = with_card().score(some)
    return some[min(range(len(some)), key=lambda place: answers[place]["probability_of_default"])]


SAFE = safest()
OFFERS = [
    SAFE | {"int_rate": rate, "installment": None, "term": term, "grade": "C", "sub_grade": "C3"}
    for rate in (5.0, 14.0, 28.0)
    for term in (" 36 months", " 60 months")
]


@pytest.fixture(scope="module")
def client() -> TestClient:
    "A client of a service whose champion decides by its return."
    app = create_app(scratch_settings())
    app.state.poller.scorer = with_card(policy=RETURN, money=RULES)
    return TestClient(app)


def by_hand(answer: dict, application: dict, yearly: float, assumptions: dict) -> float:
    "Net present value from the curves of an answer, loan by loan and month by month."
    amount, i = application["loan_amnt"], application["int_rate"] / 1200
    term = len(answer["cumulative_pd"])
    instalment = amount * i / (1 - (1 + i) ** -term)
    owed = [amount]
    for _ in range(term):
        owed.append(owed[-1] * (1 + i) - instalment)
    discount = [(1 + yearly) ** (-month / 12) for month in range(term + 100)]
    kept = 1 - assumptions["servicing_fee"]
    charged_off, paid_off = (np.diff(answer[name], prepend=0.0) for name in ("cumulative_pd", "cumulative_payoff"))

    def paid_until(last):
        return kept * instalment * sum(discount[1 : last + 1])

    worth = (1 - charged_off.sum() - paid_off.sum()) * paid_until(term)
    for month in range(1, term + 1):
        last = max(month - 5, 0) if month < term else term - 2
        back = assumptions["recovery_rate"] * owed[last] * discount[month + assumptions["recovery_lag"]]
        worth += charged_off[month - 1] * (paid_until(last) + back)
        worth += paid_off[month - 1] * (paid_until(month - 1) + kept * owed[month - 1] * (1 + i) * discount[month])
    return worth - amount


# --- one version ---


def test_an_answer_can_be_recomputed_from_its_curves(client):
    answers = client.post("/predict/batch?curve=true&money=true", json=OFFERS).json()
    for application, answer in zip(OFFERS, answers, strict=True):
        policy, money = answer["policy"], answer["money"]
        assert policy["value"] == money["net_present_value"]
        assert policy["value"] == pytest.approx(by_hand(answer, application, 0.07, ASSUMPTIONS), abs=0.006)
        assert money["expected_profit"] == pytest.approx(by_hand(answer, application, 0.04, ASSUMPTIONS), abs=0.006)
        assert answer["decision"] == ("approve" if policy["value"] > policy["bar"] else "refuse")
        assert (money["annual_return"] > 0.07) == (policy["value"] > 0)
        rate = money["annual_return"]
        assert by_hand(answer, application, rate, ASSUMPTIONS) == pytest.approx(0, abs=0.05)
    assert len({answer["decision"] for answer in answers}) == 2, "all offers are decided alike"
    single = [client.post("/predict?curve=true&money=true", json=one).json() for one in OFFERS]
    for one, other in zip(single, answers, strict=True):
        assert one["decision"] == other["decision"]
        assert one["money"] == pytest.approx(other["money"], abs=0.02)


def test_the_pd_keeps_its_own_words(client):
    "A safe loan that earns too little is refused, and not called bad."
    cheap = client.post("/predict", json=SAFE | {"int_rate": 4.0, "installment": None}).json()
    assert cheap["decision"] == "refuse" and cheap["policy"]["name"] == "return"
    assert (cheap["prediction"] == 1) == (cheap["probability_of_default"] >= cheap["threshold"]) == (cheap["label"] == "Bad Loan")
    assert cheap["prediction"] == 0 and "money" not in cheap


def test_without_a_rate_money_is_null_and_a_person_decides(client):
    answer = client.post("/predict?money=true", json=EXAMPLE_APPLICATION | {"int_rate": None}).json()
    assert answer["money"] is None and answer["policy"]["value"] is None
    assert (answer["decision"], answer["referred_for"]) == ("refer", ["int_rate is missing"])
    both = client.post("/predict/batch?money=true", json=[EXAMPLE_APPLICATION | {"int_rate": None}, EXAMPLE_APPLICATION]).json()
    assert both[0] == answer and both[1]["money"] is not None


@pytest.mark.parametrize("policy", ["cost", "approval_rate"])
def test_a_policy_of_the_pd_decides_without_a_rate(policy):
    pd_ = with_card().score([EXAMPLE_APPLICATION])[0]["probability_of_default"]
    for bar, decision in ((pd_ + 1e-6, "approve"), (pd_, "refuse"), (pd_ / 2, "refuse")):
        table = {"name": policy, "figure": "probability_of_default", "unit": "", "bar": bar}
        scorer = with_card(policy=table)
        if decision == "refuse" and bar == pd_:  # the PD of the application without a rate is another
            assert scorer.score([EXAMPLE_APPLICATION])[0]["decision"] == decision
        else:
            answers = scorer.score([EXAMPLE_APPLICATION, EXAMPLE_APPLICATION | {"loan_amnt": 10_000}])
            assert {a["decision"] for a in answers} == {decision}
        assert scorer.score([EXAMPLE_APPLICATION | {"int_rate": None}])[0]["decision"] in ("approve", "refuse")


def test_a_version_of_an_earlier_release_decides_by_f1():
    answer = with_card().score([EXAMPLE_APPLICATION])[0]
    assert answer["policy"] == {
        "name": "f1",
        "figure": "probability_of_default",
        "value": answer["probability_of_default"],
        "bar": answer["threshold"],
        "unit": "",
    }


def test_money_of_a_version_without_curves_or_assumptions():
    for scorer, lacks in ((Scorer.load(GOLDEN, "3"), "cumulative curves"), (with_card(), "assumptions")):
        app = create_app(scratch_settings())
        app.state.poller.scorer = scorer
        answer = TestClient(app).post("/predict?money=true", json=EXAMPLE_APPLICATION)
        assert answer.status_code == 422 and f"has no {lacks}" in answer.json()["detail"]
        assert "leave out money=true" in answer.json()["detail"]


def test_an_unknown_policy_is_not_served():
    with pytest.raises(ServingError, match="no policy 'luck'"):
        with_card(policy=RETURN | {"name": "luck"})


# --- what is not possible is said before the long work ---


def test_a_policy_of_money_needs_time_to_event(settings):
    settings = dataclasses.replace(settings, policy="profit", target="final_status")
    clean = load_clean(settings)
    with pytest.raises(PolicyError, match="policy = profit needs to know when loans end"):
        check_decision(settings, clean, split_loans(settings, clean))


def test_a_backtest_that_is_not_possible(project):
    said = last_error(lending_club("run", "--backtest-as-of", "2017-01-01", cwd=project))
    assert "backtest_as_of = 2017-01-01: the loans of the 12 months from then on have not all passed their term" in said
    said = last_error(lending_club("run", "--backtest-as-of", "soon", cwd=project))
    assert "backtest_as_of is 'soon'; it must be 'auto', 'off' or a date" in said


# --- nothing later decides ---


def test_what_came_later_changes_no_assumption(settings):
    clean = load_clean(settings)
    before = fit_money(settings, clean.payments, split_loans(settings, clean))
    assert before["recoveries"]["loans"] >= 50 and "charged off before 2016-01" in before["recoveries"]["source"]
    later = (clean.loans["end_month"] >= pd.Timestamp("2016-01-01")).to_numpy()
    changed = clean.payments.copy()
    changed.loc[later, ["recovered", "owed"]] = [1e6, 1.0]
    assert fit_money(settings, changed, split_loans(settings, clean)) == before
    assert not {*PAYMENTS, *PAYMENT_COLUMNS} & set(clean.loans), "payments stand among the loans"


# --- from the settings to the service ---


def ask(url: str, application: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(application).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_each_policy_is_registered_promoted_and_served(project, tmp_path):
    "The chain, once for each policy, in one registry; the running service takes each champion."
    parameters = {
        "f1": {},
        "cost": {"cost_ratio": 3.0},
        "approval_rate": {"approval_rate": 0.6},
        "profit": {"funding_cost": 0.05},
        "return": {"hurdle_rate": 0.09},
    }
    with service(project, tmp_path, POLL_INTERVAL="0.2") as url:
        for number, (policy, own) in enumerate(parameters.items(), 1):
            settings = dataclasses.replace(load_settings(), policy=policy, backtest_as_of="off", **own)
            trained = train(settings)
            assert trained.card["policy"]["name"] == policy and trained.card["backtest"] == {"none": "backtest_as_of = off"}
            promote(settings)
            version = wait_for(url, str(number))
            answer = ask(f"{url}/predict?curve=true&money=true", EXAMPLE_APPLICATION)
            assert (version, answer["policy"]["name"]) == (str(number), policy)
            assumptions = trained.card["money"]["assumptions"]
            yearly = {"profit": 0.05, "return": 0.09}.get(policy)
            value = answer["probability_of_default"]
            if yearly is not None:
                value = by_hand(answer, EXAMPLE_APPLICATION, yearly, assumptions)
            assert answer["policy"]["value"] == pytest.approx(value, abs=0.006)
            bar = answer["policy"]["bar"]
            approve = answer["policy"]["value"] > bar if yearly is not None else answer["policy"]["value"] < bar
            assert answer["decision"] == ("approve" if approve else "refuse")
            if policy == "cost":
                assert bar == pytest.approx(1 / 4, abs=1e-7)
            if policy == "approval_rate":
                recent = trained.pipeline.predict_proba(trained.splits.recent)[:, 1]
                assert Policy(trained.card["policy"]).approves(recent).mean() == pytest.approx(0.6, abs=0.01)
        with pytest.raises(urllib.error.HTTPError):
            ask(f"{url}/predict?money=yes", EXAMPLE_APPLICATION)


def wait_for(url: str, version: str) -> str:
    "The version that the service answers with, once it is this one."

    def now():
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
            found = json.load(answer)["current_version"]
        return found if found == version else None

    return wait_until(now, what=f"version {version} in service")


@pytest.mark.slow
def test_a_refer_band_reaches_the_service(project, tmp_path):
    own = {"refer_band": "class_conditional", "refer_level": 0.8, "policy": "return", "backtest_as_of": "off"}
    settings = dataclasses.replace(load_settings(), sample_rows=8_000, **own)
    trained = train(settings)
    table = trained.card["refer_band"]
    assert (table["kind"], table["level"], table["horizon"]) == ("class_conditional", 0.8, 12)
    assert {"overall", "by_grade", "by_term"} <= set(trained.band)
    client = connect(settings)
    scorer = Scorer.load(download_version(settings, client, trained.version, tmp_path, "extra_files"), trained.version)
    answers = scorer.score(OFFERS, curve=True)
    p12 = np.array([answer["cumulative_pd"][11] for answer in answers])
    uncertain = [any("uncertain" in why for why in answer.get("referred_for", ())) for answer in answers]
    assert uncertain == is_referred(p12, table).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("last_year", [2012, 2015])
def test_a_backtest_from_the_run_to_the_card(project, last_year):
    "With old loans the run's own model decides; with young test loans one is fitted as of an earlier date."
    issued = np.repeat(np.arange(2008 * 12, (last_year + 1) * 12), 90)
    loans = draw(len(issued), seed=4, issued=issued).loans
    loans.loc[loans.index[::500], "total_pymnt"] = np.nan  # a few do not tell what they paid
    loans.to_csv("old.csv", index=False)
    settings = dataclasses.replace(
        load_settings(),
        data_path="old.csv",
        policy="return",
        target="time_to_event",
        train_end=date(last_year - 1, 1, 1),
        val_end=date(last_year, 1, 1),
    )
    trained = train(settings)
    own = trained.card["backtest"]
    assert own["own_fit"] == (last_year == 2015) and own["as_of"] == {2012: "2012-01", 2015: "2013-04"}[last_year]
    assert own["left_out"] > 0 and own["loans"] == trained.money["deciles"]["loans"].sum()
    named = {"approve all", "f1", "cost", "approval_rate", "profit", "return", "sub-grade, as many as return"}
    assert named <= set(own["policies"])
    assert committee_table(own, trained.money["policies"]).to_html().count("<tr") == len(own["policies"]) + 1
    files = {artifact.path for artifact in connect(settings).list_artifacts(trained.run_id, "backtest")}
    assert files == {
        f"backtest/{name}"
        for name in ("policies.csv", "deciles.csv", "terms.csv", "approval_curves.csv", "approval.png", "deciles.png")
    }
