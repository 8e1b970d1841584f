r"""Training of Cond-FiP on streams of SCMs, each drawn fresh and seen once (spec cond_fip, sections 2.7 and 9).

    python -m gencausal.amortised --preset cpu --checkpoint build/condfip/cpu.safetensors [--steps N] [--minutes M] [--seed S] [--start FILE] [--publish FILE]

A step draws SCMs of every family in equal parts, of one number of nodes and rows, standardises them, and takes the losses of `cond_fip.objective`. A killed or paused training goes on from its checkpoint and ends in
the same weights as one that never stopped; the number of steps is part of its identity, as the learning rate falls along a cosine to zero at the last. `--start` begins from the weights of a finished training instead of random ones, with fresh SCMs of its own: so that trainings add up.

The held-out score is the error of noise prediction, row RMSE in standardised units, on validation SCMs of a stream of their own; the averaged weights of the best score are kept.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open

from gencausal import checks, paths, seeding
from gencausal.checkpoints import code_hash, config_hash, load_state, save_state
from gencausal.cond_fip import CondFiP, Sizes, losses, networks, objective
from gencausal.data import scm_cells, scm_graphs, scms
from gencausal.data.scm_cells import Cell
from gencausal.data.scms import FAMILIES, Family, Scale
from gencausal.nn import attention
from gencausal.training import Player, Trained, fit

FORMAT = "gencausal.CondFiP/1"
VALIDATION = {"scms": 24, "nodes": 10, "context": 100}
BEYOND = ((3, 100), (20, 100), (30, 100), (10, 25), (10, 400))  # columns and rows of `beyond`


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training, apart from its seed.

    sizes of the networks; families in equal parts; nodes, rows, query: numbers of nodes, of context rows and of query rows, one of each drawn anew for every step (list one twice to draw it twice as often);
    batch: SCMs a step; steps; lr, warmup, betas, average: of `training.fit`; stage, mse: of `cond_fip.objective`; half, recompute: of `CondFiP`.
    """

    sizes: Sizes = field(default_factory=Sizes)
    families: tuple[str, ...] = ("lin_in", "rff_in")
    nodes: tuple[int, ...] = (5, 7, 10, 10)
    rows: tuple[int, ...] = (50, 100, 100, 200)
    query: tuple[int, ...] = (100,)
    batch: int = 16
    steps: int = 24_000
    lr: float = 1e-3
    warmup: int = 500
    betas: tuple[float, float] = (0.9, 0.99)
    average: float = 0.999
    stage: str = "joint"
    mse: bool = False
    half: bool = True
    recompute: bool = False


PRESETS = {
    "tiny": Recipe(Sizes(16, 2, 8, 8, 32, 32, 1, 1, 1), nodes=(4,), rows=(20,), query=(20,), batch=4, steps=20, warmup=5, half=False),
    "cpu": Recipe(batch=4, steps=20_000),  # at equal time batches of 4 were ahead of 8 and 16 on held-out models
    "cpu_recall": Recipe(Sizes(recall=2), batch=4, steps=20_000),
    "study": Recipe(Sizes(128, 8, 16, 16, 256, 256, 4, 1, 4), nodes=(5, 7, 10, 10, 20), rows=(50, 100, 100, 200, 400), batch=64, steps=20_000, warmup=1000),
    "paper": Recipe(Sizes(256, 8, 32, 64, 512, 1024, 4, 2, 4), nodes=(20,), rows=(200,), query=(200,), batch=8, steps=480_000, lr=1e-4, warmup=1000, betas=(0.9, 0.95), half=True, recompute=True),
}


@dataclass(frozen=True, eq=False)
class Batch:
    """Standardised rows of B SCMs with their mechanisms' values: context, context_target [B, n, d]; query, query_target [B, m, d]; adjacency [B, d, d] of bool."""

    context: torch.Tensor
    context_target: torch.Tensor
    query: torch.Tensor
    query_target: torch.Tensor
    adjacency: torch.Tensor


class Stream:
    """Fresh SCMs, a batch a call, all from one generator; `seconds` counts the time they took."""

    def __init__(self, recipe: Recipe, rng: torch.Generator, families: dict[str, Family] = FAMILIES):
        self.recipe, self.rng, self.seconds = recipe, rng, 0.0
        self.families = [families[checks.choice(name, "families", list(families))] for name in recipe.families]
        if recipe.batch % len(self.families):
            raise checks.InputError(f"batch is {recipe.batch} but there are {len(self.families)} families in equal parts; make it a multiple.")

    def _one_of(self, options: tuple[int, ...]) -> int:
        return options[int(torch.randint(len(options), (), generator=self.rng, device=self.rng.device))]

    @torch.no_grad()
    def __call__(self) -> Batch:
        started = time.perf_counter()
        d, n, m = (self._one_of(options) for options in (self.recipe.nodes, self.recipe.rows, self.recipe.query))
        parts = []
        for family in self.families:
            drawn = scms.draw(family, self.recipe.batch // len(self.families), d, self.rng)
            x, noise_u = drawn.sample(n + m, self.rng)
            scale = Scale.of(x)
            z = scale.into(x)
            parts.append((z, z - noise_u / scale.sd, drawn.adjacency))
        z, target, adjacency = (torch.cat(part) for part in zip(*parts))
        self.seconds += time.perf_counter() - started
        return Batch(z[:, :n], target[:, :n], z[:, n:], target[:, n:], adjacency)


class Paused(RuntimeError):
    """The time given is used up; the checkpoint holds the state of at most a minute ago."""


def make(recipe: Recipe, seed: int, device: torch.device | str = "cpu") -> CondFiP:
    """The untrained network of `recipe`; its weights are those of the seed on every device."""
    return CondFiP(recipe.sizes, seeding.generator(seed, "condfip-weights"), recipe.half, recipe.recompute).to(device)


def validation_cells(recipe: Recipe, device: torch.device | str = "cpu", count: int | None = None) -> dict[str, Cell]:
    """Held-out SCMs of every family of the recipe, of streams that neither training nor evaluation uses."""
    d, n = min(VALIDATION["nodes"], max(recipe.nodes)), min(VALIDATION["context"], max(recipe.rows))
    return {name: scm_cells.cell(name, d, n, count or VALIDATION["scms"], seeding.derive(0, "validation") >> 32, interventions=1, rows=1).to(device) for name in recipe.families}


@torch.no_grad()
def noise_errors(model: CondFiP, cell: Cell, part: int = 8) -> dict[str, torch.Tensor]:
    """Row RMSE of the noise of every SCM of `cell`, [S] each, in full precision: `decoder` on the query rows from the context, `encoder` on the context rows, which are its own context."""
    found: dict[str, list[torch.Tensor]] = {"decoder": [], "encoder": []}
    half, model.half = model.half, False
    for i in range(0, len(cell), part):
        s = slice(i, i + part)
        embedding = model.encode(cell.context[s], cell.adjacency[s])
        condition, head = model.decoder.condition(embedding, cell.adjacency[s]), model.encoder.mechanism(embedding)
        error = {"decoder": cell.query[s] - model.mechanism(cell.query[s], condition) - cell.query_noise[s], "encoder": cell.context[s] - head - cell.context_noise[s]}
        for name, value in error.items():
            found[name].append(value.square().mean(2).sqrt().mean(1))
    model.half = half
    return {name: torch.cat(values) for name, values in found.items()}


def identity(recipe: Recipe, seed: int, start: Path | None = None) -> dict:
    """The configuration of a training: recipe, seed, the code that decides its outcome, and the SHA-256 of the weights it starts from, if any."""
    begun = {} if start is None else {"start": hashlib.sha256(start.read_bytes()).hexdigest()}
    return {"recipe": asdict(recipe), "seed": seed, "code": code_hash(networks, objective, attention, scms, scm_graphs)} | begun


def train(recipe: Recipe, seed: int = 0, device: torch.device | str = "cpu", checkpoint: Path | None = None, minutes: float | None = None, score_every: int = 500, say: Callable[[str], None] | None = None,
          encoder: CondFiP | None = None, start: Path | None = None) -> tuple[Trained, float]:
    """Train `recipe`; the result (`modules["condfip"]`) and the share of the time that drawing SCMs took.

    minutes: raises `Paused` after so long; call again with the same arguments to go on. say: called with a line at every score. encoder: for stage `decoder`, the network whose encoder is taken over. start: a file of `save` to begin from.
    """
    model = make(recipe, seed, device)
    if recipe.stage == "decoder":
        if encoder is None:
            raise checks.InputError("stage is 'decoder' but no encoder was given; pass encoder=, a network trained with stage 'encoder'.")
        model.encoder.load_state_dict(encoder.encoder.state_dict())
        model.encoder.requires_grad_(False)
    if recipe.stage == "encoder":
        model.decoder.requires_grad_(False)
    before = 0
    if start is not None:
        begun, meta = load(start, device)
        if begun.sizes != recipe.sizes:
            raise checks.InputError(f"{start.name} holds a network of other sizes than the recipe's; name one of the same preset.")
        model.load_state_dict(begun.state_dict())
        before = scms_seen(meta)
    stream = Stream(recipe, seeding.generator(seed, "condfip-training", *([before] if before else []), device=device))
    cells, started, calls = validation_cells(recipe, device), time.monotonic(), 0

    def loss() -> dict[str, torch.Tensor]:
        nonlocal calls
        if minutes is not None and time.monotonic() - started > 60 * minutes:
            raise Paused(f"Paused after {minutes:g} minutes and {calls} steps of this call.")
        calls += 1
        batch = stream()
        return losses(model, batch.context, batch.context_target, batch.query, batch.query_target, batch.adjacency, recipe.stage, recipe.mse)

    def score(modules: dict) -> dict[str, torch.Tensor]:
        errors = {f"{head}_{name}": value.mean()[None] for name, cell in cells.items() for head, value in noise_errors(modules["condfip"], cell).items()}
        chosen = "encoder" if recipe.stage == "encoder" else "decoder"
        first = torch.stack([value for name, value in errors.items() if name.startswith(chosen)]).mean(0)
        if say:
            spent = time.monotonic() - started
            say(f"{calls} steps, {spent / 60:.1f} min, {spent / max(calls, 1):.3f} s a step, drawing {100 * stream.seconds / spent:.1f} %: " + ", ".join(f"{name} {value.item():.4f}" for name, value in errors.items()))
        return {"noise": first} | errors

    player = Player(model, loss, recipe.lr, recipe.betas, average=recipe.average, stacked=False)
    trained = fit({"condfip": player}, recipe.steps, [stream.rng], config=identity(recipe, seed, start), seed=seed, warmup=recipe.warmup, score=score, score_every=score_every, checkpoint=checkpoint, checkpoint_seconds=60.0, label="condfip")
    return trained, stream.seconds / max(time.monotonic() - started, 1e-9)


def beyond(model: CondFiP, count: int = 30, tables: tuple[tuple[int, int], ...] = BEYOND) -> dict[str, float]:
    """Mean noise error of the decoder on models larger or smaller, or tables longer or shorter, than those of the training: by `20 columns, 100 rows, linear` and so on. The estimator tells it who asks for such a table."""
    found = {}
    for d, n in tables:
        for family, kind in (("lin_in", "linear"), ("rff_in", "nonlinear")):
            cell = scm_cells.cell(family, d, n, count, seeding.derive(0, "validation") >> 32, interventions=1, rows=1).to(next(model.parameters()).device)
            found[f"{d} columns, {n} rows, {kind}"] = round(noise_errors(model, cell)["decoder"].mean().item(), 4)
    return found


def scms_seen(meta: dict) -> int:
    """SCMs behind the weights whose meta data are `meta`, those of the training it started from included."""
    return meta["rounds"] * meta["recipe"]["recipe"]["batch"] + meta.get("before", {}).get("scms", 0)


def seconds_spent(meta: dict) -> float:
    """Seconds of training behind the same weights."""
    return meta["seconds"] + meta.get("before", {}).get("seconds", 0)


def scores_by_scms(meta: dict) -> list[dict]:
    """Held-out scores of the whole way to the same weights, each with the SCMs seen until then (`scms`)."""
    before, batch = meta.get("before", {}), meta["recipe"]["recipe"]["batch"]
    return before.get("scores", []) + [entry | {"scms": entry["round"] * batch + before.get("scms", 0)} for entry in meta["scores"]]


def save(path: Path, model: CondFiP, recipe: Recipe, trained: Trained, about: str, seed: int = 0, measured: dict[str, float] | None = None, start: Path | None = None) -> Path:
    """Write the weights in half precision with recipe and log; `load` gives the network back. measured: of `beyond`. start: the file that the training began from; its log stays with the weights."""
    tensors = {name: value.detach().half() for name, value in model.named_parameters()}
    code = identity(recipe, seed, start)
    earlier = {} if start is None else {"before": {"scms": scms_seen(first := load(start)[1]), "seconds": round(seconds_spent(first), 1), "scores": scores_by_scms(first)}}
    meta = {"config": config_hash(code), "kind": "condfip", "format": FORMAT, "about": about, "recipe": code, "scores": trained.scores, "best_score": trained.best_score.tolist(), "best_round": trained.best_round.tolist(),
            "rounds": trained.rounds, "seconds": round(trained.seconds, 1), "precision": "half", "measured": measured or {}} | earlier
    save_state(path, tensors, meta)
    return path


def load(path: Path, device: torch.device | str = "cpu") -> tuple[CondFiP, dict]:
    """The network of a file written by `save`, in full precision arithmetic, and the file's meta data (recipe, log). Raises InputError where the file is absent or another's."""
    if not path.exists():
        raise checks.InputError(f"There are no weights at {path.name}; train them with python -m gencausal.amortised, or name another file.")
    with safe_open(path, "pt") as opened:
        meta = json.loads((opened.metadata() or {}).get("meta", "{}"))
    if meta.get("format") != FORMAT:
        raise checks.InputError(f"{path.name} holds no Cond-FiP network; name a file that gencausal.amortised wrote.")
    tensors = load_state(path, meta["config"], device)[0]
    sizes = Sizes(**meta["recipe"]["recipe"]["sizes"])
    model = CondFiP(sizes, torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
    return model.eval().requires_grad_(False), meta


CARD = """# Cond-FiP

Written by `python -m gencausal.amortised --publish`. Weights are safetensors in half precision, nothing is pickled; each file also holds its recipe and log in its header.

- **What.** One network that infers the mechanisms of additive-noise causal models from a table and its graph, `CondFiP.from_checkpoint()`; `condfip.safetensors` is the one that is used, the others are the same recipe from other seeds.
- **Data.** Synthetic causal models alone, each drawn fresh and seen once: Erdos-Renyi and scale-free graphs, linear and random-Fourier mechanisms, Gaussian noise (`gencausal.data.scms`).
- **Use.** Tables of five to ten numeric columns and fifty to two hundred rows with a known acyclic graph, additive noise and no hidden common cause. Outside of these sizes the estimator warns with the errors below.
- **Limits.** What it gets right and wrong, beside least squares and kernel ridge, is measured in `reports/05a_cond_fip.html` to `05c`.
- **Licence.** MIT, as the code.
"""


def readme(folder: Path) -> str:
    """The model cards of the weights in `folder` as Markdown."""
    text = [CARD]
    for file in sorted(folder.glob("*.safetensors")):
        meta = load(file)[1]
        last = meta["scores"][-1]
        text += [f"## {file.name}\n", f"- {meta['about']}; {scms_seen(meta):,} models seen, {seconds_spent(meta) / 60:.0f} minutes; the last training {meta['rounds']} steps, held-out noise error of the kept step {meta['best_score'][0]:.4g}",
                 "- At the last step: " + ", ".join(f"{name.replace('_', ' ', 1)} {value[0]:.4f}" for name, value in last.items() if name.startswith(("decoder_", "encoder_"))),
                 "- Beyond its sizes (noise error of the decoder, one pass, mean over 30 models each): " + (", ".join(f"{name} {value:.3f}" for name, value in meta["measured"].items()) or "not measured"), f"- Recipe: `{json.dumps(meta['recipe'])}`",
                 f"- Bytes {file.stat().st_size}, SHA-256 `{hashlib.sha256(file.read_bytes()).hexdigest()}`\n"]
    return "\n".join(text)


def published(seed: int = 0) -> Path:
    """Where the published weights of training `seed` are, or would be."""
    return paths.root() / "data" / "checkpoints" / "condfip" / ("condfip.safetensors" if seed == 0 else f"condfip-{seed}.safetensors")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gencausal.amortised", description="Train Cond-FiP on fresh SCMs; run the same command again to go on.")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="cpu")
    parser.add_argument("--checkpoint", type=Path, required=True, help="state of the training, written every minute")
    parser.add_argument("--steps", type=int, help="length of the training (default: the preset's); part of its identity")
    parser.add_argument("--batch", type=int, help="SCMs a step (default: the preset's)")
    parser.add_argument("--lr", type=float, help="largest learning rate (default: the preset's)")
    parser.add_argument("--minutes", type=float, help="pause after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--start", type=Path, help="weights of a finished training to begin from")
    parser.add_argument("--publish", type=Path, help="file for the weights once the training has ended")
    arguments = parser.parse_args(argv)
    recipe = PRESETS[arguments.preset]
    recipe = replace(recipe, **{name: value for name in ("steps", "batch", "lr") if (value := getattr(arguments, name)) is not None})
    arguments.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    say = lambda line: print(line, flush=True)  # noqa: E731
    try:
        trained, share = train(recipe, arguments.seed, arguments.device, arguments.checkpoint, arguments.minutes, score_every=250, say=say, start=arguments.start)
    except Paused as pause:
        say(f"{pause} Run the same command again to go on.")
        return 0
    say(f"Done: best score {trained.best_score.item():.4f} at step {trained.best_round.item()}, {trained.seconds / 60:.0f} minutes in all, drawing {100 * share:.1f} % of the last part.")
    if arguments.publish:
        model = trained.modules["condfip"]
        save(arguments.publish, model, recipe, trained, f"preset {arguments.preset}", arguments.seed, beyond(model), arguments.start)
        paths.write_whole(arguments.publish.with_name("README.md"), readme(arguments.publish.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
