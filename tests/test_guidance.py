"""Guidance where everything is known: Gaussian images whose factors are linear, so denoiser, factors and conditional law are exact (spec diffusion_counterfactuals, section 8)."""

import numpy as np
import pytest
import torch
from gaussian_images import N, SIZE, W, X, exact_guide

from gencausal import checks, guidance, scm, seeding
from gencausal.guidance import STRENGTHS, Guide, ImageDenoiser, displacement
from gencausal.nn.unet import Encoder, UNet

def small_guide(form="mlp", sees="noisy"):
    mask = np.triu(np.ones((N, N), int), 1)
    guide = Guide(Encoder(3, 16, N, seeding.generator(0, "h"), width=16, patch=2), scm.make(form, mask, seeding.generator(0, "scm")), sees).double()
    with torch.no_grad():
        for name, parameter in guide.named_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=seeding.generator(1, name), dtype=parameter.dtype))
    return guide


@pytest.mark.parametrize("prediction", guidance.PREDICTIONS)
def test_three_predictions_are_one_denoiser(prediction):
    """A network that gives the true eps, x_0 or v denoises to x_0 with loss zero."""
    alpha, sigma = torch.tensor([0.9, 0.6]), torch.tensor([0.19**0.5, 0.8])
    x, eps = torch.randn(2, 2, 3, 8, 8, generator=seeding.generator(3, "x"))
    a, s = alpha[:, None, None, None], sigma[:, None, None, None]
    truth = {"eps": eps, "x0": x, "v": a * eps - s * x}[prediction]
    denoiser = ImageDenoiser(lambda x_t, c, condition: truth, prediction)
    torch.testing.assert_close(denoiser(a * x + s * eps, alpha, sigma), x, atol=1e-5, rtol=0)
    assert denoiser.loss(x, eps, alpha, sigma).abs().max() < 1e-9
    weight = torch.tensor([0.81 / 0.19, 1.0]) if prediction == "x0" else torch.ones(2)  # the second level has a ratio of 0.56
    assert ImageDenoiser(lambda x_t, c, condition: truth + 1, prediction).loss(x, eps, alpha, sigma) == pytest.approx(weight, abs=1e-5)


def test_the_weight_of_an_image_prediction_is_bounded():
    """Eq. truncated-snr: 1 at levels of more noise than signal, 100 where the noise is nearly gone."""
    x, sigma = torch.zeros(3, 1, 4, 4), torch.tensor([0.99, 0.1, 0.001])
    found = ImageDenoiser(lambda x_t, c, condition: x_t * 0 + 1, "x0").loss(x, x, (1 - sigma**2).sqrt(), sigma)
    torch.testing.assert_close(found, torch.tensor([1.0, 99.0, 100.0]))


@pytest.mark.parametrize("form", ["mlp", "linear", "warped"])
@pytest.mark.parametrize("sees", ["noisy", "denoised"])
def test_the_vector_jacobian_product_is_the_explicit_one(form, sees):
    """Eq. guidance: one backward pass equals J^T (z_bar - z_hat) with J written out."""
    guide = small_guide(form, sees)
    denoiser = ImageDenoiser(UNet(3, 16, seeding.generator(4, "g"), width=16, patch=2, blocks=1)).double()
    with torch.no_grad():
        denoiser.network.out.weight.normal_(generator=seeding.generator(5, "g"))
    x, target = torch.randn(1, 3, 16, 16, generator=seeding.generator(6, "x"), dtype=torch.float64), torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    gradient, residual = guide.gradient(x, 0.8, 0.6, target, denoiser=denoiser)
    jacobian = torch.autograd.functional.jacobian(lambda v: guide(v, 0.8, 0.6, denoiser)[0], x)[:, 0]
    torch.testing.assert_close(residual, target - guide(x, 0.8, 0.6, denoiser).detach())
    torch.testing.assert_close(gradient[0], torch.einsum("n,nchw->chw", residual[0], jacobian))
    nearer = (target - guide(x + 1e-3 * gradient / gradient.norm(), 0.8, 0.6, denoiser)).norm()
    assert nearer < residual.norm(), "a small step along G brings the factors nearer"


def test_a_factor_left_out_does_not_steer():
    guide, target = exact_guide(), torch.ones(6, N, dtype=torch.float64)
    one = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    gradient, residual = guide.gradient(X, 0.8, 0.6, target, one)
    assert (residual[:, 1:] == 0).all()
    torch.testing.assert_close((gradient.flatten(1) @ W.T)[:, 1:], torch.zeros(6, 2, dtype=torch.float64), atol=1e-9, rtol=0)


def gradients():
    return exact_guide().gradient(X, 0.8, 0.6, torch.ones(6, N, dtype=torch.float64))


def test_adaptive_steps_have_the_noise_level_as_their_size():
    """Eq. lambda-a: root mean square kappa sigma in every image, whatever the scale of the residual; larger at higher noise."""
    gradient, residual = gradients()
    for factor in (1, 1e-4, 50):
        step = displacement("adaptive", factor * gradient, residual, 0.8, 0.6, 0.1, 0.5)
        torch.testing.assert_close(step.square().mean((1, 2, 3)).sqrt(), torch.full((6,), 0.3, dtype=torch.float64))
    assert displacement("adaptive", gradient, residual, 0.6, 0.8, 0.1, 0.5).norm() > step.norm()


def test_variants_a_and_b_are_one_and_the_others_are_not():
    """With an isotropic Sigma_t the per-image scale takes it out again (Eq. lambda-a, Eq. lambda-b)."""
    gradient, residual = gradients()
    steps = {s: displacement(s, gradient, residual, 0.8, 0.6, 0.1, 0.5, 0.7, typical=0.3) for s in STRENGTHS}
    torch.testing.assert_close(steps["adaptive"], steps["adaptive_variance"])
    names = [s for s in STRENGTHS if s != "adaptive_variance"]
    assert all((steps[a] - steps[b]).abs().max() > 1e-4 for i, a in enumerate(names) for b in names[:i])
    for step in steps.values():
        torch.testing.assert_close(torch.cosine_similarity(step.flatten(1), gradient.flatten(1)), torch.ones(6, dtype=torch.float64))


def test_by_hand():
    """Eq. lambda-fixed, Eq. lambda-shape, Eq. lambda-linear: every variant at one pixel: G = 3, sigma 0.6, Sigma_t 0.1, s_z 0.5, kappa 2."""
    gradient, residual = torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64), torch.full((1, 1), 0.5, dtype=torch.float64)
    expected = {"adaptive": 1.2, "adaptive_variance": 1.2, "adaptive_mean": 2 * 0.6 * 0.1 / 0.25, "moment": 2 * 0.6 * 3 / 4, "fixed": 2 * 0.1 * 3 / 0.25, "shape": 3.6, "linear": 2.16}
    for strength, value in expected.items():
        assert float(displacement(strength, gradient, residual, 0.8, 0.6, 0.1, 2.0, 0.5, typical=4.0)) == pytest.approx(value)
        assert float(displacement(strength, gradient, residual, 0.8, 0.6, 0.1, 2.0, 0.5, tau=2.0, typical=4.0)) == pytest.approx(value / 4)
        assert float(displacement(strength, gradient, residual, 0.8, 0.6, 0.1, 2.0, 0.5, tau=0.1, typical=4.0)) == pytest.approx(value)


def test_guidance_dies_with_the_residual_only_where_it_is_clipped():
    gradient, residual = exact_guide().gradient(X, 0.8, 0.6, 0.8 * X.flatten(1) @ W.T + 1e-9)
    assert displacement("adaptive", gradient, residual, 0.8, 0.6, 0.1, 1.0, tau=0.3).abs().max() < 1e-6
    assert displacement("adaptive", gradient, residual, 0.8, 0.6, 0.1, 1.0).square().mean().sqrt() > 0.5


def test_typical_spread_is_the_frobenius_norm():
    """Here J = alpha W with orthonormal rows, so ||J||_F = alpha sqrt(n) (Eq. lambda-c)."""
    found = guidance.typical_spread(exact_guide(), X, 0.8, 0.6, 0.5)
    assert found == pytest.approx(0.8 * N**0.5 * 0.5 / (3 * SIZE**2) ** 0.5)
    with pytest.raises(checks.InputError, match="typical"):
        displacement("moment", *gradients(), 0.8, 0.6, 0.1, 1.0)


def test_joint_loss_terms():
    """Eq. guide, Eq. joint-loss: unlabelled rows weigh nothing, w_t = alpha^2 scales, a perfect guide costs nothing, and penalties vanish on a given acyclic mask."""
    guide = exact_guide()
    alpha, sigma = torch.full((6,), 0.8, dtype=torch.float64), torch.full((6,), 0.6, dtype=torch.float64)
    z, labelled = 0.8 * X.flatten(1) @ W.T, torch.tensor([1.0, 1, 1, 0, 0, 0], dtype=torch.float64)
    assert guidance.factor_loss(guide, z, X, alpha, sigma, labelled).abs().max() < 1e-9
    wrong = guidance.factor_loss(guide, z + 1, X, alpha, sigma, labelled)
    torch.testing.assert_close(wrong, labelled)
    torch.testing.assert_close(guidance.factor_loss(guide, z + 1, X, alpha, sigma, labelled, "alpha"), 0.64 * labelled)
    model = scm.make("mlp", np.triu(np.ones((N, N), int), 1), seeding.generator(0, "scm")).double()
    torch.testing.assert_close(guidance.mechanism_loss(model, z, labelled), labelled * (z - model.expected(z)).square().mean(1))
    assert float(guidance.penalties(model, 1.0, 1.0, 0.0)) == pytest.approx(0, abs=1e-9)
    learned = scm.make("mlp", 1 - np.eye(N, dtype=int), seeding.generator(0, "scm"))
    assert float(guidance.penalties(learned, 1.0, 1.0, 0.0)) > 0


def test_unknown_choices_are_refused():
    for call in (lambda: ImageDenoiser(None, "score"), lambda: Guide(None, None, "clean"), lambda: displacement("strong", *gradients(), 0.8, 0.6, 0.1, 1.0)):
        with pytest.raises(checks.InputError, match="one of"):
            call()
