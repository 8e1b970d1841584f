r"""One training loop for one or several players, each a module with a loss and an optimiser. It knows no method by name.

A module is a stack of S networks (leading axis S of every parameter), or one network (`Player.stacked` False, S = 1); every loss gives one value a network, [S].
Because the slices never mix and Adam is elementwise, the sum over the stack trains S independent networks; gradient
clipping and early stopping work slice by slice too, so that a network trains alike alone or in company.

A round calls each player in order, `updates` times. A checkpoint written between rounds holds weights, averaged and best
weights, optimiser moments, generator states, round and history: a killed run that starts again ends in the same bits.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from gencausal.checkpoints import config_hash, load_state, save_state

Losses = dict[str, torch.Tensor]


class TrainingDiverged(RuntimeError):
    """A loss became NaN or infinite. The message names the round, the player, the term, the network and the seed."""


@dataclass
class Player:
    """A module, its loss and its optimiser.

    loss: called without arguments, gives named terms, each [S]; their sum is minimised over this module's parameters alone.
    lr, betas, weight_decay: AdamW. undecayed: parameter names (endings) without weight decay.
    updates: optimiser steps a round. average: decay of the averaged weights. clip: largest gradient norm of one network.
    stacked: whether parameters have the leading axis S.
    """

    module: nn.Module
    loss: Callable[[], Losses]
    lr: float
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    undecayed: tuple[str, ...] = ()
    updates: int = 1
    average: float = 0.999
    clip: float = 1.0
    stacked: bool = True

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]

    def optimiser(self) -> torch.optim.AdamW:
        named = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        free = [p for name, p in named if name.endswith(self.undecayed)] if self.undecayed else []
        decayed = [p for name, p in named if not (self.undecayed and name.endswith(self.undecayed))]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": free, "weight_decay": 0.0}]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=self.lr, betas=self.betas, fused=True)


@dataclass
class Trained:
    """What `fit` returns: per player the averaged module (best on validation, network by network, where a score was given),
    the history of logged loss terms and of held-out scores (one dict a round logged: `round` and lists of S values by name), the best
    scores [S] and the rounds they came from [S]."""

    modules: dict[str, nn.Module]
    history: list[dict] = field(default_factory=list)
    scores: list[dict] = field(default_factory=list)
    best_score: torch.Tensor | None = None
    best_round: torch.Tensor | None = None
    rounds: int = 0
    seconds: float = 0.0


def learning_rate(step: int, steps: int, warmup: int, floor: float = 0.0) -> float:
    """Multiplier in [0, 1]: linear warm-up over `warmup` steps times a cosine from 1 to `floor` over `steps`."""
    cosine = floor + (1 - floor) * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
    return min(1.0, (step + 1) / max(warmup, 1)) * cosine


def fit(players: dict[str, Player], rounds: int, generators: list[torch.Generator], *, config: dict, seed: int | str = "",
        warmup: int = 100, floor: float = 0.0, score: Callable[[dict[str, nn.Module]], Losses] | None = None,
        score_every: int = 250, patience: int | None = None, checkpoint: Path | None = None, checkpoint_seconds: float = 20.0,
        log_every: int = 50, label: str = "training") -> Trained:
    """Train `players` for `rounds` rounds.

    generators: every random stream the losses draw from; their states are saved and restored with the checkpoint.
    config: everything that decides the outcome, JSON-able; a checkpoint of another config is refused.
    score: named held-out quantities of the averaged modules, each [S], called every `score_every` rounds and at the end. The first is
        the criterion, lower is better: each network keeps the weights of its best score, and training stops once no network has
        improved for `patience` scores. The others are only logged.
    checkpoint: file to write every `checkpoint_seconds` and at the end, and to continue from where it exists.
    Raises TrainingDiverged on a NaN or infinite loss, ValueError on a damaged or foreign checkpoint.
    """
    key, started = config_hash(config), time.monotonic()
    averaged = {name: copy.deepcopy(p.module).requires_grad_(False) for name, p in players.items()}
    best = {name: copy.deepcopy(m) for name, m in averaged.items()}
    optimisers = {name: p.optimiser() for name, p in players.items()}
    run = _Run(players, averaged, best, optimisers, generators)
    before = 0.0
    if checkpoint is not None and (found := load_state(checkpoint, key, next(players[next(iter(players))].module.parameters()).device)):
        run.restore(*found)
        before = found[1]["seconds"]
    complete, saved = run.finished, time.monotonic()
    bar = tqdm(total=rounds, initial=run.round, desc=label, disable=None, leave=False)
    while run.round < rounds and not run.finished:
        terms = {}
        for name, player in players.items():
            for update in range(player.updates):
                multiplier = learning_rate(run.round, rounds, warmup, floor)
                terms[name] = _update(name, player, optimisers[name], multiplier, run.round, seed)
                _average(averaged[name], player.module, min(player.average, (1 + run.round) / (10 + run.round)))
        run.round += 1
        bar.update()
        if run.round % log_every == 0 or run.round == rounds:
            run.history.append({"round": run.round} | {f"{n}.{t}": v.tolist() for n, ts in terms.items() for t, v in ts.items()})
        if score is not None and (run.round % score_every == 0 or run.round == rounds):
            limit = torch.inf if patience is None else patience * score_every
            run.keep_best(score(averaged), limit)
            run.finished = run.round - int(run.best_round.max()) >= limit
        if checkpoint is not None and time.monotonic() - saved > checkpoint_seconds:
            save_state(checkpoint, *run.state(key, before + time.monotonic() - started))
            saved = time.monotonic()
    bar.close()
    if not complete:
        run.finished = True
        before += time.monotonic() - started
        if checkpoint is not None:
            save_state(checkpoint, *run.state(key, before))
    chosen = best if score is not None else averaged
    return Trained({n: m.eval() for n, m in chosen.items()}, run.history, run.scores, run.best_score, run.best_round, run.round, before)


def _update(name: str, player: Player, optimiser: torch.optim.Optimizer, multiplier: float, round_: int, seed: int | str) -> Losses:
    """One optimiser step of one player; returns its detached terms."""
    terms = player.loss()
    for term, value in terms.items():
        if value.dim() != 1:
            raise ValueError(f"loss term {name}.{term} must be [S], one value a network, not {tuple(value.shape)}.")
    total = sum(terms.values())
    if not torch.isfinite(total).all():
        term, value = next((t, v) for t, v in terms.items() if not torch.isfinite(v).all())
        network = (~torch.isfinite(value)).nonzero()[0].item()
        raise TrainingDiverged(f"Loss {name}.{term} of network {network} is {value[network].item()} in round {round_} (seed {seed}); lower lr or raise warmup.")
    parameters = player.parameters()
    gradients = torch.autograd.grad(total.sum(), parameters, allow_unused=True)
    gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients)]
    slices = [g.flatten(1) if player.stacked else g.reshape(1, -1) for g in gradients]
    scale = (player.clip / (torch.stack([g.square().sum(1) for g in slices]).sum(0).sqrt() + 1e-12)).clamp(max=1.0)
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient * (scale.view(-1, *[1] * (gradient.dim() - 1)) if player.stacked else scale)
    for group in optimiser.param_groups:
        group["lr"] = player.lr * multiplier
    optimiser.step()
    return {term: value.detach() for term, value in terms.items()}


@torch.no_grad()
def _average(averaged: nn.Module, module: nn.Module, decay: float) -> None:
    """Exponential average of the weights: averaged <- decay averaged + (1 - decay) module."""
    torch._foreach_lerp_(list(averaged.parameters()), [p.detach() for p in module.parameters()], 1 - decay)


class _Run:
    """The mutable state of one `fit`, to save and to restore."""

    def __init__(self, players, averaged, best, optimisers, generators):
        self.players, self.averaged, self.best = players, averaged, best
        self.optimisers, self.generators = optimisers, generators
        self.round, self.finished, self.history, self.scores = 0, False, [], []
        self.best_score: torch.Tensor | None = None
        self.best_round: torch.Tensor | None = None

    @torch.no_grad()
    def keep_best(self, scores: Losses, limit: float) -> None:
        """Keep, network by network, the averaged weights whose first score [S] is the lowest so far.

        A network that had not improved for `limit` rounds by the score before would have stopped there alone, so it keeps what it has.
        """
        scored = self.scores[-1]["round"] if self.scores else 0
        self.scores.append({"round": self.round} | {name: value.tolist() for name, value in scores.items()})
        score = next(iter(scores.values())).detach().double().cpu()
        if not torch.isfinite(score).all():
            raise TrainingDiverged(f"The held-out score of network {(~torch.isfinite(score)).nonzero()[0].item()} is not finite in round {self.round}.")
        if self.best_score is None:
            self.best_score, self.best_round = torch.full_like(score, torch.inf), torch.zeros_like(score, dtype=torch.long)
        better = (score < self.best_score) & (scored - self.best_round < limit)
        self.best_score = torch.where(better, score, self.best_score)
        self.best_round = torch.where(better, self.round, self.best_round)
        for name, module in self.best.items():
            for kept, now in zip(module.parameters(), self.averaged[name].parameters()):
                if self.players[name].stacked:
                    kept[better.to(kept.device)] = now[better.to(now.device)]
                elif better.all():
                    kept.copy_(now)

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        for name, player in self.players.items():
            yield f"weights.{name}", player.module
            yield f"averaged.{name}", self.averaged[name]
            yield f"best.{name}", self.best[name]

    def state(self, key: str, seconds: float) -> tuple[dict[str, torch.Tensor], dict]:
        tensors = {f"{prefix}.{n}": p for prefix, module in self._modules() for n, p in module.named_parameters()}
        for name, optimiser in self.optimisers.items():
            for index, moments in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{name}.{index}.{moment}": value for moment, value in moments.items()}
        tensors |= {f"generator.{i}": g.get_state() for i, g in enumerate(self.generators)}
        if self.best_score is not None:
            tensors |= {"best_score": self.best_score, "best_round": self.best_round}
        return tensors, {"config": key, "round": self.round, "finished": self.finished, "history": self.history, "scores": self.scores, "seconds": seconds, "torch": torch.__version__}

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor], meta: dict) -> None:
        for prefix, module in self._modules():
            for name, parameter in module.named_parameters():
                parameter.copy_(tensors[f"{prefix}.{name}"])
        for name, optimiser in self.optimisers.items():
            state, start = {}, f"optimiser.{name}."
            for full in tensors:
                if full.startswith(start):
                    index, moment = full[len(start):].split(".")
                    state.setdefault(int(index), {})[moment] = tensors[full]
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        for i, rng in enumerate(self.generators if not meta["finished"] else []):
            rng.set_state(tensors[f"generator.{i}"].cpu())
        self.best_score, self.best_round = (tensors[n].cpu() if n in tensors else None for n in ("best_score", "best_round"))
        self.round, self.finished, self.history, self.scores = (meta[name] for name in ("round", "finished", "history", "scores"))
