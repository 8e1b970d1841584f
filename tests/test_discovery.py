"""Learned graphs: strengths of edges in closed form, cuts, and what the training criterion can decide at all."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gencausal import checks, graph, scm, seeding
from gencausal.experiments import discovery
from gencausal.guidance import Guide, penalties
from gencausal.image_models.guided import GuideConfig, make_guide

CYCLE = 1 - np.eye(3, dtype=int)


class Known(scm.SCM):
    """Node 1 is 0.7 z_0, node 2 is z_0^2 - 0.2 z_1; written with a scale c that cancels, as layers can."""

    def __init__(self, c: float = 1.0):
        super().__init__(CYCLE)
        self.c = torch.nn.Parameter(torch.tensor(c))

    def expected(self, z):
        first = self.c * z
        return torch.stack([0 * first[:, 0], 0.7 * first[:, 0] / self.c, (first[:, 0] / self.c) ** 2 - 0.2 * first[:, 1] / self.c], 1)


def test_strengths_in_closed_form():
    """Eq. edge-strength: |slope| of a line, 2 sd of a parabola, whatever the layers' scale."""
    z = torch.randn(4000, 3, generator=seeding.generator(0, "z"))
    want = torch.tensor([[0, 0.7, 2 * float(z[:, 0].square().mean().sqrt())], [0, 0, 0.2], [0, 0, 0]])
    for c in (1.0, 1e-3):
        torch.testing.assert_close(Known(c).strength(z).detach(), want, atol=1e-4, rtol=1e-4)


def test_the_penalty_of_strengths_reaches_the_mechanisms_and_has_a_scale():
    z = torch.randn(50, 3, generator=seeding.generator(0, "z"))
    model = scm.make("mlp", CYCLE, seeding.generator(0, "scm"))
    with torch.no_grad():
        model.networks.layers[2].weight.normal_(generator=seeding.generator(1, "w"))
    h = penalties(model, 1.0, 0.0, 0.0, z)
    assert h > 0 and all(g.abs().max() > 0 for g in torch.autograd.grad(h, [layer.weight for layer in model.networks.layers]))
    with torch.no_grad():
        before, first = penalties(model, 1.0, 0.0, 0.0, z), penalties(model, 1.0, 0.0, 0.0)
        model.networks.layers[2].weight.mul_(0.1)
    assert penalties(model, 1.0, 0.0, 0.0, z) < 0.1 * before and penalties(model, 1.0, 0.0, 0.0) == first, "the norm of the first layer sees no later layer"


def test_cycles_lose_their_weakest_edge():
    strength = np.array([[0, 0.9, 0.1], [0, 0, 0.8], [0.4, 0.5, 0]])
    assert discovery.acyclic(strength, 0.3).tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert discovery.acyclic(np.triu(np.ones((3, 3)), 1)).tolist() == np.triu(np.ones((3, 3)), 1).tolist()


def test_a_cut_guide_reads_strong_parents_alone():
    z = torch.randn(200, 3, generator=seeding.generator(0, "z"))
    guide = make_guide(GuideConfig(width=16, learned=True), 3, 16, np.zeros((3, 3)), 0)
    with torch.no_grad():
        for layer, gain in zip(guide.scm.networks.layers, (1, 1, 2)):
            layer.weight.mul_(gain)
        guide.scm.networks.layers[0].weight[1, 2] = 0  # node 1 does not read node 2
    strength = guide.scm.strength(z).detach().numpy()
    cut, found, h = discovery.pruned(guide, z, threshold=float(np.quantile(strength[CYCLE > 0], 0.2)))
    assert found.sum() >= 2 and graph.order(found) and h == pytest.approx(float(graph.acyclicity(torch.as_tensor(strength))), rel=1e-5) and h > 0
    moved = (cut.scm.strength(z) > 1e-5).numpy()
    assert (moved == found.astype(bool)).all() and isinstance(cut, Guide) and cut.projector is guide.projector
    roots = found.sum(0) == 0
    assert (cut.scm.expected(z)[:, roots] == 0).all() and all(torch.equal(a, b) for a, b in zip(cut.scm.parameters(), guide.scm.parameters()))


def test_learned_graphs_are_counted_against_the_true_one(monkeypatch):
    z = torch.randn(100, 3, generator=seeding.generator(0, "z"))
    truth = np.array([[0, 1, 1], [0, 0, 0], [0, 0, 0]])  # Known's edges above 0.3
    bench = SimpleNamespace(training=(None, z), mask=truth, name="made")
    guide = lambda config, seed, denoiser=None: Guide(torch.nn.Linear(1, 1), Known())  # noqa: E731
    monkeypatch.setattr(scm, "make", lambda form, mask, rng: Known())
    rows, found = discovery.graphs(SimpleNamespace(bench=bench, guide=guide), GuideConfig(learned=True), [0, 1])
    assert [(r["metric"], r["seed"]) for r in rows] == [("shd", 0), ("acyclicity", 0), ("shd", 1), ("acyclicity", 1)] and (found[1] == truth).all()
    assert [r["value"] for r in rows] == pytest.approx([0] * 4, abs=1e-5)
    bench.mask = truth.T
    assert discovery.graphs(SimpleNamespace(bench=bench, guide=guide), GuideConfig(learned=True), [0])[0][0]["value"] == 2


@pytest.mark.parametrize(("n", "count"), [(2, 3), (3, 25), (4, 543)])
def test_every_acyclic_graph_is_listed_once(n, count):
    """Robinson's numbers."""
    every = discovery.all_graphs(n)
    assert len(every) == count == len({made.tobytes() for made in every})
    with pytest.raises(checks.InputError, match="2, 3 or 4"):
        discovery.all_graphs(5)


def test_a_collider_is_decided_and_a_pair_of_normals_is_not():
    """Eq. graph-likelihood, Eq. graph-least-squares: of z_2 = sin(2 z_0) + z_1^2 / 2 + noise the likelihood has the true graph first; of a linear normal pair both directions score alike."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((800, 3))
    z[:, 2] = np.sin(2 * z[:, 0]) + 0.5 * z[:, 1] ** 2 + 0.3 * rng.standard_normal(800)
    z = (z - z.mean(0)) / z.std(0)
    truth = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]])
    found = discovery.rank_graphs(z, truth, rows=400).set_index("criterion")
    assert found.loc["likelihood", "better"] == 0 == found.loc["likelihood", "shd of the best"] and (found["graphs"] == 25).all()
    assert discovery.rank_graphs(z, truth.T, rows=400).set_index("criterion").loc["likelihood", "better"] > 5
    pair = rng.standard_normal((800, 2))
    pair[:, 1] = 0.8 * pair[:, 0] + 0.6 * pair[:, 1]
    one, other = (discovery.rank_graphs(pair, truth, rows=400) for truth in (np.array([[0, 1], [0, 0]]), np.array([[0, 0], [1, 0]])))
    assert np.abs(one["gap"] - other["gap"]).max() < 0.05 and (one["gap"] + other["gap"]).max() < 0.05


def test_residuals_in_closed_form():
    """1 without parents, the noise's variance with all of them; parents that say nothing make it worse, as the scored rows are not those of the fit."""
    rng = np.random.default_rng(1)
    z = rng.standard_normal((800, 2))
    z[:, 1] = z[:, 0] + 0.2 * z[:, 1]
    found = discovery.residuals(z, 400, 0)
    assert set(found) == {(0, ()), (1, ()), (0, (1,)), (1, (0,))}
    assert found[0, ()] == pytest.approx(1, abs=0.15) and found[1, (0,)] == pytest.approx(0.04, abs=0.012)
    apart = discovery.residuals(rng.standard_normal((160, 4)), 80, 0)
    assert all(apart[j, parents] > 1.2 * apart[j, ()] for j, parents in apart if len(parents) == 3)
