r"""condfip.E4, E14, E16: what the training decides. One change each against a base recipe at the same budget; error against the number of SCMs seen.

    E4   conditioning (none, concatenate, FiLM without gates), pooling, attention among nodes, start of the stream, encoder apart or frozen, squared loss, and `recall` (ours)
    E14  LIN alone, RFF alone, both, for the whole network
    E16  held-out error against SCMs seen, from the log of one training
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from gencausal import amortised, checks
from gencausal.amortised import Recipe
from gencausal.cond_fip import CondFiP, SignAveraged
from gencausal.data import scm_graphs
from gencausal.data.scm_cells import Cell
from gencausal.experiments import scm_methods

SIZES = {"no_adaptive_norm": {"conditioning": "none"}, "concatenate": {"conditioning": "concatenate"}, "film": {"conditioning": "film"}, "mean_pool": {"pool": "mean"}, "softmax_mask": {"attention": "softmax"},
         "own_start": {"own_start": True}, "recall": {"recall": 1}}
TRAINING = {"apart": {"stage": "apart"}, "mse": {"mse": True}, "lin_only": {"families": ("lin_in",)}, "rff_only": {"families": ("rff_in",)}}
CONDITIONING = ("default", *SIZES, "apart", "mse")
MIXES = ("default", "lin_only", "rff_only")


def small(preset: str, steps: int, nodes: int, rows: int) -> Recipe:
    """The recipe of the ablations: the networks of `preset` on models of one size, `steps` steps."""
    base = amortised.PRESETS[checks.choice(preset, "preset", tuple(amortised.PRESETS))]
    return replace(base, steps=steps, warmup=min(base.warmup, max(1, steps // 10)), nodes=(nodes,), rows=(rows,), query=(rows,))


def recipe(name: str, base: Recipe) -> Recipe:
    """`base` with the change `name`; `default` is base itself."""
    checks.choice(name, "name", ("default", *SIZES, *TRAINING))
    return replace(base, sizes=replace(base.sizes, **SIZES.get(name, {})), **TRAINING.get(name, {}))


def network(name: str, base: Recipe, seed: int, folder: Path | None = None, device: torch.device | str = "cpu") -> tuple[CondFiP, amortised.Trained]:
    """The trained network of the variant `name`, continued from `folder` where it is there."""
    changed = recipe(name, base)
    checkpoint = None if folder is None else folder / f"condfip-{name}-{seed}-{amortised.config_hash(amortised.identity(changed, seed))}.safetensors"
    trained, _ = amortised.train(changed, seed, device, checkpoint)
    return trained.modules["condfip"].requires_grad_(False), trained


def pretrained(which: str, seeds: list[int], folder: Path, device: torch.device | str = "cpu") -> dict[int, tuple[CondFiP, dict]]:
    """Network and meta data of every training seed: the published ones, or those of a preset (`amortised.PRESETS`), trained or continued in `folder`."""
    checks.choice(which, "which", ("published", *amortised.PRESETS))
    found = {}
    for seed in seeds:
        file = amortised.published(seed)
        if which != "published":
            base = amortised.PRESETS[which]
            file = folder / f"condfip-{which}-{seed}.safetensors"
            if not file.exists() or amortised.load(file)[1]["recipe"] != json.loads(json.dumps(amortised.identity(base, seed))):
                trained, _ = amortised.train(base, seed, device, file.with_suffix(".state.safetensors"))
                amortised.save(file, trained.modules["condfip"], base, trained, f"preset {which}", seed)
        found[seed] = amortised.load(file, device)
    return found


def card(found: dict[int, tuple[CondFiP, dict]]) -> pd.DataFrame:
    """What was trained, one row a seed: weights, steps, SCMs seen, hours, held-out noise errors of the steps that were kept."""
    rows = []
    for seed, (network, meta) in found.items():
        recipe, best = meta["recipe"]["recipe"], meta["best_round"]
        best = int(best[0] if isinstance(best, list) else best)
        scores = next((entry for entry in meta["scores"] if entry["round"] == best), {})
        rows.append({"seed": seed, "weights": sum(p.numel() for p in network.parameters()), "last training's steps": recipe["steps"], "SCMs": amortised.scms_seen(meta), "hours": amortised.seconds_spent(meta) / 3600}
                    | {name.replace("_", " ", 1): value[0] for name, value in scores.items() if name.startswith(("decoder_", "encoder_"))})
    return pd.DataFrame(rows)


def reflections(networks: dict[int, CondFiP], counts: tuple[int, ...], models: int) -> pd.DataFrame:
    """Noise error on validation models by the number of reflections averaged over (`Eq. signs`), mean over trainings: what the number was chosen by. One row a count and family, columns decoder, encoder."""
    cells = amortised.validation_cells(amortised.PRESETS["cpu"], count=models)
    rows = []
    for count in counts:
        for name, cell in cells.items():
            errors = [{head: (truth - noise(network)).square().mean(2).sqrt().mean().item() for head, truth, noise in (
                ("decoder", cell.query_noise, lambda net: scm_methods.fit("condfip", cell, net).noise(cell.query)), ("encoder", cell.context_noise, lambda net: scm_methods.fit("condfip_encoder", cell, net).noise(cell.context)))}
                for network in (SignAveraged(network, count) for network in networks.values())]
            rows.append({"reflections": count, "validation models": name, "trainings": len(networks), "models": len(cell)} | pd.DataFrame(errors).mean().to_dict())
    return pd.DataFrame(rows)


def root_errors(network: CondFiP, cell: Cell) -> np.ndarray:
    """Noise error of the decoder at nodes without parents, [S] (NaN where there is none)."""
    fitted = scm_methods.fit("condfip", cell, network)
    roots = scm_graphs.longest_path(cell.adjacency) == 0
    error = (fitted.noise(cell.query) - cell.query_noise).square().mean(1).sqrt()
    return torch.where(roots, error, torch.nan).nanmean(1).numpy()


def variant_rows(experiment: str, names: tuple[str, ...], base: Recipe, cells: list[Cell], seeds: tuple[int, ...] = (0,), folder: Path | None = None) -> list[dict]:
    """Errors of every variant on every cell, method `condfip_<name>`, encoder noise as `condfip_<name>_encoder`."""
    made = []
    for name in names:
        for seed in seeds:
            net, _ = network(name, base, seed, folder)
            for cell in cells:
                for method in ("condfip", "condfip_encoder"):
                    fitted = scm_methods.fit(method, cell, net)
                    found = scm_methods.errors(fitted, cell, interventions=False)
                    if method == "condfip":
                        found["rmse_noise_roots"] = root_errors(net, cell)
                    label = f"condfip_{name}" + "_encoder" * (method == "condfip_encoder")
                    made += [row for row in scm_methods.rows(experiment, cell, fitted, found, seed, method=label) if np.isfinite(row["value"])]
    return made


def scale_curve(meta: dict) -> pd.DataFrame:
    """E16 from the log of the trainings behind weights (`amortised.load`): columns scms, head, family, rmse_noise."""
    rows = []
    for entry in amortised.scores_by_scms(meta):
        for name, (value,) in ((k, v) for k, v in entry.items() if k.startswith(("decoder_", "encoder_"))):
            head, family = name.split("_", 1)
            rows.append({"scms": entry["scms"], "head": head, "family": family, "rmse_noise": value})
    return pd.DataFrame(rows)
