"""One set of properties for all forms of mechanism (spec diffusion_counterfactuals, section 8), then closed forms."""

import numpy as np
import pytest
import torch

from gencausal import checks, graph, scm, seeding
from gencausal.data import pendulum

CHAIN = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0]])  # 0 -> 1 -> 2 <- 3
MIXED = CHAIN[np.ix_([2, 0, 3, 1], [2, 0, 3, 1])]  # the same with its nodes out of order
forms = pytest.mark.parametrize("form", ["mlp", "linear", "warped"])


def made(form, mask=CHAIN, scale=1.0):
    model = scm.make(form, mask, seeding.generator(0, "scm")).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(scale * 0.4 * torch.randn(parameter.shape, generator=seeding.generator(1, name), dtype=parameter.dtype))
        if hasattr(model, "edge"):
            model.edge.add_(0.8 * model.mask)
    return model.requires_grad_(False)


def factors(rows=200, n=4):
    return torch.randn(rows, n, generator=seeding.generator(2, "z"), dtype=torch.float64)


@forms
@pytest.mark.parametrize("mask", [CHAIN, MIXED], ids=["in order", "out of order"])
def test_abduction_inverts_prediction(form, mask):
    """Eq. nscm-mlp, Eq. nscm-linear, Eq. nscm-warped: in every form the noise of the factors gives the factors back."""
    model, z = made(form, mask), factors()
    torch.testing.assert_close(model.predict(model.abduct(z)), z, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.abduct(model.predict(z)), z, atol=1e-6, rtol=0)


@forms
def test_no_intervention_and_its_own_value_change_nothing(form):
    model, z = made(form), factors()
    torch.testing.assert_close(model.counterfactual(z, {}), z, atol=1e-6, rtol=0)
    for node in range(4):
        torch.testing.assert_close(model.counterfactual(z, {node: z[:, node]}), z, atol=1e-6, rtol=0)


@forms
@pytest.mark.parametrize("mask", [CHAIN, MIXED], ids=["in order", "out of order"])
def test_an_intervention_moves_itself_and_its_descendants_alone(form, mask):
    """A chain of three moves at its end: a mechanism that reads its parents' noise would stop after one edge."""
    model, z = made(form, mask), factors()
    below = graph.descendants(mask)
    for node in range(4):
        moved = (model.counterfactual(z, {node: 1.7}) - z).abs().amax(0)
        assert (moved[[*np.flatnonzero(below[node]), node]] > 1e-3).all(), f"do({node}) does not reach all its descendants"
        assert (moved[[k for k in range(4) if k != node and not below[node][k]]] < 1e-6).all()


@forms
def test_two_interventions_hold_at_once(form):
    model, z = made(form), factors()
    both = model.counterfactual(z, {0: 0.3, 1: -1.1})
    torch.testing.assert_close(both[:, :2], torch.tensor([[0.3, -1.1]], dtype=z.dtype).expand(len(z), 2), atol=1e-6, rtol=0)
    screened = (both[:, 2] - model.counterfactual(z, {1: -1.1})[:, 2]).abs().max() < 1e-6
    assert screened == (form != "linear"), "in the linear form a node sees the noise of its grandparents past a parent that is held"


@forms
def test_expected_reads_parents_alone(form):
    """Columns of the Jacobian of `expected` are zero off the mask."""
    model, z = made(form), factors(3)
    for row in z:
        jacobian = torch.autograd.functional.jacobian(lambda v: model.expected(v[None])[0], row)
        off = torch.as_tensor(CHAIN.T == 0)
        if form == "linear":  # through the linear reach a node sees its ancestors
            off = torch.as_tensor(~graph.descendants(CHAIN).T)
        assert jacobian[off].abs().max() < 1e-6


@pytest.mark.parametrize("form", scm.FORMS)
def test_gradients_reach_every_parameter_and_the_mask_holds(form):
    model = scm.make(form, CHAIN, seeding.generator(0, "scm"))
    z = factors().float()
    loss = (z - model.expected(z)).square().mean() + model.abduct(z).square().mean() + model.predict(z).square().mean() + model.weights().square().sum()
    if form != "independent":
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
        optimiser.step()
        assert (model.weights()[torch.as_tensor(CHAIN == 0)] == 0).all()


def test_without_mechanisms_nothing_follows():
    model, z = scm.make("independent", CHAIN, seeding.generator(0, "scm")), factors()
    moved = model.counterfactual(z, {0: 5.0}) - z
    assert (moved[:, 1:] == 0).all() and (model.expected(z) == 0).all() and model.adjacency().sum() == 0


def test_a_linear_chain_has_its_closed_form():
    """`warped` with identity maps: z = (I - A^T)^{-1} u, z_3 - counterfactual = a_01 a_12 (c - z_0); `A[i, j]` is i -> j."""
    model = scm.make("warped", CHAIN, seeding.generator(0, "scm")).double().requires_grad_(False)
    with torch.no_grad():
        for warp in (model.out, model.into):
            warp.height.fill_(-40)
            warp.slope.fill_(np.log(np.e - 1))
        model.edge.copy_(torch.tensor([[0, 2.0, 0, 0], [0, 0, -0.5, 0], [0, 0, 0, 0], [0, 0, 0.7, 0]]))
    u = factors()
    matrix = np.linalg.inv(np.eye(4) - model.weights().numpy().T)
    np.testing.assert_allclose(model.predict(u).numpy(), u.numpy() @ matrix.T, atol=1e-9)
    z = model.predict(u)
    torch.testing.assert_close(model.counterfactual(z, {0: 1.0})[:, 2] - z[:, 2], 2.0 * -0.5 * (1.0 - z[:, 0]), atol=1e-6, rtol=0)


def test_monotone_maps_invert():
    warp = scm.Monotone(3, seeding.generator(0, "warp")).double()
    with torch.no_grad():
        warp.height.add_(5)
    v = torch.linspace(-4, 4, 50, dtype=torch.float64)[:, None].expand(50, 3).clone().requires_grad_(True)
    w = warp(v)
    assert (w.diff(dim=0) > 0).all()
    torch.testing.assert_close(warp.inverse(w.detach()), v.detach(), atol=1e-9, rtol=0)
    inverse = warp.inverse(w)
    torch.testing.assert_close(torch.autograd.grad(inverse.sum(), w)[0] * torch.autograd.grad(warp(v).sum(), v)[0], torch.ones_like(v), atol=1e-6, rtol=0)


def test_the_shadow_needs_a_kinked_mechanism():
    """A linear mechanism explains 2 % of the shadow's length, a small network nearly all of it (spec, section 8)."""
    found = pendulum.load("public", size=8).factors
    z = ((found - found.mean(0)) / found.std(0)).float()
    linear = torch.linalg.lstsq(torch.cat([z[:, :2], torch.ones(len(z), 1)], 1), z[:, 2]).solution
    assert 1 - float((z[:, 2] - z[:, :2] @ linear[:2] - linear[2]).var()) == pytest.approx(0.017, abs=2e-3)
    model = scm.make("mlp", graph.adjacency(pendulum.GRAPH, pendulum.NAMES), seeding.generator(0, "scm"))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(300):
        row = torch.randint(len(z), (256,), generator=seeding.generator(step, "rows"))
        optimiser.zero_grad()
        (z[row] - model.expected(z[row]))[:, 2:].square().mean().backward()
        optimiser.step()
    assert ((z - model.expected(z)).var(0)[2:] < 0.1).all()


def test_a_learned_graph_with_a_cycle_still_predicts():
    mask = 1 - np.eye(3, dtype=int)
    model = scm.make("mlp", mask, seeding.generator(0, "scm"))
    assert model.predict(torch.zeros(2, 3)).shape == (2, 3) and graph.acyclicity(model.weights()).item() > 0


def test_bad_arguments_are_refused():
    with pytest.raises(checks.InputError, match="form"):
        scm.make("cubic", CHAIN, seeding.generator(0, "scm"))
    with pytest.raises(checks.InputError, match="mask"):
        scm.make("mlp", np.eye(3), seeding.generator(0, "scm"))
