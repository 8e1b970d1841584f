"""Baselines of one SCM against closed forms: a linear system, leave-one-out by hand, what a mechanism implies."""

import importlib.util

import numpy as np
import pytest
import torch

from gencausal import checks, seeding
from gencausal.data import scms
from gencausal.data.scm_cells import cell
from gencausal.scm_metrics import row_rmse
from gencausal.scm_models import SIMPLE, KernelRidge, OLS, ZeroMechanism
from gencausal.scm_models.fip import FiP, FiPConfig
from gencausal.scm_models.regressions import PENALTIES, WIDTHS


def arrays(made, s, *names):
    return [getattr(made, name)[s].double().numpy() for name in names]


def test_least_squares_recovers_the_weights():
    """Eq. node-ols: with many rows the coefficients are those of Eq. lin in standardised units, and the noise is found."""
    drawn = scms.draw(scms.FAMILIES["lin_in"], 1, 5, seeding.generator(0, "ols"))
    x, noise_u = drawn.sample(20_000, seeding.generator(0, "rows"))
    scale = scms.Scale.of(x)
    model = OLS().fit(scale.into(x)[0].double().numpy(), drawn.adjacency[0].numpy())
    for j in range(5):
        parents = drawn.adjacency[0, :, j]
        exact = drawn.mechanisms.weight[0, parents, j] * scale.sd[0, 0, parents] / scale.sd[0, 0, j]
        np.testing.assert_allclose(model.nodes[j][1:], exact, atol=0.03)
    assert row_rmse((noise_u / scale.sd)[0].numpy(), model.noise(scale.into(x)[0].numpy()) ) < 0.02


def test_leave_one_out_is_leave_one_out():
    """Eq. loo: the error by which width and penalty are chosen is that of refitting without each row, and no other pair has a smaller one."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((25, 2))
    y = np.sin(2 * x[:, 0]) + 0.1 * rng.standard_normal(25)
    mean, seen, weights, width = KernelRidge()._fit_node(x, y)
    kernel = lambda a, b, w: np.exp(-((a[:, None] - b) ** 2).sum(-1) / (2 * w**2))  # noqa: E731

    def error(w, penalty):
        found = []
        for i in range(25):
            rest = np.arange(25) != i
            k = kernel(x[rest], x[rest], w) + penalty * np.eye(24)
            found.append(kernel(x[[i]], x[rest], w) @ np.linalg.solve(k, (y - mean)[rest]) - (y - mean)[i])
        return np.square(found).mean()

    errors = {(w, p): error(w * np.sqrt(2), p) for w in WIDTHS for p in PENALTIES}
    best = min(errors, key=errors.get)
    assert width == pytest.approx(best[0] * np.sqrt(2))
    np.testing.assert_allclose(weights, np.linalg.solve(kernel(x, x, width) + best[1] * np.eye(25), y - mean), rtol=1e-6)


@pytest.mark.parametrize("name", SIMPLE)
def test_what_follows_from_a_mechanism(name):
    """For every model: noise then data gives the rows back, holding a node at its factual value changes nothing, a held node has its value and what does not descend from it keeps its own."""
    made = cell("rff_in", 5, 40, 2, rows=5)
    for s in range(2):
        context, adjacency, query = arrays(made, s, "context", "adjacency", "query")
        model = SIMPLE[name]().fit(context, adjacency)
        np.testing.assert_allclose(model.generate(model.noise(query)), query, atol=1e-8)
        held = np.full((1, 5), np.nan)
        held[0, model.order[0]] = 0.3
        after = model.counterfactual(query, held)
        assert (after[:, model.order[0]] == 0.3).all()
        same = np.full_like(query, np.nan)
        same[:, 2] = query[:, 2]
        np.testing.assert_allclose(model.counterfactual(query, same), query, atol=1e-8)


def test_kernel_ridge_beats_least_squares_where_mechanisms_bend():
    """Eq. node-krr: on RFF the error of kernel ridge is far below least squares, which is below F = 0; on LIN least squares is best (spec 5.10)."""
    def errors(family):
        made = cell(family, 6, 100, 4, rows=2)
        found = {}
        for name, model in SIMPLE.items():
            rows = [arrays(made, s, "context", "adjacency", "query", "query_noise") for s in range(4)]
            found[name] = np.mean([row_rmse(noise_u, model().fit(context, adjacency).noise(query)) for context, adjacency, query, noise_u in rows])
        return found
    bent, straight = errors("rff_in"), errors("lin_in")
    assert 1.5 * bent["kernel_ridge"] < bent["ols"] < bent["zero_mechanism"] and straight["ols"] < straight["kernel_ridge"] < straight["zero_mechanism"]
    assert 0.5 < straight["zero_mechanism"] < 0.85 and straight["ols"] < 0.1


def test_wrong_input_is_refused():
    with pytest.raises(checks.InputError, match="context has 3 columns"):
        OLS().fit(np.zeros((5, 3)), np.zeros((2, 2)))
    with pytest.raises(checks.InputError, match="cycle"):
        ZeroMechanism().fit(np.zeros((5, 2)), np.ones((2, 2)) - np.eye(2))
    assert torch.is_tensor(cell("lin_in", 3, 5, 1, rows=1).query)


def test_a_stack_of_fips_is_each_of_them():
    """Eq. fip-codes, Eq. fip-block: two data sets trained as one stack end as they do alone; the mechanism reads parents only; noise then data gives the rows back."""
    made = cell("rff_in", 4, 30, 2, rows=2)
    config = FiPConfig(rounds=6, width=16)
    both = FiP(config).fit(made.context, made.adjacency)
    for s in range(2):
        alone = FiP(config).fit(made.context[s : s + 1], made.adjacency[s : s + 1])
        torch.testing.assert_close(alone.noise(made.query[s : s + 1]), both.noise(made.query)[s : s + 1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both.generate(both.noise(made.query)), made.query, atol=1e-4, rtol=1e-4)
    jacobian = torch.autograd.functional.jacobian(lambda z: both.network(z), made.query[:, :1])
    for s in range(2):
        assert (jacobian[s, 0, :, s, 0][~made.adjacency[s].T] == 0).all() and (jacobian[s, 0, :, s, 0][made.adjacency[s].T] != 0).all()
    held = torch.full((1, 1, 4), torch.nan)
    held[..., 1] = 0.5
    assert (both.counterfactual(made.query, held)[..., 1] == 0.5).all()
    with pytest.raises(checks.InputError, match="10 to train"):
        FiP().fit(made.context[:, :5], made.adjacency)


def test_a_fit_is_found_again(tmp_path):
    """With a folder the second fit takes the first's weights and seconds; other rows, another seed or more passes are fits of their own."""
    made = cell("lin_in", 3, 20, 2, rows=2)
    config = FiPConfig(rounds=4, width=8, folder=tmp_path)
    first, again = (FiP(config).fit(made.context, made.adjacency) for _ in range(2))
    assert len(list(tmp_path.iterdir())) == 1 and again.seconds == first.seconds and torch.equal(again.noise(made.query), first.noise(made.query))
    FiP(config, 1).fit(made.context, made.adjacency)
    FiP(config).fit(made.context + 1e-3, made.adjacency)
    FiP(FiPConfig(rounds=5, width=8, folder=tmp_path)).fit(made.context, made.adjacency)
    assert len(list(tmp_path.iterdir())) == 4


def test_fip_learns_its_data_set():
    """After a hundred passes its noise error is well below that of F = 0."""
    made = cell("lin_in", 4, 100, 2, rows=2)
    model = FiP(FiPConfig(rounds=100, width=32)).fit(made.context, made.adjacency)
    zero = row_rmse(made.query_noise.numpy(), made.query.numpy())
    assert (row_rmse(made.query_noise.numpy(), model.noise(made.query).numpy()) < 0.6 * zero).all() and model.seconds > 0


@pytest.mark.skipif(importlib.util.find_spec("dowhy") is None, reason="needs dowhy, of the test extra")
def test_dowhy_is_fitted_alike():
    """On a straight mechanism DoWhy's search ends near least squares; its model obeys the interface: noise then data gives the rows back."""
    from gencausal.scm_models.dowhy import DoWhyGCM

    made = cell("lin_in", 4, 100, 1, rows=2)
    context, adjacency, query, noise_u = arrays(made, 0, "context", "adjacency", "query", "query_noise")
    model = DoWhyGCM().fit(context, adjacency)
    np.testing.assert_allclose(model.generate(model.noise(query)), query, atol=1e-6)
    assert row_rmse(noise_u, model.noise(query)) < 2 * row_rmse(noise_u, OLS().fit(context, adjacency).noise(query)) + 0.03
