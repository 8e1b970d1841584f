r"""Training of what guided counterfactual images need: a generator, and a guide of projector and SCM (`guidance`, Eq. joint-loss).

Where the projector reads (x_t, t) generator and guide share no weight, so training them jointly is training each alone on the same batches; `train_jointly` is for a projector that
reads the generator's denoised image, whose loss then reaches the generator. Published weights are taken where a training is exactly theirs (`store`), unless `published` is False; `data` names images that are drawn anew (`identity_of`).

Images are [N, C, S, S] in [0, 1] here and in [-1, 1] inside the networks; factors z are standardised, [N, n].
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gencausal import checks, scm, seeding, solvers
from gencausal.checkpoints import config_hash, tensor_hash
from gencausal.guidance import Guide, ImageDenoiser, factor_loss, mechanism_loss, penalties
from gencausal.image_models import store
from gencausal.nn.unet import Encoder, UNet
from gencausal.training import Player, Trained, fit


@dataclass(frozen=True)
class GeneratorConfig:
    """The unconditional diffusion model of the images."""

    rounds: int = 8000  # optimiser steps
    batch: int = 64  # images a step
    width: int = 32  # channels of the first map
    multipliers: tuple[int, ...] = (1, 2)  # of the maps further down
    blocks: int = 2  # residual blocks a map
    patch: int = 4  # side of a patch
    prediction: str = "x0"  # eps, x0 or v
    lr: float = 1e-3
    weight_decay: float = 0.01
    average: float = 0.999
    score_every: int = 500  # rounds between held-out losses


@dataclass(frozen=True)
class GuideConfig:
    """Projector and SCM."""

    rounds: int = 3000  # optimiser steps
    batch: int = 128  # images a step
    width: int = 32  # channels of the projector's first map
    patch: int = 4  # side of a patch
    sees: str = "noisy"  # the projector reads (x_t, t), or the "denoised" image
    form: str = "mlp"  # of the mechanisms, one of scm.FORMS
    learned: bool = False  # the graph is learned (Eq. edge-strength), else its mask is given
    factor_weight: float = 1.0  # lambda_z
    weighting: str = "one"  # w_t
    mechanism_weight: float = 1.0  # lambda_s
    acyclicity: float = 3.0  # a, of h(A)
    acyclicity_squared: float = 1.0  # r, of h(A)^2 / 2
    sparsity: float = 0.01  # lambda_1
    label_share: float = 1.0  # share of training images whose factors are known
    lr: float = 1e-3
    weight_decay: float = 0.01
    average: float = 0.999
    score_every: int = 500


class ImagePlayer(Player):
    """One network whose weights lie channels last. Fused AdamW pairs weights and moments as they lie in memory, so moments that a checkpoint brings back are laid out as their weights are."""

    def __init__(self, *args, **options):
        super().__init__(*args, stacked=False, **options)

    def optimiser(self) -> torch.optim.AdamW:
        made = super().optimiser()
        made.register_load_state_dict_post_hook(_lay_out)
        return made


@torch.no_grad()
def _lay_out(optimiser: torch.optim.Optimizer) -> None:
    for weight, moments in optimiser.state.items():
        moments |= {name: torch.empty_like(weight).copy_(moment) for name, moment in moments.items() if moment.shape == weight.shape}


class Stream:
    """Batches of training images with factors, noise and levels, from one generator: `draw()` gives x in [-1, 1], z, labelled, x_t, eps, alpha, sigma."""

    def __init__(self, images: torch.Tensor, z: torch.Tensor, batch: int, rng: torch.Generator, labelled: torch.Tensor):
        self.images, self.z, self.batch, self.rng, self.labelled = images, z, batch, rng, labelled
        self.levels = solvers.vp_levels()

    def draw(self) -> tuple[torch.Tensor, ...]:
        row = torch.randint(len(self.images), (self.batch,), generator=self.rng, device=self.rng.device)
        t = torch.randint(len(self.levels.alpha), (self.batch,), generator=self.rng, device=self.rng.device).cpu()
        x = 2 * self.images[row] - 1
        eps = torch.randn(x.shape, generator=self.rng, device=self.rng.device)
        alpha, sigma = (column[t].to(x) for column in (self.levels.alpha, self.levels.sigma))
        a, s = alpha[:, None, None, None], sigma[:, None, None, None]
        return x, self.z[row], self.labelled[row], a * x + s * eps, eps, alpha, sigma


def held_out(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(fit, held) row numbers of n training images: a twentieth, at least one, is held out for scores."""
    order = torch.as_tensor(seeding.numpy_generator(seed, "held-images").permutation(n))
    return order[max(1, n // 20):].sort().values, order[:max(1, n // 20)].sort().values


def prepare(images: torch.Tensor, z: torch.Tensor, seed: int, label_share: float, device: torch.device | str):
    if len(images) != len(z):
        raise checks.InputError(f"images has {len(images)} rows but factors has {len(z)}; pass one row of factors for each image.")
    images, z = images.to(device, torch.float32), z.to(device, torch.float32)
    labelled = torch.as_tensor(seeding.numpy_generator(seed, "labelled").permutation(len(images)) < label_share * len(images), dtype=torch.float32, device=device)
    return images, z, labelled, *held_out(len(images), seed)


def trained(kind: str, identity: dict, players: dict[str, Player], rounds: int, generators: list[torch.Generator], seed: int, folder: Path | None, published: bool, **options) -> Trained:
    """The published training of `identity` where there is one and it is wanted, else `fit`, which leaves its weights in `folder/weights`."""
    if published and (found := store.read(kind, identity, {name: player.module for name, player in players.items()})):
        return found
    made = fit(players, rounds, generators, config=identity, seed=seed, checkpoint=checkpoint_file(folder, kind, identity), label=kind, **options)
    if folder is not None:
        store.write(kind, identity, made, f"{kind} of {identity.get('data', 'images by hash')}", folder / "weights")
    return made


def identity_of(kind: str, images: torch.Tensor, z: torch.Tensor, seed: int, data: str = "", **more) -> dict:
    """What decides a training. data: a name for images and factors that are drawn anew on every machine, where they agree but for the last bits; by default their hash."""
    known = {"data": data} if data else {"images": tensor_hash(images), "factors": tensor_hash(z)}
    return {"kind": kind, "seed": seed} | known | more


def checkpoint_file(folder: Path | None, kind: str, identity: dict) -> Path | None:
    return None if folder is None else folder / f"{kind}-{config_hash(identity)}.safetensors"


def make_generator(config: GeneratorConfig, channels: int, size: int, seed: int, device: torch.device | str = "cpu", condition: int = 0) -> ImageDenoiser:
    """An untrained generator for [channels, size, size] images; condition: numbers that a conditional one reads."""
    rng = seeding.generator(seed, "generator", device=device)
    return ImageDenoiser(UNet(channels, size, rng, config.width, config.multipliers, config.blocks, config.patch, condition), config.prediction).to(device)


def make_guide(config: GuideConfig, channels: int, size: int, mask: np.ndarray, seed: int, device: torch.device | str = "cpu") -> Guide:
    """An untrained guide over the edges in `mask [n, n]`, or over all where the graph is learned."""
    mask = 1 - np.eye(len(mask), dtype=int) if config.learned else mask
    projector = Encoder(channels, size, len(mask), seeding.generator(seed, "projector", device=device), config.width, config.patch)
    return Guide(projector, scm.make(config.form, mask, seeding.generator(seed, "scm")), config.sees).to(device)


def train_generator(images: torch.Tensor, config: GeneratorConfig, seed: int, folder: Path | None = None, device: torch.device | str = "cpu", published: bool = True, data: str = "") -> Trained:
    """The generator of `images [N, C, S, S]` (first term of Eq. joint-loss), averaged weights, the round of the lowest held-out loss."""
    z = torch.zeros(len(images), 1)
    images, z, labelled, fit_rows, held = prepare(images, z, seed, 1.0, device)
    denoiser = make_generator(config, images.shape[1], images.shape[2], seed, device)
    stream = Stream(images[fit_rows], z[fit_rows], config.batch, seeding.generator(seed, "generator-batches", device=device), labelled[fit_rows])

    def loss() -> dict[str, torch.Tensor]:
        x, _, _, _, eps, alpha, sigma = stream.draw()
        return {"denoising": denoiser.loss(x, eps, alpha, sigma).mean()[None]}

    def score(modules: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
        return {"held_out": held_out_loss(modules["generator"], images[held], seed)[None]}

    player = ImagePlayer(denoiser, loss, config.lr, weight_decay=config.weight_decay, average=config.average)
    identity = identity_of("generator", images, z, seed, data, **asdict(config))
    return trained("generator", identity, {"generator": player}, config.rounds, [stream.rng], seed, folder, published, score=score, score_every=config.score_every)


@torch.no_grad()
def held_out_loss(denoiser: ImageDenoiser, images: torch.Tensor, seed: int, levels: int = 8, most: int = 128, condition: torch.Tensor | None = None) -> torch.Tensor:
    """Mean denoising loss of the first `most` held-out images at `levels` noise levels spread over the schedule, a scalar; the same noise whenever it is asked. condition: their rows, for a conditional one."""
    rng, schedule = seeding.generator(seed, "held-noise", device=images.device), solvers.vp_levels()
    x = 2 * images[:most] - 1
    total = []
    for t in torch.linspace(0, len(schedule.alpha) - 1, levels + 2).round().long()[1:-1]:
        alpha, sigma = (column[t].to(x).expand(len(x)) for column in (schedule.alpha, schedule.sigma))
        total.append(denoiser.loss(x, torch.randn(x.shape, generator=rng, device=x.device), alpha, sigma, condition).mean())
    return torch.stack(total).mean()


def _guide_terms(guide: Guide, config: GuideConfig, batch: tuple[torch.Tensor, ...], denoiser: nn.Module | None) -> dict[str, torch.Tensor]:
    """Terms of Eq. joint-loss that hold the guide, [1] each."""
    _, z, labelled, x_t, _, alpha, sigma = batch
    terms = {"factors": config.factor_weight * factor_loss(guide, z, x_t, alpha, sigma, labelled, config.weighting, denoiser).mean()[None],
             "mechanisms": config.mechanism_weight * mechanism_loss(guide.scm, z, labelled).mean()[None]}
    if config.learned and bool(labelled.any()):
        terms["graph"] = penalties(guide.scm, config.acyclicity, config.acyclicity_squared, config.sparsity, z[labelled > 0])[None]
    return terms


@torch.no_grad()
def factor_errors(guide: Guide, images: torch.Tensor, z: torch.Tensor, seed: int, levels: list[int], denoiser: nn.Module | None = None) -> torch.Tensor:
    """Mean squared error of z_hat(x_t) at time indices `levels` (0 is clean) of a schedule of 1,000, [len(levels), n]."""
    rng, schedule = seeding.generator(seed, "held-noise", device=images.device), solvers.vp_levels()
    x, rows = 2 * images - 1, []
    for t in levels:
        alpha, sigma = float(schedule.alpha[len(schedule.alpha) - 1 - t]), float(schedule.sigma[len(schedule.alpha) - 1 - t])
        noisy = alpha * x + sigma * torch.randn(x.shape, generator=rng, device=x.device)
        rows.append((guide(noisy, alpha, sigma, denoiser) - z).square().mean(0))
    return torch.stack(rows)


def train_guide(images: torch.Tensor, z: torch.Tensor, mask: np.ndarray, config: GuideConfig, seed: int, folder: Path | None = None, device: torch.device | str = "cpu",
                denoiser: ImageDenoiser | None = None, published: bool = True, data: str = "") -> Trained:
    """Projector and SCM of `images [N, C, S, S]` with standardised factors `z [N, n]` over the edges in `mask`; a projector that sees denoised images needs the trained `denoiser`, which stays as it is."""
    if config.sees == "denoised" and denoiser is None:
        raise checks.InputError("sees='denoised' needs denoiser, a trained generator.")
    images, z, labelled, fit_rows, held = prepare(images, z, seed, config.label_share, device)
    guide = make_guide(config, images.shape[1], images.shape[2], mask, seed, device)
    stream = Stream(images[fit_rows], z[fit_rows], config.batch, seeding.generator(seed, "guide-batches", device=device), labelled[fit_rows])

    def score(modules: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
        return {"held_out": factor_errors(modules["guide"], images[held][:256], z[held][:256], seed, [0, 200, 400, 600], denoiser).mean()[None]}

    player = ImagePlayer(guide, lambda: _guide_terms(guide, config, stream.draw(), denoiser), config.lr, weight_decay=config.weight_decay, average=config.average)
    identity = identity_of("guide", images, z, seed, data, mask=np.asarray(mask).tolist(), denoiser=denoiser and tensor_hash(*(p.half() for p in denoiser.parameters())), **asdict(config))
    return trained("guide", identity, {"guide": player}, config.rounds, [stream.rng], seed, folder, published, score=score, score_every=config.score_every)


def train_jointly(images: torch.Tensor, z: torch.Tensor, mask: np.ndarray, generator: GeneratorConfig, guide: GuideConfig, seed: int, folder: Path | None = None,
                  device: torch.device | str = "cpu", published: bool = True, data: str = "") -> Trained:
    """Generator and guide by Eq. joint-loss in one loop, at the generator's rounds, batch and rate; the result's modules are `both.generator` and `both.guide`."""
    images, z, labelled, fit_rows, held = prepare(images, z, seed, guide.label_share, device)
    both = nn.ModuleDict({"generator": make_generator(generator, images.shape[1], images.shape[2], seed, device), "guide": make_guide(guide, images.shape[1], images.shape[2], mask, seed, device)})
    stream = Stream(images[fit_rows], z[fit_rows], generator.batch, seeding.generator(seed, "generator-batches", device=device), labelled[fit_rows])

    def loss() -> dict[str, torch.Tensor]:
        batch = stream.draw()
        x, _, _, _, eps, alpha, sigma = batch
        return {"denoising": both["generator"].loss(x, eps, alpha, sigma).mean()[None]} | _guide_terms(both["guide"], guide, batch, both["generator"])

    def score(modules: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
        errors = factor_errors(modules["both"]["guide"], images[held][:256], z[held][:256], seed, [0, 200, 400, 600], modules["both"]["generator"]).mean()
        return {"held_out": (held_out_loss(modules["both"]["generator"], images[held], seed) + guide.factor_weight * errors)[None]}

    player = ImagePlayer(both, loss, generator.lr, weight_decay=generator.weight_decay, average=generator.average)
    identity = identity_of("joint", images, z, seed, data, mask=np.asarray(mask).tolist(), generator=asdict(generator), guide=asdict(guide))
    return trained("joint", identity, {"both": player}, generator.rounds, [stream.rng], seed, folder, published, score=score, score_every=generator.score_every)
