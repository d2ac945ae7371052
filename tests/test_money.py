"""Cash flows against closed forms on loans made by hand, and against loans drawn from the same hazards."""

import numpy as np
import pandas as pd
import pytest

from lending_club.core.backtest import Backtest, policy_results
from lending_club.core.cashflow import (
    LAST_PAID,
    Assumptions,
    CashFlowError,
    annual_return,
    balance,
    expected_cash_flows,
    expected_loss,
    net_present_value,
    present_value,
    total,
)
from lending_club.core.curves import ARREARS, MONTHS, given_age
from lending_club.core.realised import Realised

TOLERANCE = 1e-6


def certain(default: int = 0, payoff: int = 0) -> np.ndarray:
    "Curves of a loan that is charged off, or paid off, in one month for certain; 0: never."
    curves = np.zeros((1, MONTHS, 2))
    for kind, month in enumerate((default, payoff)):
        curves[0, month - 1 :, kind] = float(month > 0)
    return curves


def constant(hazard: float, term: int) -> np.ndarray:
    "Curves of a constant hazard of charge-off."
    month = np.minimum(np.arange(1, MONTHS + 1), term)
    return np.stack([1 - (1 - hazard) ** month, np.zeros(MONTHS)], axis=1)[None]


def annuity_value(instalment: float, months: int, monthly: float) -> float:
    "Present value of equal payments."
    return instalment * months if monthly == 0 else instalment * (1 - (1 + monthly) ** -months) / monthly


def owed_after(amount: float, rate: float, term: int, paid: int) -> float:
    "Balance by compounding: the debt grown, less the instalments grown."
    i = rate / 1200
    if i == 0:
        return amount * (1 - paid / term)
    instalment = amount * i / (1 - (1 + i) ** -term)
    return amount * (1 + i) ** paid - instalment * ((1 + i) ** paid - 1) / i


def instalment_of(amount: float, rate: float, term: int) -> float:
    i = rate / 1200
    return amount / term if i == 0 else amount * i / (1 - (1 + i) ** -term)


# amount, rate, term, month of charge-off, month of payoff, recovery rate, lag, fee
BY_HAND = {
    "paid on time": (10_000, 12.0, 36, 0, 0, 0.1, 12, 0.0),
    "paid on time, 60 months": (25_000, 21.5, 60, 0, 0, 0.1, 12, 0.0),
    "without interest": (3_600, 0.0, 36, 0, 0, 0.0, 0, 0.0),
    "with a fee": (8_000, 9.9, 36, 0, 0, 0.1, 12, 0.01),
    "paid off in the first month": (5_000, 15.0, 36, 0, 1, 0.1, 12, 0.0),
    "paid off in month 20": (12_000, 18.0, 60, 0, 20, 0.1, 12, 0.01),
    "never paid": (7_000, 25.0, 36, 5, 0, 0.2, 6, 0.0),
    "charged off in month 17": (15_000, 13.0, 60, 17, 0, 0.06, 24, 0.0),
    "charged off after its term": (9_000, 16.0, 36, 36, 0, 0.5, 3, 0.02),
    "charged off without recovery or interest": (6_000, 0.0, 36, 18, 0, 0.0, 12, 0.0),
}


def last_instalment(term: int, charged_off: int) -> int:
    return max(charged_off - ARREARS, 0) if charged_off < term else term - LAST_PAID


def worth_by_hand(name: str, yearly: float) -> float:
    "Present value of what one of the ten loans pays, by closed forms."
    amount, rate, term, charged_off, paid_off, recovery, lag, fee = BY_HAND[name]
    monthly, instalment = (1 + yearly) ** (1 / 12) - 1, instalment_of(amount, rate, term)
    if charged_off:
        paid = last_instalment(term, charged_off)
        back = recovery * owed_after(amount, rate, term, paid) * (1 + monthly) ** -(charged_off + lag)
        return (1 - fee) * annuity_value(instalment, paid, monthly) + back
    if paid_off:
        last = owed_after(amount, rate, term, paid_off - 1) * (1 + rate / 1200) * (1 + monthly) ** -paid_off
        return (1 - fee) * (annuity_value(instalment, paid_off - 1, monthly) + last)
    return (1 - fee) * annuity_value(instalment, term, monthly)


def loan_by_hand(name: str) -> tuple[dict, np.ndarray, Assumptions]:
    amount, rate, term, charged_off, paid_off, recovery, lag, fee = BY_HAND[name]
    loan = {"amount": np.array([amount]), "rate": np.array([rate]), "term": np.array([term])}
    return loan, certain(charged_off, paid_off), Assumptions(recovery, lag, fee)


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("yearly", [0.0, 0.06, 0.3])
def test_value_of_ten_loans_made_by_hand(name, yearly):
    loan, curves, own = loan_by_hand(name)
    worth = worth_by_hand(name, yearly)
    value = net_present_value(**loan, cumulative=curves, yearly_rate=yearly, assumptions=own)[0]
    assert value == pytest.approx(worth - loan["amount"][0], abs=TOLERANCE)
    payments = total(expected_cash_flows(**loan, cumulative=curves, assumptions=own))
    assert present_value(payments, yearly)[0] == pytest.approx(worth, abs=TOLERANCE)


@pytest.mark.parametrize("name", BY_HAND)
def test_annual_return_of_ten_loans_made_by_hand(name):
    "At the return that is found the closed form is worth what was lent; a loan that is paid earns its own rate."
    loan, curves, own = loan_by_hand(name)
    found = annual_return(total(expected_cash_flows(**loan, cumulative=curves, assumptions=own)), loan["amount"])[0]
    assert worth_by_hand(name, found) == pytest.approx(loan["amount"][0], rel=TOLERANCE)
    closer, further = worth_by_hand(name, found - 1e-5), worth_by_hand(name, found + 1e-5)
    assert further < loan["amount"][0] < closer
    if not BY_HAND[name][3] and not own.servicing_fee:
        assert found == pytest.approx((1 + loan["rate"][0] / 1200) ** 12 - 1, abs=TOLERANCE)
    if name == "never paid":  # a single payment, 11 months later
        assert found == pytest.approx(0.2 ** (12 / 11) - 1, abs=TOLERANCE)


@pytest.mark.parametrize("name", BY_HAND)
def test_expected_loss_of_ten_loans_made_by_hand(name):
    amount, rate, term, charged_off, paid_off, recovery, lag, fee = BY_HAND[name]
    loan = {"amount": np.array([amount]), "rate": np.array([rate]), "term": np.array([term])}
    own, share = Assumptions(recovery, lag, fee), 0.3  # three in ten such loans end so
    loss = 0.0
    if charged_off:
        loss = share * (1 - recovery) * owed_after(amount, rate, term, last_instalment(term, charged_off))
    curves = share * certain(charged_off, paid_off)
    assert expected_loss(**loan, cumulative=curves, assumptions=own)[0] == pytest.approx(loss, abs=TOLERANCE)
    within = loss if 0 < charged_off <= 12 else 0.0
    assert expected_loss(**loan, cumulative=curves, assumptions=own, months=12)[0] == pytest.approx(within, abs=TOLERANCE)


def test_a_constant_hazard_without_interest_has_a_closed_form():
    hazard, term = 0.01, 36
    loan = {"amount": np.array([3_600.0]), "rate": np.array([0.0]), "term": np.array([term])}
    paid = [min(max(c - ARREARS, 0), term) if c < term else term - LAST_PAID for c in range(1, term + 1)]
    shares = [hazard * (1 - hazard) ** (c - 1) for c in range(1, term + 1)]
    worth = 100 * (sum(share * months for share, months in zip(shares, paid, strict=True)) + term * (1 - hazard) ** term)
    value = net_present_value(**loan, cumulative=constant(hazard, term), yearly_rate=0.0, assumptions=Assumptions(0.0))
    assert value[0] == pytest.approx(worth - 3_600, abs=TOLERANCE)


def random_curves(rng, term: int) -> np.ndarray:
    hazards = rng.gamma(0.5, 0.03, (MONTHS, 2)) * (np.arange(1, MONTHS + 1) <= [[term], [term - 2]]).T
    alive = np.cumprod(1 - hazards.sum(axis=1))
    return np.cumsum(np.concatenate([[1.0], alive[:-1]])[:, None] * hazards, axis=0)[None]


@pytest.mark.parametrize("seed", range(4))
def test_cash_flows_agree_with_loans_drawn_from_the_same_hazards(seed):
    rng, draws = np.random.default_rng(seed), 40_000
    term, rate = int(rng.choice([36, 60])), rng.uniform(6, 28)
    own = Assumptions(rng.uniform(0, 0.3), int(rng.integers(0, 20)), 0.01)
    curves = random_curves(rng, term)
    ends = np.diff(curves[0], axis=0, prepend=0.0)
    shares = np.concatenate([ends.T.ravel(), [1 - ends.sum()]])
    fates = rng.choice(2 * MONTHS + 1, draws, p=shares / shares.sum())
    instalment, sums, squares, losses = instalment_of(1.0, rate, term), 0.0, 0.0, 0.0
    for fate, count in zip(*np.unique(fates, return_counts=True), strict=True):
        payments, owed = np.zeros(MONTHS + own.recovery_lag), 1.0
        charged_off = fate + 1 if fate < MONTHS else 0
        paid_off = fate - MONTHS + 1 if MONTHS <= fate < 2 * MONTHS else 0
        last = last_instalment(term, charged_off) if charged_off else term
        for month in range(1, last + 1):
            due = owed * (1 + rate / 1200) if month == paid_off else instalment
            payments[month - 1], owed = 0.99 * due, owed * (1 + rate / 1200) - due
            if month == paid_off:
                break
        if charged_off:
            payments[charged_off + own.recovery_lag - 1] += own.recovery_rate * owed
            losses += count * (1 - own.recovery_rate) * owed
        sums, squares = sums + count * payments, squares + count * payments**2
    mean = sums / draws
    error = np.sqrt(np.maximum(squares / draws - mean**2, 0) / draws)
    loan = {"amount": np.ones(1), "rate": np.array([rate]), "term": np.array([term]), "cumulative": curves, "assumptions": own}
    apart = np.abs(total(expected_cash_flows(**loan))[0] - mean)
    assert (apart <= 5 * error + 1e-9).all()
    assert expected_loss(**loan)[0] == pytest.approx(losses / draws, rel=0.05)


def test_curves_of_running_loans_at_age_0_are_those_of_new_loans():
    rng = np.random.default_rng(3)
    curves = np.concatenate([random_curves(rng, 36), random_curves(rng, 60)])
    loan = {"amount": np.array([1e4, 2e4]), "rate": np.array([9.0, 22.0]), "term": np.array([36, 60])}
    new, aged = (expected_cash_flows(**loan, cumulative=own) for own in (curves, given_age(curves, 0)))
    for name in new:
        np.testing.assert_allclose(aged[name], new[name], rtol=0, atol=1e-9)
    losses = [expected_loss(**loan, cumulative=own) for own in (curves, given_age(curves, 0))]
    np.testing.assert_allclose(*losses)


def test_a_portfolio_of_running_loans():
    "What new loans are expected to lose is lost in their first year, or later by those that are still running then."
    curves = constant(0.01, 36)
    loan = {"amount": np.array([1e4]), "rate": np.array([14.0]), "term": np.array([36])}
    first = expected_loss(**loan, cumulative=curves, months=12)
    later = expected_loss(**loan, cumulative=given_age(curves, 12), age=12)
    running = 1 - curves[0, 11].sum()
    assert first + running * later == pytest.approx(expected_loss(**loan, cumulative=curves), abs=TOLERANCE)
    flows = total(expected_cash_flows(**loan, cumulative=given_age(curves, 12), age=12))
    assert flows[0, :12].sum() == 0 and flows[0, 12] > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": [0.0]},
        {"amount": [np.nan]},
        {"amount": [1.0, 2.0]},
        {"rate": [-1.0]},
        {"rate": [np.nan]},
        {"term": [0]},
        {"term": [36.5]},
        {"term": [61]},
    ],
)
def test_loans_that_no_cash_flow_can_be_made_of(wrong):
    loan = {"amount": [1e4], "rate": [12.0], "term": [36], "cumulative": np.zeros((1, MONTHS, 2))} | wrong
    for compute in (expected_cash_flows, expected_loss, lambda **own: net_present_value(**own, yearly_rate=0.0)):
        with pytest.raises(CashFlowError):
            compute(**loan)


def test_balances_fall_to_zero():
    owed = balance([0.0, 12.0, 30.0], [36, 36, 60])
    assert (np.diff(owed) <= 1e-15).all() and (owed[:, 0] == 1).all() and (owed[:, -1] == 0).all()
    assert owed[1, 12] == pytest.approx(owed_after(1.0, 12.0, 36, 12))


def test_policies_of_three_loans_by_hand():
    "Profit, gain and NPV of a backtest whose payments are known: one paid, one charged off, one repaid in a month."
    realised = Realised(
        lent=np.array([1_000.0, 1_000.0, 500.0]),
        instalments=np.array([100.0, 50.0, 0.0]),
        last=np.array([100.0, 50.0, 510.0]),
        months=np.array([12.0, 4.0, 1.0]),
        recovered=np.array([0.0, 80.0, 0.0]),
        recovery_month=np.array([1, 21, 1]),
    )
    test = pd.DataFrame(
        {"default": [0.0, 1.0, 0.0], "sub_grade": ["A1", "B1", "C1"], "grade": ["A", "B", "C"], "term": " 36 months"}
    )
    own = {"funding_cost": 0.12, "hurdle_rate": 0.2}
    some = np.array([True, False, True])
    backtest = Backtest(
        None,
        test,
        0,
        False,
        own,
        {},
        np.array([0.1, 0.2, 0.3]),
        np.array([50.0, -9.0, 5.0]),
        np.array([60.0, -8.0, 6.0]),
        {"f1": some},
        realised,
    )
    found = policy_results(backtest)

    def worth(yearly: float) -> list[float]:
        v = (1 + yearly) ** (-1 / 12)
        second = sum(50 * v**m for m in range(1, 5)) + 80 * v**21 - 1_000
        return [sum(100 * v**m for m in range(1, 13)) - 1_000, second, 510 * v - 500]

    assert realised.profit.tolist() == pytest.approx([200.0, -720.0, 10.0])
    first, second, third = worth(0.12)
    assert found.loc["f1", "profit"] == pytest.approx(first + third) and found.loc["f1", "gain"] == pytest.approx(-second)
    assert found.loc["approve all", "profit"] == pytest.approx(first + second + third)
    assert found.loc["f1", "npv"] == pytest.approx(worth(0.2)[0] + worth(0.2)[2])
    assert found.loc["f1", "expected"] == 55.0 and found.loc["f1", "bad_rate"] == 0.0
    assert found.loc["sub-grade, as many as f1", "bad_rate"] == 0.5
    rate = found.loc["f1", "annual_return"]
    assert worth(rate)[0] + worth(rate)[2] == pytest.approx(0, abs=1e-6)
