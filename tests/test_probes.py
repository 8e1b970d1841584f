"""Readouts and disentanglement with networks whose answers are known: one that holds the factors, one that holds noise, one that holds the pixels."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from gencausal import claims, image_metrics
from gencausal.data import pendulum
from gencausal.experiments import pictures, probes
from gencausal.image_models import causaldiffae, predictor
from gencausal.image_models.guided import GeneratorConfig, GuideConfig, make_guide

SIZE = 16
SIZES = pictures.Sizes(GeneratorConfig(width=16, blocks=1), GuideConfig(width=16), judge=predictor.Config(width=16))


@pytest.fixture(scope="module")
def bench():
    return pictures.bench("pendulum", 30, 0, size=SIZE)


def data(n=80, k=10, m=2, seed=0):
    rng = np.random.default_rng(seed)
    h, w = rng.standard_normal((n, k)) * rng.uniform(0.1, 10, k) + 3, rng.standard_normal((k, m))
    return h, h @ w / 10 + 1


def test_readout_is_ridge(monkeypatch):
    """Eq. readout with one penalty is sklearn's ridge on standardised features; a straight relation is read exactly; columns do not see each other."""
    h, z = data()
    z = z + 0.3 * np.random.default_rng(1).standard_normal(z.shape)
    fit, new = slice(0, 50), slice(50, 80)
    scaled = (h - h[fit].mean(0)) / h[fit].std(0)
    with monkeypatch.context() as patch:
        patch.setattr(probes, "PENALTIES", np.array([3.0]))
        expected = Ridge(alpha=3.0).fit(scaled[fit], z[fit]).predict(scaled[new])
        by_hand = 1 - ((z[new] - expected) ** 2).sum(0) / ((z[new] - z[new].mean(0)) ** 2).sum(0)
        np.testing.assert_allclose(probes.readout(h[fit], z[fit], h[new], z[new]), by_hand)
    exact, straight = data()
    assert (probes.readout(exact[fit], straight[fit], exact[new], straight[new]) > 0.9999).all()
    both = probes.readout(h[fit], np.concatenate([z[fit], straight[fit]], 1), h[new], np.concatenate([z[new], straight[new]], 1))
    np.testing.assert_allclose(both, [*probes.readout(h[fit], z[fit], h[new], z[new]), *probes.readout(h[fit], straight[fit], h[new], straight[new])])


@pytest.mark.parametrize("k", [10, 30, 200])
def test_penalties_are_chosen_by_leaving_one_out(k, monkeypatch):
    """Eq. readout on pure noise, fewer features than rows or more: R^2 stays near zero, where the smallest penalty alone is far below; and the closed form is what refitting without each row gives."""
    rng = np.random.default_rng(0)
    h, z = rng.standard_normal((240, k)), rng.standard_normal((240, 40))
    assert probes.readout(h[:40], z[:40], h[40:], z[40:]).mean() > -0.15
    U, s, _ = np.linalg.svd(h[:40] - h[:40].mean(0), full_matrices=False)
    left = []
    for i in range(40):
        rest = np.arange(40) != i
        model = Ridge(alpha=10.0).fit(h[:40][rest], z[:40, :2][rest])
        left.append((model.predict(h[i:i + 1])[0] - z[i, :2]) ** 2)
    np.testing.assert_allclose(probes.leave_one_out(U, s, z[:40, :2] - z[:40, :2].mean(0), 10.0), np.mean(left, 0), rtol=1e-6)
    monkeypatch.setattr(probes, "PENALTIES", probes.PENALTIES[:1])
    assert probes.readout(h[:40], z[:40], h[40:], z[40:]).mean() < -0.2


class Teller(nn.Module):
    """Stands for a network: tells the factors of its images from their pixels, or noise of its own."""

    def __init__(self, tells):
        super().__init__()
        self.tells = tells


def teller(tells):
    def make(seed):
        return Teller(lambda images: torch.randn(len(images), 8, generator=torch.Generator().manual_seed(seed + len(images))) if tells == "noise" else images.flatten(1)[:, ::5])
    return make


def test_p_values_and_chance_of_known_networks(bench):
    """A network that holds the factors against networks of noise: p = 1 / (B + 1); the noise is at chance. Against networks that hold the pixels: those beat chance."""
    knows = Teller(lambda images: bench.standardised(torch.nan_to_num(pendulum.read(images))).float())
    represent = lambda network, images: network.tells(images)  # noqa: E731
    found = {"noise": probes.Network(knows, teller("noise"), represent), "pixels": probes.Network(knows, teller("pixels"), represent), "same": probes.Network(teller("pixels")(0), teller("pixels"), represent)}
    rows = pd.DataFrame(probes.probe_rows(bench, found, 0, draws=19, n=200))
    value = lambda method, metric: rows[(rows["method"] == method) & (rows["metric"] == metric)]["value"]  # noqa: E731
    assert (value("noise", "p_value") == 0.05).all() and set(rows[rows["metric"] == "p_value"]["unit"]) == {"angle", "light", "length", "position"}
    assert value("noise", "probe_r2").mean() > 0.9 and value("noise_random", "probe_r2").mean() < 0.1
    assert value("noise_random", "above_chance").mean() < 0.3 and (value("pixels_random", "above_chance") == 1).all() and len(value("pixels_random", "above_chance")) == 19
    assert (value("same", "p_value") == 1).all(), "a network no better than its null"
    assert len(claims.tidy(rows, "smoke")) == len(rows)
    made = pd.concat([rows.assign(method=rows["method"].str.replace("noise", name), seed=seed) for seed in (0, 1) for name in ("causaldiffae", "guide", "judge")]).drop_duplicates(["unit", "method", "metric", "seed"])
    assert claims.verdict(claims.find("A2.C18b"), claims.tidy(made, "smoke")).verdict == "reproduced in direction"
    assert claims.verdict(claims.find("A2.C18a"), claims.tidy(made, "smoke")).verdict == "refuted", "networks of noise"


def test_dci_of_known_codes(bench):
    """Eq. dci: a coordinate a factor is disentangled and complete; each factor in two coordinates is less complete; all factors mixed are less disentangled."""
    z = bench.training[1].numpy().astype(float)[:300, :2]
    rng = np.random.default_rng(0)
    code = z + 0.01 * rng.standard_normal(z.shape)
    one = image_metrics.dci(probes.importances(code, z, 0))
    two = image_metrics.dci(probes.importances(np.concatenate([code, z + 0.01 * rng.standard_normal(z.shape)], 1), z, 0))
    mixed = image_metrics.dci(probes.importances(code @ np.array([[1.0, 1.0], [1.0, -1.0]]), z, 0))
    assert probes.importances(code, z, 0).shape == (2, 2) and min(one) > 0.95 and two[1] < one[1] - 0.2 and two[0] > 0.9 and mixed[0] < one[0] - 0.4


def test_dci_rows_stand_beside_their_null(bench):
    knows = Teller(lambda images: bench.standardised(torch.nan_to_num(pendulum.read(images))).float())
    network = probes.Network(knows, teller("noise"), lambda made, images: made.tells(images))
    rows = pd.DataFrame(probes.dci_rows(bench, "causaldiffae", network, 0, draws=4, folds=2, n=160, trees=10))
    value = lambda method, metric: rows[(rows["method"] == method) & (rows["metric"] == metric)]["value"]  # noqa: E731
    assert len(value("causaldiffae", "disentanglement")) == 2 and (value("causaldiffae_dci", "p_value") == 0.2).all() and len(value("causaldiffae_dci", "p_value")) == 2
    assert value("causaldiffae", "disentanglement").min() > value("causaldiffae_random", "disentanglement").max() and len(claims.tidy(rows, "smoke")) == len(rows)
    assert {row["method"] for row in probes.dci_rows(bench, "diffae", network, 0, draws=0, folds=2, n=160, trees=10)} == {"diffae"}


def test_networks_are_drawn_anew_at_their_size(bench):
    """Three networks; the features have their shapes, differ between seeds and repeat; the judge's are the predictor's own."""
    both = causaldiffae.make(3, SIZE, bench.mask, causaldiffae.Config(generator=SIZES.generator), 0)
    judge = predictor.make(3, SIZE, 4, SIZES.judge, 0)
    found = probes.networks(bench, SIZES, make_guide(SIZES.guide, 3, SIZE, bench.mask, 0), judge, both)
    images = bench.images[:4]
    for name, network in found.items():
        first, again, other = (network.represent(network.make(seed), images) for seed in (0, 0, 1))
        assert first.shape == (4, 64 if name == "causaldiffae" else 256) and torch.equal(first, again) and not torch.allclose(first, other)
        assert {k: v.shape for k, v in network.make(3).state_dict().items()} == {k: v.shape for k, v in network.trained.state_dict().items()}
    with torch.no_grad():
        torch.testing.assert_close(found["judge"].represent(judge, images), judge.features(images))
        mean, _ = both["code"].posterior(2 * images - 1)
        torch.testing.assert_close(found["causaldiffae"].represent(both, images), both["code"].propagate(mean).flatten(1))
