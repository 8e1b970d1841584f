r"""Training of variational causal inference on images (`gencausal.vci.images`) by the loop that every method shares, and what a trained model does.

One round is two minibatches: one step of D on the first (Eq. vci-image-d), then one of the generator on each (Eq. vci-image), which is D on every second minibatch. Minibatches are rows of an epoch's permutation;
after each epoch the frozen encoder is refreshed. Deviations from the public code: AdamW where it has Adam with coupled decay, a warm-up and a cosine where it has a constant rate and a line to zero (`schedule` gives that),
averaged weights, one power iteration a step of D, shifts by whole pixels where it pads and crops. Labels are standardised, or coded by sines in their own units (`Eq. label-code`).

Where a classifier supervises (Eq. vci-image-classify), it is trained first, on the same images, `classifier_minibatches` long, and there is no D.

Ablations are weights: w1 = 0 no supervision (and no discriminator), w2 = 0 no divergence, both 0 an autoencoder, that with `prior` a conditional VAE.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from gencausal import checks, seeding, training
from gencausal.checkpoints import load_state, save_state, tensor_hash
from gencausal.training import Player
from gencausal.vci.image_losses import discriminator_loss, generator_terms
from gencausal.vci.images import SMALL, Classifier, Config, Discriminator, Generator, draw_treatment, label_code

KIND = "vci_image"


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    network: Config = field(default_factory=lambda: SMALL)
    minibatches: int = 3000  # steps of the generator, an even number
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 4e-5
    clip: float = 1.0
    average: float = 0.995
    warmup: int = 50  # rounds
    classifier_minibatches: int = 600  # steps of the classifier, where one supervises
    shift: int = 1  # largest shift of a training image, in pixels
    bf16: bool = False  # half-precision networks, full-precision losses


def schedule(epoch: int, epochs: int = 200, constant: int = 100) -> float:
    """Rate factor of the public image runs: 1 up to epoch `constant`, then linear to 0 at `epochs`."""
    return 1.0 if epoch <= constant else max((epochs - epoch) / (epochs - constant), 0.0)


def shifted(images: torch.Tensor, most: int, rng: torch.Generator) -> torch.Tensor:
    """Every image [B, C, S, S] moved by its own whole number of pixels in [-most, most] along both axes; what leaves at one side comes back at the other, which is the empty margin."""
    if most == 0:
        return images
    side = torch.arange(images.shape[-1], device=images.device)
    rows, columns = ((side + torch.randint(-most, most + 1, (len(images), 1), generator=rng, device=images.device)) % len(side) for _ in range(2))
    return images[torch.arange(len(images), device=images.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@dataclass(eq=False)
class ImageVCI:
    """A trained generator with the scales of its labels; images are [N, 1, S, S] in [0, 1], factors [N, n] in the units of the data."""

    generator: Generator
    center: torch.Tensor
    scale: torch.Tensor
    recipe: Recipe
    history: list[dict] = field(default_factory=list)
    seconds: float = 0.0

    def codes(self, factors: torch.Tensor) -> torch.Tensor:
        """Labels as the networks see them, [N, n, code]."""
        if factors.ndim != 2 or factors.shape[1] != len(self.center):
            raise checks.InputError(f"factors must be [N, {len(self.center)}], one column a label, not {tuple(factors.shape)}.")
        if self.recipe.network.code > 1:
            return label_code(factors, self.recipe.network.code)
        return ((factors - self.center) / self.scale).float()[..., None]

    @torch.no_grad()
    def counterfactual(self, images: torch.Tensor, factors: torch.Tensor, factors_cf: torch.Tensor, rng: torch.Generator | None = None, batch: int = 256) -> torch.Tensor:
        """The same images under `factors_cf`: decoder mean at the posterior mean of z, or at a draw of it where `rng` is given."""
        device = next(self.generator.parameters()).device
        parts = zip(images.split(batch), self.codes(factors).split(batch), self.codes(factors_cf).split(batch))
        return torch.cat([self.generator.counterfactual(y.to(device), codes.to(device), codes_cf.to(device), rng) for y, codes, codes_cf in parts]).to(images).contiguous()

    def reconstruct(self, images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """The images from their own latent and factors."""
        return self.counterfactual(images, factors, factors)

    def save(self, path: Path) -> None:
        """Weights and recipe to `path` (safetensors)."""
        about = {"config": KIND, "recipe": asdict(self.recipe), "center": self.center.tolist(), "scale": self.scale.tolist(), "seconds": self.seconds}
        save_state(path, dict(self.generator.named_parameters()), about)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "ImageVCI":
        """What `save` wrote; InputError where there is no such file."""
        found = load_state(path, KIND, device)
        if found is None:
            raise checks.InputError(f"There is no model at {path.name}; train one with `fit` and save it there.")
        tensors, about = found
        recipe = about["recipe"]
        network = Config(**{key: tuple(value) if isinstance(value, list) else value for key, value in recipe.pop("network").items()})
        generator = Generator(network, seeding.generator(0, KIND)).to(device)
        with torch.no_grad():
            for name, parameter in generator.named_parameters():
                parameter.copy_(tensors[name])
        return cls(generator.eval().requires_grad_(False), *(torch.tensor(about[key], dtype=torch.float64) for key in ("center", "scale")), Recipe(network, **recipe), seconds=about["seconds"])


def fit(images: torch.Tensor, factors: torch.Tensor, recipe: Recipe, seed: int, checkpoint: Path | None = None, device: torch.device | str = "cpu", label: str = "vci") -> ImageVCI:
    """Train `recipe` on `images [N, 1, S, S]` in [0, 1] and `factors [N, n]`. checkpoint: a folder for states that a killed run continues from; a finished training is read back from there."""
    network = recipe.network
    if images.ndim != 4 or images.shape[1:] != (1, network.size, network.size):
        raise checks.InputError(f"images must be [N, 1, {network.size}, {network.size}], not {tuple(images.shape)}; pad them or set size.")
    if factors.shape != (len(images), network.labels):
        raise checks.InputError(f"factors must be [{len(images)}, {network.labels}], not {tuple(factors.shape)}; give one row an image.")
    if checks.whole(recipe.minibatches, "minibatches", 2) % 2:
        raise checks.InputError(f"minibatches must be even, D steps on every second one, not {recipe.minibatches}.")
    batch = min(checks.whole(recipe.batch, "batch"), len(images))
    factors = factors.double()
    generator = Generator(network, seeding.generator(seed, KIND, "generator")).to(device)
    model = ImageVCI(generator, factors.mean(0), factors.std(0), recipe)
    images, codes = images.float().to(device), model.codes(factors).to(device)
    supervised, data = network.weights[1] > 0, {"kind": KIND, "images": tensor_hash(images), "factors": tensor_hash(factors), "seed": seed, "device": torch.device(device).type}
    adversarial = supervised and network.supervision == "discriminate"
    discriminator = Discriminator(network, seeding.generator(seed, KIND, "discriminator")).to(device) if adversarial else None
    judge = _classifier(images, codes, recipe, batch, seed, data, checkpoint) if supervised and not adversarial else discriminator
    rng, d_rng = (seeding.generator(seed, KIND, use, device=device) for use in ("noise", "discriminator-noise"))
    epoch, order = -1, torch.empty(0)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def minibatch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images, codes and T' of the next minibatch; at the start of an epoch the frozen encoder is refreshed."""
        nonlocal epoch, order
        now, place = divmod(int(generator.minibatches), -(-len(images) // batch))
        if now != epoch:
            epoch, order = now, torch.randperm(len(images), generator=seeding.generator(seed, KIND, "epoch", now)).to(device)
        if place == 0:
            generator.refresh()
        row = order[place * batch:(place + 1) * batch]
        generator.minibatches += 1
        return shifted(images[row], recipe.shift, rng), codes[row], draw_treatment(codes[row], codes, rng)

    def half() -> torch.autocast:
        return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=recipe.bf16)

    def fakes() -> dict[str, torch.Tensor]:
        kept[:] = [minibatch()]
        discriminator.iterate()
        with half():
            return {"loss": discriminator_loss(generator, discriminator, *kept[0], generator.noise(len(kept[0][0]), d_rng))[None]}

    def loss() -> dict[str, torch.Tensor]:
        drawn = kept.pop() if kept else minibatch()
        with half():
            return {name: value[None] for name, value in generator_terms(generator, judge, *drawn, generator.noise(len(drawn[0]), rng, network.mc + 1)).items()}

    options = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "clip": recipe.clip, "stacked": False}
    players = {} if discriminator is None else {"discriminator": Player(discriminator, fakes, average=0.0, **options)}
    players["generator"] = Player(generator, loss, updates=2, average=recipe.average, **options)
    identity = data | asdict(recipe)
    path = None if checkpoint is None else Path(checkpoint) / f"{KIND}-{training.config_hash(identity)}.safetensors"
    found = training.fit(players, recipe.minibatches // 2, [rng, d_rng], config=identity, seed=seed, warmup=recipe.warmup, checkpoint=path, label=label, log_every=max(recipe.minibatches // 40, 1))
    model.generator, model.history, model.seconds = found.modules["generator"].requires_grad_(False), found.history, found.seconds
    return model


def _classifier(images: torch.Tensor, codes: torch.Tensor, recipe: Recipe, batch: int, seed: int, data: dict, checkpoint: Path | None) -> Classifier:
    """c, trained on `images` and `codes`; networks that differ in weights or latents share it."""
    network, device = recipe.network, images.device
    shared = {key: value for key, value in asdict(network).items() if key in ("size", "patch", "labels", "code", "embedding", "resolutions", "widths", "depths")}
    identity = data | {"kind": f"{KIND}_classifier", "batch": batch, "lr": recipe.lr, "minibatches": recipe.classifier_minibatches, "shift": recipe.shift, "warmup": recipe.warmup, "average": recipe.average} | shared
    classifier, rng = Classifier(network, seeding.generator(seed, KIND, "classifier")).to(device), seeding.generator(seed, KIND, "classifier-batches", device=device)

    def loss() -> dict[str, torch.Tensor]:
        row = torch.randint(len(images), (batch,), generator=rng, device=device)
        return {"loss": (classifier(shifted(images[row], recipe.shift, rng)) - codes[row].flatten(1)).square().mean()[None]}

    path = None if checkpoint is None else Path(checkpoint) / f"{KIND}-classifier-{training.config_hash(identity)}.safetensors"
    found = training.fit({"classifier": Player(classifier, loss, recipe.lr, weight_decay=recipe.weight_decay, average=recipe.average, stacked=False)}, recipe.classifier_minibatches, [rng], config=identity, seed=seed,
                         warmup=recipe.warmup, checkpoint=path, label="classifier")
    return found.modules["classifier"].requires_grad_(False)
