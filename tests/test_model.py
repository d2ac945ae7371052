"""The network as scikit-learn estimators: their contract, and the chain with other settings."""

import dataclasses
import warnings

import numpy as np
import pytest
import rtdl_num_embeddings
import tabm
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import estimator_checks_generator

from lending_club.core.estimators import LoanNet, SeedAverage, compare_losses
from lending_club.core.hyperparameters import DEFAULTS, make_net
from lending_club.core.networks import LoanMLP, LoanTabM, MemberLinear, NumericEmbedding, quantile_bins
from lending_club.core.registry import connect, version_by_alias
from lending_club.train import train

TINY = {
    "max_epochs": 20,
    "module__k": 2,
    "module__width": 8,
    "module__blocks": 1,
    "module__embedding": 2,
    "lr": 1e-2,
    "batch_size": 16,
    "averaging": 0.9,
    "callbacks__progress": None,
}

# What scikit-learn asks for and this cannot give, with the reason. `LoanNet` itself leaves the checking of input to it.
NOT_FOR_SEED_AVERAGE = {"check_fit2d_1sample": "one loan has one outcome, and the error says that"}


def contract():
    "scikit-learn's checks, each under its name: the estimator's text differs from process to process."
    checks = estimator_checks_generator(SeedAverage(LoanNet(**TINY)), expected_failed_checks=NOT_FOR_SEED_AVERAGE, mark="xfail")
    for number, check in enumerate(checks):
        values, marks = (check.values, check.marks) if hasattr(check, "values") else (check, ())
        called = values[1]
        name = getattr(called, "func", called).__name__
        yield pytest.param(*values, marks=marks, id=f"{number}-{name}")


@pytest.mark.parametrize("estimator, check", list(contract()))
def test_seed_average_keeps_scikit_learns_contract(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def some_loans(n=300):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 4)).astype(np.float32)
    return X, (rng.random(n) < 1 / (1 + np.exp(1 - X[:, 0]))).astype(int)


@pytest.mark.parametrize("net", [LoanNet(**TINY), LoanNet(LoanMLP, max_epochs=3, module__batch_norm=True, averaging=0)])
def test_loan_net_can_be_cloned_set_and_asked(net):
    X, y = some_loans()
    assert clone(net).get_params()["seed"] == net.seed == 42
    assert clone(net).set_params(lr=0.5, module__dropout=0.1).get_params()["module__dropout"] == 0.1
    first, second = clone(net).fit(X, y), clone(net).fit(X, y)
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert first.predict_proba(X).shape == (len(X), 2)
    np.testing.assert_allclose(first.predict_proba(X).sum(axis=1), 1)
    assert set(first.predict(X)) <= {0, 1} and list(first.classes_) == [0, 1]
    other = clone(net).set_params(seed=1).fit(X, y)
    assert (other.predict_proba(X) != first.predict_proba(X)).any()


# --- our layers and those that the authors of TabM publish


BINS = quantile_bins(np.random.default_rng(0).normal(size=(500, 3)), 8)


def test_the_embedding_is_the_authors_piecewise_linear_one():
    edges = [torch.tensor(own, dtype=torch.float32) for own in BINS]
    theirs = rtdl_num_embeddings.PiecewiseLinearEmbeddings(edges, 5, activation=False, version="B")
    ours = NumericEmbedding(BINS, 5)
    with torch.no_grad():
        theirs.linear.weight.normal_()  # zero at first: without this, only the linear part would be compared
        ours.slope.copy_(theirs.linear0.weight)
        ours.bias.copy_(theirs.linear0.bias)
        ours.bends.copy_(theirs.linear.weight)
        inside = torch.stack([torch.linspace(own[0], own[-1], 101) for own in edges], dim=1)
        torch.testing.assert_close(ours(inside), theirs(inside))
        beyond = torch.stack([torch.tensor([own[0] - 1, own[-1] + 1]) for own in edges], dim=1)
        apart = theirs(beyond) - ours(beyond)
    assert apart.abs().max() > 0.1, "beyond the outer edges theirs keeps the last slope, and ours only the linear part"


def test_a_members_layer_is_the_authors_batch_ensemble():
    torch.manual_seed(0)
    theirs = tabm.LinearBatchEnsemble(6, 4, k=3, scaling_init="normal")
    ours = MemberLinear(6, 4, k=3)
    with torch.no_grad():
        theirs.bias.normal_()
        for mine, other in ((ours.weight, theirs.weight), (ours.scale_in, theirs.r), (ours.scale_out, theirs.s)):
            mine.copy_(other)
        ours.bias.copy_(theirs.bias)
        x = torch.randn(50, 6)
        each = x[:, None].expand(-1, 3, -1)
        torch.testing.assert_close(ours(x).transpose(0, 1), theirs(each))
        torch.testing.assert_close(ours(each.transpose(0, 1)).transpose(0, 1), theirs(each))


def test_the_networks_body_is_the_authors_tabm():
    torch.manual_seed(0)
    ours = LoanTabM({"n_numeric": 3, "n_flags": 0, "cardinalities": [], "bins": BINS}, k=4, width=8, blocks=2, embedding=5).eval()
    edges = [torch.tensor(own, dtype=torch.float32) for own in BINS]
    embeddings = rtdl_num_embeddings.PiecewiseLinearEmbeddings(edges, 5, activation=False, version="B")
    own = {"n_num_features": 3, "num_embeddings": embeddings, "d_out": 1}
    theirs = tabm.TabM.make(**own, k=4, n_blocks=2, d_block=8, dropout=0.0).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(torch.randn_like(weight))
        for mine, other in _pairs(ours, theirs):
            mine.copy_(other.reshape(mine.shape))
        x = torch.stack([torch.linspace(own[0], own[-1], 60)[torch.randperm(60)] for own in edges], dim=1)
        torch.testing.assert_close(ours(x), theirs(x).squeeze(2))


def _pairs(ours, theirs):
    "Our parameters, and those of the authors' that mean the same."
    numeric, embeddings = ours.numeric, theirs.num_module
    yield from ((numeric.slope, embeddings.linear0.weight), (numeric.bias, embeddings.linear0.bias))
    yield numeric.bends, embeddings.linear.weight
    for layer, block in zip(ours.hidden, theirs.backbone.blocks, strict=True):
        other = block[0]
        yield from ((layer.weight, other.weight), (layer.scale_in, other.r), (layer.scale_out, other.s), (layer.bias, other.bias))
    yield from ((ours.weight, theirs.output.weight), (ours.bias, theirs.output.bias))


# --- the mean of the weights


@pytest.mark.parametrize("how", ["fixed epochs", "early stopping"])
def test_a_fitted_net_has_the_mean_weights_once(how):
    X, y = some_loans(600)
    layout = {"n_numeric": 4, "n_flags": 0, "cardinalities": []}
    net = make_net(DEFAULTS["tabm"], layout, epochs=4).set_params(callbacks__progress=None)
    if how == "fixed epochs":
        net.set_params(train_split=None)
    net.fit(X, y)
    tensors = [value for value in vars(net).values() if isinstance(value, torch.nn.Module)]
    assert {*map(id, tensors)} == {id(net.module_), id(net.criterion_)}, "a second copy of the weights would be saved"
    last = clone(net).set_params(averaging=0).fit(X, y)
    assert (net.predict_proba(X) != last.predict_proba(X)).any()


def test_training_can_go_on_after_a_fit():
    X, y = some_loans()
    net = LoanNet(**TINY | {"max_epochs": 3}).fit(X, y)
    before = net.predict_proba(X)
    net.partial_fit(X, y.astype(np.float32))
    assert (net.predict_proba(X) != before).any() and len(net.history) == 6


def learn_by_heart(seeds: int, repeats: int, caplog) -> SeedAverage:
    "Networks fitted on loans whose outcomes are drawn at random; where they repeat, each can be learnt by heart."
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60 if repeats > 1 else 2_000, 4)).astype(np.float32)
    y = rng.integers(2, size=len(X))
    X, y = np.tile(X, (repeats, 1)), np.tile(y, repeats)
    X_valid, y_valid = rng.normal(size=(500, 4)).astype(np.float32), rng.integers(2, size=500)
    net = LoanNet(**TINY | {"max_epochs": 3, "module__width": 32, "lr": 2e-2, "batch_size": 64})
    caplog.clear()
    return SeedAverage(net, n_seeds=seeds, n_stops=seeds).fit(X, y, X_valid, y_valid)


@pytest.mark.parametrize("seeds, whose", [(1, "of the network is"), (2, "of one of 2 networks is")])
def test_loans_learnt_by_heart_are_a_warning(caplog, seeds, whose):
    nets = learn_by_heart(seeds, 100, caplog)
    assert nets.losses_["validation_log_loss"] > 1.1 * nets.losses_["bad_rate_log_loss"]
    (said,) = [record.getMessage() for record in caplog.records]
    assert whose in said and "has learnt the training loans by heart" in said and "repeated loans" in said
    nets = learn_by_heart(seeds, 1, caplog)
    assert nets.losses_["validation_log_loss"] < 1.1 * nets.losses_["bad_rate_log_loss"] and not caplog.records


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_each_network_is_looked_at(caplog, bad):
    histories = [[{"valid_loss": 0.9 if i == bad else 0.6}, {"valid_loss": 2.0}] for i in range(3)]
    assert compare_losses(histories, np.array([0, 1]))["validation_log_loss"] == 0.9
    assert "of one of 3 networks is 0.9000 at best" in caplog.text


@pytest.mark.slow
def test_the_plain_network_goes_through_the_chain(settings):
    mlp = train(dataclasses.replace(settings, network="mlp"))
    assert mlp.card["network"]["kind"] == "mlp" and mlp.card["network"]["seeds"] == 1
    assert mlp.card["network"]["validation_loss"] < 1.1 * mlp.card["network"]["base_hazards_loss"]


@pytest.mark.slow
def test_several_seeds_and_the_plain_network_of_a_final_status_go_through_the_chain(settings):
    several = train(dataclasses.replace(settings, seeds=2))
    assert several.card["network"]["seeds"] == 2 and len(several.card["network"]["epochs"]) == 2
    assert [row["used"] for row in several.card["calibration"]["level"]] == [1.0, 1.0]
    assert version_by_alias(settings, connect(settings), "candidate").version == int(several.version)
    ended = train(dataclasses.replace(settings, target="final_status", network="mlp"))
    assert ended.card["network"]["validation_log_loss"] < 1.1 * ended.card["network"]["bad_rate_log_loss"]
    assert ended.card["calibration"]["method"] in ("sigmoid", "beta")
