r"""Diffusion of images guided by a learned causal model (DiffusionCounterfactuals, arXiv 2407.20553, as specification 2.1 rebuilds it).

No code and no formula of the paper is available to us; what stands here is our implementable form, and every choice that the paper leaves open is an argument.

Notation: image x_0 in [-1, 1]^d, x_t = alpha x_0 + sigma eps with alpha^2 + sigma^2 = 1 (so sigma^2 is the paper's 1 - alpha-bar_t), kappa = sigma / alpha; standardised factors z in R^n.
Three parts: a generator (`ImageDenoiser`), a causal projector h and an SCM s (`scm`), the two in `Guide`:

    z_hat(x_t) = s(h(x_t, t))                                                                                        `Eq. guide`
    L = ||target - F||^2 + lambda_z w_t ||z - z_hat(x_t)||^2 + lambda_s ||z - s's own expectation from parents||^2
        + a h(A) + (r/2) h(A)^2 + lambda_1 |A|_1                                                                     `Eq. joint-loss`

For a network that predicts the image the first term is weighted by the signal-to-noise ratio between bounds (Salimans and Ho 2022 have the lower one),

    w(alpha, sigma) = min(max(alpha^2 / sigma^2, 1), 100)                                                            `Eq. truncated-snr`

A network on patches needs this form: a patch of more numbers than the first map has channels cannot carry its noise to the output, as eps and v ask, but it can carry a clean patch.

The first term bounds log p(x), the second log p(z | x): a joint likelihood (DC6). Guidance towards counterfactual factors z_bar is Bayes' rule at each step, with p(z_bar | x_t) = N(z_hat(x_t), s_z^2 I):

    G_t = J^T (z_bar - z_hat(x_t)),  J = d z_hat / d x_t,  grad log p = G_t / s_z^2                                  `Eq. guidance`

one vector-Jacobian product. How strong each step is (`strength`) is the paper's subject; see `displacement`.
"""

import torch
from torch import nn

from gencausal import checks, graph
from gencausal.nn.unet import Encoder, UNet
from gencausal.scm import SCM

PREDICTIONS = ("eps", "x0", "v")
LARGEST_WEIGHT = 100.0
STRENGTHS = ("adaptive", "adaptive_mean", "adaptive_variance", "moment", "fixed", "shape", "linear")


def per_image(value: torch.Tensor | float, x: torch.Tensor) -> torch.Tensor:
    """`value`, a number or [B], beside images x [B, C, H, W]."""
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    return value.reshape(-1, 1, 1, 1) if value.dim() else value


def level(alpha: torch.Tensor | float, sigma: torch.Tensor | float, x: torch.Tensor) -> torch.Tensor:
    """What a network reads of the noise level: ln(kappa) / 4, [B]."""
    kappa = torch.as_tensor(sigma, dtype=x.dtype, device=x.device) / torch.as_tensor(alpha, dtype=x.dtype, device=x.device)
    return (kappa.log() / 4).flatten().expand(len(x))


class ImageDenoiser(nn.Module):
    """E[x_0 | x_t] over a network that predicts eps, x_0 or v = alpha eps - sigma x_0: `x [B, C, S, S], alpha, sigma (numbers or [B]) -> [B, C, S, S]`.

    condition: [B, k] for a conditional network (a baseline), None for none. The generator of the method is unconditional.
    """

    def __init__(self, network: UNet, prediction: str = "eps"):
        super().__init__()
        self.network, self.prediction = network, checks.choice(prediction, "prediction", PREDICTIONS)

    def raw(self, x: torch.Tensor, alpha: torch.Tensor | float, sigma: torch.Tensor | float, condition: torch.Tensor | None = None) -> torch.Tensor:
        """The network's own prediction, eps, x_0 or v."""
        return self.network(x, level(alpha, sigma, x), condition)

    def forward(self, x: torch.Tensor, alpha: torch.Tensor | float, sigma: torch.Tensor | float, condition: torch.Tensor | None = None) -> torch.Tensor:
        out, alpha, sigma = self.raw(x, alpha, sigma, condition), per_image(alpha, x), per_image(sigma, x)
        if self.prediction == "eps":
            return (x - sigma * out) / alpha
        return out if self.prediction == "x0" else alpha * x - sigma * out

    def loss(self, x: torch.Tensor, eps: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """Mean squared error of the network's own prediction, [B], for x_0 weighted by Eq. truncated-snr; first term of Eq. joint-loss. x: clean images; alpha, sigma: [B]."""
        a, s = per_image(alpha, x), per_image(sigma, x)
        target = {"eps": eps, "x0": x, "v": a * eps - s * x}[self.prediction]
        weight = (alpha**2 / sigma**2).clamp(1, LARGEST_WEIGHT) if self.prediction == "x0" else 1.0
        return weight * (self.raw(a * x + s * eps, alpha, sigma, condition) - target).square().flatten(1).mean(1)


class Guide(nn.Module):
    """Projector and SCM (Eq. guide). sees: "noisy", the projector reads (x_t, t), or "denoised", it reads the generator's E[x_0 | x_t], so that J passes through the generator too."""

    def __init__(self, projector: Encoder, scm: SCM, sees: str = "noisy"):
        super().__init__()
        self.projector, self.scm, self.sees = projector, scm, checks.choice(sees, "sees", ("noisy", "denoised"))

    def noise(self, x: torch.Tensor, alpha: torch.Tensor | float, sigma: torch.Tensor | float, denoiser: nn.Module | None = None) -> torch.Tensor:
        """Exogenous code u = h(x_t, t), [B, n]."""
        if self.sees == "denoised":
            return self.projector(denoiser(x, alpha, sigma))
        return self.projector(x, level(alpha, sigma, x))

    def forward(self, x: torch.Tensor, alpha: torch.Tensor | float, sigma: torch.Tensor | float, denoiser: nn.Module | None = None) -> torch.Tensor:
        """z_hat(x_t), [B, n], standardised."""
        return self.scm.predict(self.noise(x, alpha, sigma, denoiser))

    def gradient(self, x: torch.Tensor, alpha: float, sigma: float, target: torch.Tensor, which: torch.Tensor | None = None,
                 denoiser: nn.Module | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """G_t [B, C, S, S] and the residual z_bar - z_hat [B, n] (Eq. guidance), by one vector-Jacobian product.

        which: weights of the factors in the residual, [n] or [B, n]; None for all. A factor left out is free to drift.
        """
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_(True)
            factors = self(x, alpha, sigma, denoiser)
            residual = (target - factors).detach() * (1 if which is None else which)
            gradient, = torch.autograd.grad((factors * residual).sum(), x)
        return gradient, residual


def penalties(model: SCM, alpha: float, rho: float, sparsity: float, z: torch.Tensor | None = None) -> torch.Tensor:
    """a h(A) + (r/2) h(A)^2 + lambda_1 |A|_1 of Eq. joint-loss, a scalar; zero for a given graph, whose mask is acyclic. A: Eq. edge-strength over `z [B, n]`, or `weights()` without it."""
    weights = model.weights() if z is None else model.strength(z)
    h = graph.acyclicity(weights)
    return alpha * h + 0.5 * rho * h**2 + sparsity * weights.abs().sum()


def factor_loss(guide: Guide, z: torch.Tensor, x_t: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor, labelled: torch.Tensor, weighting: str = "one",
                denoiser: nn.Module | None = None) -> torch.Tensor:
    """w_t ||z - z_hat(x_t)||^2, mean over factors, [B] (second term of Eq. joint-loss). labelled: [B] of 0 and 1, rows whose z is known; weighting: w_t = 1 or "alpha", w_t = alpha^2."""
    checks.choice(weighting, "weighting", ("one", "alpha"))
    error = (z - guide(x_t, alpha, sigma, denoiser)).square().mean(1)
    return labelled * error * (alpha**2 if weighting == "alpha" else 1)


def mechanism_loss(model: SCM, z: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    """||z - expectation from parents||^2, mean over factors, [B] (third term of Eq. joint-loss): without it the noise code absorbs the mechanism."""
    return labelled * (z - model.expected(z)).square().mean(1)


# ---------------------------------------------------------------- how strong a step is


def spread(gradient: torch.Tensor) -> torch.Tensor:
    """Standard deviation over the pixels of each image about zero, [B, 1, 1, 1]."""
    return gradient.square().mean((1, 2, 3), keepdim=True).sqrt()


def displacement(strength: str, gradient: torch.Tensor, residual: torch.Tensor, alpha: float, sigma: float, variance: float, kappa: float, s_z: float = 1.0,
                 tau: float = 0.0, typical: float | None = None) -> torch.Tensor:
    r"""What a guided step adds to the plain one, of `gradient`'s shape [B, C, S, S].

    gradient, residual: G_t and z_bar - z_hat (Eq. guidance). variance: Sigma_t, that of the step's own noise. kappa: the one global constant. s_z: spread of z about z_hat.
    tau: with tau > 0 the step is scaled by min(1, ||residual|| / tau), so that guidance dies as the factors are reached; 0 leaves it out.

        adaptive            kappa lambda_t G,  lambda_t = sigma / std(G)                         `Eq. lambda-a`   variant A, the default
        adaptive_variance   the same of Sigma_t G / s_z^2: with isotropic Sigma_t equal to A     `Eq. lambda-b`   variant B
        adaptive_mean       kappa lambda_t Sigma_t G / s_z^2, lambda_t of A                      `Eq. lambda-a-mean`
        moment              A with std(G) replaced by `typical` = mean ||J||_F s_z / sqrt(d)     `Eq. lambda-c`   variant C
        fixed               kappa Sigma_t G / s_z^2                                              `Eq. lambda-fixed`, classifier guidance (Dhariwal and Nichol 2021)
        shape               kappa sigma G                                                        `Eq. lambda-shape`, A's schedule without its adaptivity
        linear              kappa sigma^2 G                                                      `Eq. lambda-linear`

    The root mean square over pixels of A's displacement is kappa sigma for every image, whatever the scale of the residual: strong early, vanishing as t -> 0.
    """
    checks.choice(strength, "strength", STRENGTHS)
    tiny = torch.finfo(gradient.dtype).tiny ** 0.5
    if strength == "adaptive":
        step = sigma * gradient / (spread(gradient) + tiny)
    elif strength == "adaptive_variance":
        scaled = variance * gradient / s_z**2
        step = sigma * scaled / (spread(scaled) + tiny)
    elif strength == "adaptive_mean":
        step = sigma / (spread(gradient) + tiny) * variance * gradient / s_z**2
    elif strength == "moment":
        if typical is None:
            raise checks.InputError("strength 'moment' needs typical, the mean ||J||_F s_z / sqrt(d) of training images at each level (guidance.typical_spread).")
        step = sigma * gradient / (typical + tiny)
    elif strength == "fixed":
        step = variance * gradient / s_z**2
    else:
        step = (sigma if strength == "shape" else sigma**2) * gradient
    if tau > 0:
        step = step * (residual.norm(dim=1) / tau).clamp(max=1)[:, None, None, None]
    return kappa * step


def typical_spread(guide: Guide, x: torch.Tensor, alpha: float, sigma: float, s_z: float, denoiser: nn.Module | None = None) -> float:
    """Mean over noisy images `x [B, C, S, S]` of ||J||_F s_z / sqrt(d), for variant C: n vector-Jacobian products."""
    total = 0.0
    for node in range(guide.scm.n):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            row, = torch.autograd.grad(guide(leaf, alpha, sigma, denoiser)[:, node].sum(), leaf)
        total = total + row.square().flatten(1).sum(1)
    return float((total.sqrt() * s_z / x[0].numel() ** 0.5).mean())
