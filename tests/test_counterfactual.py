"""Sampling under guidance, on Gaussian images with exact denoiser and factors, and on a tiny network for what must hold whatever the weights."""

import numpy as np
import pytest
import torch
from gaussian_images import N, W, X, exact_denoiser, exact_guide

from gencausal import checks, counterfactual, scm, seeding, solvers
from gencausal.counterfactual import Sampling
from gencausal.guidance import Guide, ImageDenoiser
from gencausal.nn.unet import Encoder, UNet

CHAIN = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])


def network(seed=0):
    denoiser = ImageDenoiser(UNet(3, 16, seeding.generator(seed, "g"), width=16, patch=2, blocks=1), "v").double()
    guide = Guide(Encoder(3, 16, N, seeding.generator(seed, "h"), width=16, patch=2), scm.make("mlp", CHAIN, seeding.generator(seed, "scm"))).double()
    with torch.no_grad():
        for module in (denoiser, guide):
            for name, parameter in module.named_parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=seeding.generator(1, name), dtype=parameter.dtype))
    return denoiser.requires_grad_(False), guide.requires_grad_(False)


IMAGES = (0.3 * torch.randn(3, 3, 16, 16, generator=seeding.generator(2, "x"), dtype=torch.float64)).clamp(-1, 1)


def test_inversion_and_sampling_meet_again():
    """E0: DDIM backwards and forwards returns the image, the better the more steps."""
    denoiser, _ = network()
    errors = []
    for steps in (10, 40, 160):
        grid = Sampling(steps=steps).grid()
        back = solvers.ddim(denoiser, counterfactual.abduct(denoiser, IMAGES, grid), grid)
        errors.append(float((back - IMAGES).abs().max()))
    assert errors[2] < errors[1] / 2 < errors[0] / 4 and errors[2] < 0.05


def test_a_noise_draw_loses_the_image():
    denoiser, guide = network()
    kept = counterfactual.counterfactual(denoiser, guide, IMAGES, {0: 0.0}, Sampling(steps=40, kappa=0.0, eta=0.0))[0]
    lost = counterfactual.counterfactual(denoiser, guide, IMAGES, {0: 0.0}, Sampling(steps=40, kappa=0.0, eta=0.0, abduction="noise"), rng=seeding.generator(0, "q"))[0]
    assert (kept - IMAGES).abs().mean() < 0.1 * (lost - IMAGES).abs().mean()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_without_strength_it_is_plain_sampling(eta):
    """kappa = 0 is the row without guidance, for the same random stream."""
    denoiser, guide = network()
    sampling = Sampling(steps=8, kappa=0.0, eta=eta)
    grid = sampling.grid()
    start = torch.randn(IMAGES[:1].shape, generator=seeding.generator(3, "start"), dtype=IMAGES.dtype)
    found = counterfactual.guided(denoiser, guide, start, torch.ones(1, N, dtype=torch.float64), sampling, rng=seeding.generator(0, "s"))
    plain = solvers.ancestral(denoiser, start, grid, seeding.generator(0, "s")) if eta else solvers.ddim(denoiser, start, grid)
    torch.testing.assert_close(found, plain.clamp(-1, 1), atol=1e-9, rtol=0)


def test_exact_guidance_of_strength_one_samples_the_conditional_law():
    """x_0 ~ N(0, 0.05 I): with the exact gradient and variance, classifier guidance (Eq. guided-ddim) ends at the last level of images whose factors are the target, the rest untouched.

    For z = W x_0 observed without noise: E[z | x_t] = a W x_t with a = alpha v / (alpha^2 v + sigma^2), Var = v sigma^2 / (alpha^2 v + sigma^2) = s_z^2.
    """
    v = 0.05
    levels = solvers.vp_levels()

    def denoise(x, alpha, sigma):
        return x * alpha * v / (alpha**2 * v + sigma**2)

    class Exact(torch.nn.Module):
        """Guide whose residual is scaled so that `fixed` with s_z = 1 is the exact grad log p(z_bar | x_t)."""

        sees = "noisy"

        def gradient(self, x, alpha, sigma, target, which=None, denoiser=None):
            found = denoise(x, alpha, sigma).flatten(1) @ W.T
            slope, variance = alpha * v / (alpha**2 * v + sigma**2), v * sigma**2 / (alpha**2 * v + sigma**2)
            return (slope / variance * (target - found) @ W).view_as(x), target - found

    target = torch.tensor([[0.2, -0.1, 0.3]], dtype=torch.float64).expand(6, N)
    sampling = Sampling(steps=400, start=1.0, strength="fixed", kappa=1.0, tau=0.0, eta=0.0)
    start = X * (float(levels.alpha[0]) ** 2 * v + float(levels.sigma[0]) ** 2) ** 0.5
    found = counterfactual.guided(denoise, Exact(), start, target, sampling)
    plain = solvers.ddim(denoise, start, sampling.grid())
    alpha, sigma, _ = sampling.grid()
    eps = (start.flatten(1) @ W.T - alpha[0] * target) / sigma[0]
    torch.testing.assert_close(found.flatten(1) @ W.T, alpha[-1] * target + sigma[-1] * eps, atol=1e-6, rtol=0)
    across = torch.eye(len(W[0]), dtype=torch.float64) - W.T @ W
    torch.testing.assert_close(found.flatten(1) @ across, plain.flatten(1) @ across, atol=1e-6, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("strength, kappa", [("adaptive", 0.05), ("shape", 0.05), ("fixed", 1.0)])
def test_guidance_brings_the_factors_nearer(strength, kappa, eta):
    guide = exact_guide()
    target = torch.full((6, N), 0.8, dtype=torch.float64)
    x = 0.5 * X.clamp(-1, 1)
    distance = []
    for strong in (0.0, kappa):
        sampling = Sampling(steps=40, start=0.75, spacing="uniform", strength=strength, kappa=strong, eta=eta)
        found = counterfactual.guided(exact_denoiser, guide, counterfactual.abduct(exact_denoiser, x, sampling.grid()), target, sampling, rng=seeding.generator(0, "s"))
        distance.append(float((found.flatten(1) @ W.T - target).abs().mean()))
    assert distance[1] < 0.8 * distance[0]


def test_ddim_and_ddpm_variances_by_hand():
    """Eq. guided-ddim is the DDIM step of a shifted eps, Eq. guided-ddpm the posterior variance; both are positive and vanish with the step."""
    grid = Sampling(steps=20).grid()
    step = solvers.Step(3, solvers._numbers(grid), X, X, X, None, None)
    shifted = step.by_noise(step.eps - 0.25 * grid.sigma[3] * X) - step.by_noise(step.eps)
    torch.testing.assert_close(shifted, 0.25 * counterfactual.step_variance(step, 0.0) * X)
    assert counterfactual.step_variance(step, 1.0) > 0
    fine = Sampling(steps=749).grid()
    near = solvers.Step(100, solvers._numbers(fine), X, X, X, None, None)
    assert counterfactual.step_variance(near, 0.0) / counterfactual.step_variance(near, 1.0) == pytest.approx(0.5, abs=0.02), "half of the score's share in the ODE against the SDE"


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_step_keeps_the_law_of_the_noise(eta):
    """Eq. ddim-eta: of x = alpha x_0 + sigma eps with x_0 known, every share of fresh noise leaves x' ~ N(alpha' x_0, sigma'^2 I), and eta is what differs from DDIM."""
    x0, eps = torch.full((1, 1, 80, 80), 0.3, dtype=torch.float64), torch.randn(1, 1, 80, 80, generator=seeding.generator(0, "e"), dtype=torch.float64)
    sampling = Sampling(steps=6, kappa=0.0, eta=eta)
    grid = sampling.grid()
    guide = Guide(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6400, N)).double(), scm.make("independent", np.zeros((N, N)), seeding.generator(0, "scm")).double(), "denoised")
    start = float(grid.alpha[0]) * x0 + float(grid.sigma[0]) * eps
    seen = []
    counterfactual.guided(lambda x, a, s: seen.append((x, a, s)) or x0 + 0 * x, guide, start, torch.zeros(1, N, dtype=torch.float64), sampling)
    for k, (x, alpha, sigma) in enumerate(seen):
        noise = (x.detach() - alpha * x0) / sigma
        assert abs(noise.mean()) < 0.05 and noise.std() == pytest.approx(1, abs=0.03)
        alike = float((noise * eps).mean())
        assert alike == pytest.approx(1, abs=0.03) if eta == 0 or k == 0 else alike < 0.99 - 0.5 * (eta == 1)


def test_counterfactual_factors_are_those_of_the_scm():
    denoiser, guide = network()
    z = torch.randn(3, N, generator=seeding.generator(4, "z"), dtype=torch.float64)
    _, target = counterfactual.counterfactual(denoiser, guide, IMAGES, {0: 1.0}, Sampling(steps=2), z=z)
    torch.testing.assert_close(target, guide.scm.counterfactual(z, {0: 1.0}))
    _, alone = counterfactual.counterfactual(denoiser, guide, IMAGES, {0: 1.0}, Sampling(steps=2, which="intervened"), z=z)
    torch.testing.assert_close(alone, torch.cat([torch.ones(3, 1, dtype=z.dtype), z[:, 1:]], 1))
    assert counterfactual.steering({0: 1.0}, z, Sampling(which="intervened")).tolist() == [[1, 0, 0]] * 3 and counterfactual.steering({0: 1.0}, z, Sampling()) is None


def test_units_are_treated_alike_alone_or_in_company():
    denoiser, guide = network()
    z = torch.randn(3, N, generator=seeding.generator(4, "z"), dtype=torch.float64)
    do = torch.tensor([0.5, -0.5, 1.0], dtype=torch.float64)
    together = counterfactual.counterfactual(denoiser, guide, IMAGES, {1: do}, Sampling(steps=5), z=z)[0]
    alone = counterfactual.counterfactual(denoiser, guide, IMAGES[1:2], {1: do[1:2]}, Sampling(steps=5), z=z[1:2])[0]
    torch.testing.assert_close(together[1:2], alone, atol=1e-9, rtol=0)


def test_sequences_chain_images_or_states():
    seen = []

    def step(images, do):
        seen.append((float(images), do))
        return images + 1

    first = torch.zeros(())
    assert [float(v) for v in counterfactual.sequence(step, first, [{0: 1.0}, {1: 2.0}, {0: 3.0}])] == [1, 2, 3]
    assert seen == [(0, {0: 1.0}), (1, {1: 2.0}), (2, {0: 3.0})]
    seen.clear()
    assert [float(v) for v in counterfactual.sequence(step, first, [{0: 1.0}, {1: 2.0}, {0: 3.0}], "state")] == [1, 1, 1]
    assert seen == [(0, {0: 1.0}), (0, {0: 1.0, 1: 2.0}), (0, {0: 3.0, 1: 2.0})]


def test_typical_spreads_one_a_step():
    sampling = Sampling(steps=5, strength="moment")
    found = counterfactual.typical_spreads(exact_denoiser, exact_guide(), X, sampling, seeding.generator(0, "t"))
    np.testing.assert_allclose(found, [float(a) * N**0.5 / (X[0].numel()) ** 0.5 for a in sampling.grid().alpha[:-1]], rtol=1e-6)


def test_a_trace_holds_the_denoised_images():
    denoiser, guide = network()
    trace, sampling = [], Sampling(steps=4)
    counterfactual.guided(denoiser, guide, IMAGES, torch.zeros(3, N, dtype=torch.float64), sampling, trace=trace)
    assert len(trace) == 4 and trace[0].shape == IMAGES.shape
    grid = sampling.grid()
    torch.testing.assert_close(trace[0], denoiser(IMAGES, float(grid.alpha[0]), float(grid.sigma[0])))


def test_a_guide_of_denoised_images_takes_the_gradient_of_the_sampling_step():
    """Eq. guided-ddim by hand with a vector-Jacobian product through a second pass of the generator gives the same images; the sampler itself passes once a step."""
    denoiser, guide = network()
    guide = Guide(guide.projector, guide.scm, "denoised")
    sampling, target, passes = Sampling(steps=4, kappa=0.1, tau=0.0, eta=0.0), torch.ones(3, N, dtype=torch.float64), []

    def counted(x, alpha, sigma):
        passes.append(1)
        return denoiser(x, alpha, sigma)

    found = counterfactual.guided(counted, guide, IMAGES, target, sampling)
    assert len(passes) == 4

    def by_hand(step):
        alpha, sigma = step.grid.alpha[step.i], step.grid.sigma[step.i]
        gradient, _ = guide.gradient(step.x, alpha, sigma, target, denoiser=denoiser)
        return step.by_data(step.x0) + 0.1 * sigma * gradient / gradient.square().mean((1, 2, 3), keepdim=True).sqrt()

    with torch.no_grad():
        torch.testing.assert_close(found, solvers.walk(by_hand, denoiser, IMAGES, sampling.grid()).clamp(-1, 1), atol=1e-10, rtol=0)


@pytest.mark.parametrize("options, word", [({"strength": "strong"}, "strength"), ({"which": "none"}, "which"), ({"steps": 0}, "steps"), ({"start": 1.5}, "start"), ({"eta": 2}, "eta"), ({"abduction": "guess"}, "abduction")])
def test_unknown_choices_are_refused(options, word):
    with pytest.raises(checks.InputError, match=word):
        Sampling(**options)
