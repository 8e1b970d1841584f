r"""One interface to everything that infers SCMs, for the experiments condfip.E1-E16: fit on the context of a test cell, answer on its query rows and interventions.

    condfip            decoder alone: noise x - T(x), data node by node (Eq. levels), counterfactuals with its own noise (ours: the factual comes back exactly)
    condfip_encoder    noise by the encoder's head, the query rows in batches as large as the context, each its own context
    condfip_two_heads  the paper's way: noise by the encoder, data by the decoder
    condfip_signs, condfip_encoder_signs   the first two averaged over four reflections (Eq. signs, ours)
    fip, ols, kernel_ridge, dowhy_gcm, zero_mechanism   fitted to the context of each data set (`scm_models`)
    ols_own, kernel_ridge_own   noise by a regression on the very rows that are asked about, in batches as large as the context: what the encoder is given; data as without `_own`

Everything in standardised units, tensors [S, rows, d]. Rows of results: unit = number of the SCM in its cell, seed = that of the training.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from gencausal import checks, scm_metrics
from gencausal.cond_fip import CondFiP, SignAveraged, levels, sweep
from gencausal.data.scm_cells import Cell
from gencausal.scm_models import SIMPLE
from gencausal.scm_models.dowhy import DoWhyGCM
from gencausal.scm_models.fip import FiP, FiPConfig

AMORTISED = ("condfip", "condfip_encoder", "condfip_two_heads", "condfip_signs", "condfip_encoder_signs")
OWN = ("ols_own", "kernel_ridge_own")
NOISE_ONLY = ("condfip_encoder", "condfip_encoder_signs", *OWN)  # for data they would need another's mechanisms
METHODS = (*AMORTISED, "fip", *SIMPLE, *OWN, "dowhy_gcm")
PART, ROWS = 1, 2000  # SCMs and rows that pass through the network at once, on its device (cells and answers are on the CPU); alone, an SCM has the fewest nodes a level


@dataclass(frozen=True, eq=False)
class Fitted:
    """A method on one cell. expected: z to F(z); noise: rows to their noise; generate: (noise, held or None) to rows; counterfactual: (factual, held) to rows; seconds: for one data set, fitting or embedding alone."""

    method: str
    expected: Callable[[torch.Tensor], torch.Tensor]
    noise: Callable[[torch.Tensor], torch.Tensor]
    generate: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
    counterfactual: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    seconds: float


def fit(method: str, cell: Cell, network: CondFiP | None = None, seed: int = 0, fip: FiPConfig = FiPConfig(), context: torch.Tensor | None = None) -> Fitted:
    """`method` on the context of `cell` (or on `context [S, n, d]`) with its graphs. network: for the amortised methods."""
    checks.choice(method, "method", METHODS)
    context = cell.context if context is None else context
    if method in AMORTISED:
        if network is None:
            raise checks.InputError(f"method {method!r} needs a network; pass network=.")
        return _amortised(method, cell.adjacency, context, SignAveraged(network) if method.endswith("_signs") else network)
    started = time.perf_counter()
    if method == "fip":
        model = FiP(fip, seed).fit(context, cell.adjacency)
        return Fitted(method, model.expected, model.noise, model.generate, model.counterfactual, model.seconds)
    make = DoWhyGCM if method == "dowhy_gcm" else SIMPLE[method.removesuffix("_own")]
    models = [make().fit(rows.double().numpy(), graph.numpy()) for rows, graph in zip(context, cell.adjacency)]
    seconds = (time.perf_counter() - started) / len(models)

    def each(call: str) -> Callable[..., torch.Tensor]:
        def run(x: torch.Tensor, held: torch.Tensor | None = None) -> torch.Tensor:
            inputs = [[x[s].double().numpy()] + ([] if held is None else [held[s].double().numpy()]) for s in range(len(models))]
            return torch.as_tensor(np.stack([getattr(model, call)(*values) for model, values in zip(models, inputs)]), dtype=torch.float32)

        return run

    if method in OWN:
        expected = lambda x: torch.cat([_fitted_to_itself(make, block, cell.adjacency) for block in x.split(context.shape[1], 1)], 1)  # noqa: E731
        return Fitted(method, expected, lambda x: x - expected(x), each("generate"), lambda x, held: each("generate")(x - expected(x), held), seconds)
    return Fitted(method, each("expected"), each("noise"), each("generate"), each("counterfactual"), seconds)


def _fitted_to_itself(make: Callable, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
    """F at the rows `x [S, m, d]` by models fitted to just these."""
    return torch.as_tensor(np.stack([make().fit(rows, graph).expected(rows) for rows, graph in zip(x.double().numpy(), adjacency.numpy())]), dtype=torch.float32)


def truth(cell: Cell) -> Fitted:
    """The mechanisms that made `cell`: every error vanishes up to rounding."""
    exact = lambda u, held: cell.scale.into(cell.scms.generate(u * cell.scale.sd, None if held is None else cell.scale.back(held)))  # noqa: E731
    noise = lambda x: x - cell.mechanism(x)  # noqa: E731
    return Fitted("truth", cell.mechanism, noise, exact, lambda x, held: exact(noise(x), held), 0.0)


def _amortised(method: str, adjacency: torch.Tensor, context: torch.Tensor, network: CondFiP | SignAveraged) -> Fitted:
    started, device = time.perf_counter(), next(network.parameters()).device
    parts, context, adjacency = [slice(i, i + PART) for i in range(0, len(context), PART)], context.to(device), adjacency.to(device)
    with torch.no_grad():
        conditions = [network.condition(context[s], adjacency[s]) for s in parts]
    seconds = (time.perf_counter() - started) / len(context)

    @torch.no_grad()
    def over(call: Callable, *values: torch.Tensor | None, rows: int = ROWS) -> torch.Tensor:
        """`call(part, condition, *values)` part by part, rows by rows."""
        made = []
        for s, condition in zip(parts, conditions):
            blocks = [None if v is None else v[s].to(device).expand(-1, values[0].shape[1], -1).split(rows, 1) for v in values]
            made.append(torch.cat([call(s, condition, *(None if b is None else b[i] for b in blocks)) for i in range(len(blocks[0]))], 1))
        return torch.cat(made).cpu()

    def decoded(z: torch.Tensor) -> torch.Tensor:
        return over(lambda s, c, part: network.mechanism(part, c), z)

    def encoded(z: torch.Tensor) -> torch.Tensor:
        return over(lambda s, c, part: network.encoder_mechanism(part, adjacency[s]), z, rows=context.shape[1])

    def generate(noise_u: torch.Tensor, held: torch.Tensor | None = None) -> torch.Tensor:
        return over(lambda s, c, u, h: sweep(lambda z, nodes: network.mechanism(z, c, nodes), u, levels(adjacency[s]), h), noise_u, held)

    expected = decoded if method in ("condfip", "condfip_signs") else encoded
    return Fitted(method, decoded, lambda x: x - expected(x), generate, lambda x, held: generate(x - expected(x), held), seconds)


def errors(fitted: Fitted, cell: Cell, interventions: bool = True) -> dict[str, np.ndarray]:
    """Row RMSE of every SCM, [S] a metric: noise and generation on the query rows; intervention from the true noise and counterfactual from the inferred."""
    value = lambda truth, made: scm_metrics.row_rmse(truth.numpy(), made.numpy())  # noqa: E731
    found = {"rmse_noise": value(cell.query_noise, fitted.noise(cell.query))}
    if fitted.method in NOISE_ONLY:
        return found
    found["rmse_generation"] = value(cell.query, fitted.generate(cell.query_noise, None))
    if interventions:
        found["rmse_intervention"] = value(cell.do_data, fitted.generate(cell.do_noise, cell.held))
        found["rmse_counterfactual"] = value(cell.do_data, fitted.counterfactual(cell.do_factual, cell.held))
    return found


def rows(experiment: str, cell: Cell, fitted: Fitted, found: dict[str, np.ndarray], seed: int = 0, dataset: str | None = None, method: str | None = None) -> list[dict]:
    """Result rows: one an SCM and metric, and one of the seconds."""
    made = [{"experiment": experiment, "dataset": dataset or cell.name, "unit": str(s), "method": method or fitted.method, "metric": metric, "seed": seed, "value": float(value), "n": cell.query.shape[1]}
            for metric, values in found.items() for s, value in enumerate(values)]
    return made + [{"experiment": experiment, "dataset": dataset or cell.name, "unit": "all", "method": method or fitted.method, "metric": "seconds", "seed": seed, "value": fitted.seconds, "n": len(cell)}]


def table(experiment: str, cells: list[Cell], methods: tuple[str, ...], network: CondFiP | None = None, seed: int = 0, fip: FiPConfig = FiPConfig(), interventions: bool = True) -> list[dict]:
    """Every method on every cell; amortised methods carry the training seed, the others seed 0."""
    made = []
    for cell in cells:
        for method in methods:
            fitted = fit(method, cell, network, fip=fip)
            made += rows(experiment, cell, fitted, errors(fitted, cell, interventions), seed if method in AMORTISED else 0)
    return made


def over_seeds(networks: dict[int, CondFiP], methods: tuple[str, ...], record: Callable[[tuple[str, ...], CondFiP, int], list[dict]]) -> list[dict]:
    """Rows of `record(methods, network, seed)`: the amortised methods with every network, the others once."""
    made = []
    for place, (seed, network) in enumerate(networks.items()):
        made += record(tuple(m for m in methods if m in AMORTISED or place == 0), network, seed)
    return made
