"""Several interventions in a row on the same images (`dc.E2`): what is asked of each step, what is true after it, and how the error grows."""

import numpy as np
import pandas as pd
import torch

from gencausal import image_metrics
from gencausal.counterfactual import sequence
from gencausal.experiments.pictures import WORLDS, Bench, Do, Draw, blocks, first, visible


def interventions(bench: Bench, steps: int, null: bool = False) -> tuple[list[Do], list[torch.Tensor]]:
    """(what is asked of each step, standardised; the true factors [N, n] after it, in the generator's units) of `run`."""
    world, names = WORLDS[bench.world], list(bench.targets)
    factors = bench.scenes.factors[bench.rows]
    asked, so_far, truths = [], {}, []
    for k in range(steps):
        node, values, _, _ = bench.targets[names[k % len(names)]]
        if null:
            raw = factors[:, node]
        else:
            raw = values.roll(k) * bench.scale[node] + bench.center[node]
            trial = world.counterfactual(factors, {world.NAMES[j]: v for j, v in (so_far | {node: raw}).items()}, bench.variant)
            before = world.counterfactual(factors, {world.NAMES[j]: v for j, v in so_far.items()}, bench.variant)
            raw = torch.where(visible(bench.world, trial), raw, before[:, node])
        so_far = so_far | {node: raw}
        truths.append(world.counterfactual(factors, {world.NAMES[j]: v for j, v in so_far.items()}, bench.variant))
        asked.append({node: ((raw - bench.center[node]) / bench.scale[node]).float()})
    return asked, truths


def truths(bench: Bench, steps: int, units: int) -> torch.Tensor:
    """True images [steps, units, C, S, S] of the first units along their sequence."""
    few = first(bench, units)
    return torch.stack([few.render(factors[:units]) for factors in interventions(bench, steps)[1]])


def growth(rows: list[dict]) -> list[dict]:
    """Of the rows of `run`: the slope of the error over the steps (metric slope_acm) and the error after the first and the last one (methods "<method>_first" and "<method>_last"), a row a block."""
    frame = pd.DataFrame([row for row in rows if row["metric"] == "acm_all"])
    frame[["step", "block"]] = frame["unit"].str.split("/", expand=True).astype(int)
    made = []
    for (experiment, dataset, method, seed, block), group in frame.sort_values("step").groupby(["experiment", "dataset", "method", "seed", "block"], sort=False):
        known = {"experiment": experiment, "dataset": dataset, "unit": f"all/{block}", "seed": seed, "n": int(group["n"].iloc[0])}
        made.append(known | {"method": method, "metric": "slope_acm", "value": float(np.polyfit(group["step"], group["value"], 1)[0])})
        made += [known | {"method": f"{method}_{name}", "metric": "acm_all", "value": float(group["value"].iloc[place])} for name, place in (("first", 0), ("last", -1))]
    return made


def run(bench: Bench, draw: Draw, method: str, seed: int, steps: int = 5, protocol: str = "image", null: bool = False, experiment: str = "dc.E2") -> tuple[list[dict], list[torch.Tensor]]:
    """Rows after each of `steps` interventions that take the targets in turn, and the images; unit "<step>/<block>".

    The truth follows the true SCM from the first unit's noise with every intervention so far, the last of each factor; what is asked of the k-th step are the values of `bench.targets`, rolled by k
    among the units. null: every step sets a factor to the value that it has (composition).
    """
    asked, truths = interventions(bench, steps, null)
    drawn, now = [], bench.z
    for images in sequence(lambda images, do: draw(images, now, do), bench.images, asked, protocol):
        drawn.append(images)
    rows = []
    for k, (images, truth) in enumerate(zip(drawn, truths)):
        real = bench.render(truth)
        found, goal = bench.oracle(images), bench.oracle(real)
        error = np.where(np.isnan(found), image_metrics.MISSING, np.abs(found - goal))
        rows += blocks(bench.name, str(k + 1), method, seed, experiment, {"acm_all": error.mean(1), "psnr_masked": image_metrics.psnr(images.cpu(), real, masked=True, background=bench.background), "composition": image_metrics.composition(images.cpu(), real)})
    return rows, drawn
