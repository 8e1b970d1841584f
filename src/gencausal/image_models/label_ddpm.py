r"""A diffusion model of images given their factors: the rival of CausalDiffAE that is told the labels and knows no mechanism (reading list #19; the design of the rival is ours).

Notation: labels y in R^n, standardised; v as in `guidance`.

    L = E ||v - v_theta(x_t, t, y)||^2                                                                               `Eq. label-ddpm`

Counterfactual: the image's noise by DDIM backwards under its own labels, then DDIM under the labels with the intervened ones replaced; the others keep their values. With an SCM of the labels
they move by abduction, action and prediction instead: then generator and mechanisms are apart, a control that shows what the causal layer inside the code is worth.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from gencausal import seeding, solvers
from gencausal.counterfactual import Sampling, abduct
from gencausal.guidance import ImageDenoiser
from gencausal.image_models.guided import GeneratorConfig, ImagePlayer, Stream, held_out_loss, identity_of, make_generator, prepare, trained
from gencausal.scm import SCM
from gencausal.training import Trained


def train(images: torch.Tensor, z: torch.Tensor, config: GeneratorConfig, seed: int, folder: Path | None = None, device: torch.device | str = "cpu", published: bool = True, data: str = "") -> Trained:
    """Eq. label-ddpm on `images [N, C, S, S]` and labels `z [N, n]`, with the guided method's backbone; the result's module is `generator`."""
    images, z, labelled, fit_rows, held = prepare(images, z, seed, 1.0, device)
    denoiser = make_generator(config, images.shape[1], images.shape[2], seed, device, condition=z.shape[1])
    stream = Stream(images[fit_rows], z[fit_rows], config.batch, seeding.generator(seed, "generator-batches", device=device), labelled[fit_rows])

    def loss() -> dict[str, torch.Tensor]:
        x, y, _, _, eps, alpha, sigma = stream.draw()
        return {"denoising": denoiser.loss(x, eps, alpha, sigma, y).mean()[None]}

    def score(modules: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
        return {"held_out": held_out_loss(modules["generator"], images[held], seed, condition=z[held][:128])[None]}

    player = ImagePlayer(denoiser, loss, config.lr, weight_decay=config.weight_decay, average=config.average)
    identity = identity_of("label_ddpm", images, z, seed, data, **asdict(config))
    return trained("label_ddpm", identity, {"generator": player}, config.rounds, [stream.rng], seed, folder, published, score=score, score_every=config.score_every)


@torch.no_grad()
def invert(denoiser: ImageDenoiser, images: torch.Tensor, z: torch.Tensor, sampling: Sampling, rng: torch.Generator | None = None) -> torch.Tensor:
    """The noise of `images [B, C, S, S]` in [0, 1] under their own labels `z [B, n]`, as `sampling.abduction` says."""
    z = z.to(images)
    return abduct(lambda v, a, s: denoiser(v, a, s, z), 2 * images - 1, sampling.grid(), rng if sampling.abduction == "noise" else None)


@torch.no_grad()
def counterfactual(denoiser: ImageDenoiser, images: torch.Tensor, z: torch.Tensor, do: dict[int, torch.Tensor | float], sampling: Sampling, scm: SCM | None = None, rng: torch.Generator | None = None,
                   noise: torch.Tensor | None = None) -> torch.Tensor:
    """Images [B, C, S, S] in [0, 1] of the same units, whose labels are `z [B, n]`, under `do` (factor to standardised value or values [B]).

    scm: moves the labels that follow; None leaves them. noise: what `invert` gave before, to save its time. An empty `do` gives the reconstruction.
    """
    z = z.to(images)
    do = {node: torch.as_tensor(value, dtype=z.dtype, device=z.device).expand(len(z)) for node, value in do.items()}
    after = scm.counterfactual(z, do) if scm else torch.stack([do.get(node, z[:, node]) for node in range(z.shape[1])], 1)
    noise = invert(denoiser, images, z, sampling, rng) if noise is None else noise
    return (solvers.ddim(lambda v, a, s: denoiser(v, a, s, after), noise, sampling.grid()).clamp(-1, 1) + 1) / 2
