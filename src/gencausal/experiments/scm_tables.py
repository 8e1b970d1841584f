r"""condfip.E2, E3, E7-E10, E12, E13, E15: tables of errors over cells, amortised against fitted to each data set; paired comparisons, break-even counts, wrong graphs, shifts and protocol forks.

    paired difference   mean over SCMs of (error of a - error of b), with a 95 % bootstrap interval over SCMs             `Eq. paired-models`
    break-even          N* = T_train / (t_fit - t_infer): data sets from which on training once was cheaper                `Eq. break-even`
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from gencausal import checks, metrics, seeding
from gencausal.cond_fip import CondFiP, fixed_point, steps_needed
from gencausal.data import scm_cells, scm_graphs, scms
from gencausal.data.scm_cells import Cell
from gencausal.data.scm_equations import CSUITE, MIXTURES, csuite
from gencausal.data.scms import FAMILIES
from gencausal.experiments import scm_methods
from gencausal.scm_models.fip import FiPConfig

RESAMPLES = 10_000


def main_cells(families: tuple[str, ...], sizes: tuple[tuple[int, int], ...], stack: int, seed: int = 0) -> list[Cell]:
    """Cells of every family at every (d, context) (E2, E3, E13)."""
    return [scm_cells.cell(family, d, n, stack, seed) for family in families for d, n in sizes]


def shifted_cells(families: tuple[str, ...], what: str, alphas: tuple[float, ...], d: int, n: int, stack: int, seed: int = 0) -> list[Cell]:
    """E9: the cells of the families with mechanism or noise of the very same models alpha times as large; cells are named `rff_out_mechanism_5_d10_n400`."""
    return [replace(scm_cells.cell(FAMILIES[family].shifted(alpha, what), d, n, stack, seed), name=f"{family}_{what}_{alpha:g}_d{d}_n{n}") for family in families for alpha in alphas]


def csuite_cells(n: int = 400, mixtures: bool = True, seed: int = 0) -> list[Cell]:
    """E12: CSuite's seven, and large_backdoor and weak_arrow under six mixtures (`csuite_weak_arrow_gmm3`)."""
    made = [(f"csuite_{name}", csuite(name)) for name in CSUITE]
    if mixtures:
        made += [(f"csuite_{name}_gmm{i + 1}", csuite(name, components)) for name in ("large_backdoor", "weak_arrow") for i, components in enumerate(MIXTURES)]
    return [scm_cells.from_scms(f"{name}_n{n}", drawn, n, seed) for name, drawn in made]


def pooled(found: list[dict], dataset: str) -> list[dict]:
    """The same rows as one `dataset` whose units are the data sets they came from (for cells of one SCM each)."""
    return [row | {"dataset": dataset, "unit": row["dataset"]} for row in found]


def paired(found: pd.DataFrame | list[dict], dataset: str, metric: str, a: str, b: str, seed: int = 0) -> dict[str, float]:
    """`Eq. paired-models` of methods a and b on the SCMs that both have (training seeds averaged first): means, difference, low, high, n."""
    found = pd.DataFrame(found)
    cases = found[(found["dataset"] == dataset) & (found["metric"] == metric) & found["method"].isin([a, b])]
    wide = cases.groupby(["unit", "method"])["value"].mean().unstack("method").dropna()
    if not {a, b} <= set(wide.columns):
        raise checks.InputError(f"{dataset} has no {metric} of both {a!r} and {b!r}; record them first.")
    gap = (wide[a] - wide[b]).to_numpy()
    picks = seeding.numpy_generator(seed, "paired", dataset, metric, a, b).integers(0, len(gap), (RESAMPLES, len(gap)))
    low, high = np.quantile(gap[picks].mean(1), [0.025, 0.975])
    return {"dataset": dataset, "metric": metric, "a": a, "b": b, "mean_a": wide[a].mean(), "mean_b": wide[b].mean(), "difference": gap.mean(), "low": low, "high": high, "n": len(gap)}


def spread(found: pd.DataFrame, dataset: str, method: str, metric: str) -> metrics.Interval:
    """Mean over SCMs (training seeds averaged first) with its 95 % bootstrap interval; ends NaN where there is one SCM."""
    values = _of(found, dataset, method, metric).groupby("unit")["value"].mean().to_numpy()
    return mean_interval(values, dataset, metric, method)


def mean_interval(values: np.ndarray, *stream: str) -> metrics.Interval:
    """Mean of `values [n]`, one an SCM, with its 95 % bootstrap interval; ends NaN where there is one. stream: names the draws."""
    return metrics.bootstrap_mean(values, seeding.numpy_generator(0, "spread", *stream)) if len(values) > 1 else metrics.Interval(float(values.mean()), float("nan"), float("nan"), len(values))


def spread_of_seeds(found: pd.DataFrame, dataset: str, method: str, metric: str) -> dict[str, float]:
    """Standard deviations of one cell: `over trainings` of the mean over SCMs (NaN with one training), `over models` of the mean over trainings; and the numbers of both."""
    cases = _of(found, dataset, method, metric)
    trainings, models = (cases.groupby(by)["value"].mean() for by in ("seed", "unit"))
    return {"dataset": dataset, "method": method, "mean": models.mean(), "over trainings": trainings.std(ddof=1), "over models": models.std(ddof=1), "trainings": len(trainings), "models": len(models)}


def _of(found: pd.DataFrame, dataset: str, method: str, metric: str) -> pd.DataFrame:
    cases = found[(found["dataset"] == dataset) & (found["method"] == method) & (found["metric"] == metric)]
    if cases.empty:
        raise checks.InputError(f"{dataset} has no {metric} of {method!r}; record it first.")
    return cases


def break_even(training_seconds: float, fit_seconds: float, infer_seconds: float) -> float:
    """`Eq. break-even`; infinite where inference is not faster than fitting."""
    return training_seconds / (fit_seconds - infer_seconds) if fit_seconds > infer_seconds else np.inf


# ---------------------------------------------------------------- E8: wrong graphs


def corrupted(adjacency: torch.Tensor, kind: str, edges: int, rng: torch.Generator) -> torch.Tensor:
    """Graphs [S, d, d] with `edges` edges turned around, added or deleted (`flip`, `add`, `delete`), acyclic still; fewer where a graph has not that many."""
    checks.choice(kind, "kind", ("flip", "add", "delete"))
    made = []
    for graph in adjacency:
        graph = graph.clone()
        d = len(graph)
        wanted = edges
        possible = ((graph | graph.T | torch.eye(d, dtype=torch.bool)).logical_not() if kind == "add" else graph).nonzero()
        for i, j in possible[torch.randperm(len(possible), generator=rng)].tolist():
            if not wanted:
                break
            tried = graph.clone()
            tried[i, j] = kind == "add"
            if kind == "flip":
                tried[j, i] = True
            if _acyclic(tried):
                graph, wanted = tried, wanted - 1
        made.append(graph)
    return torch.stack(made)


def break_cycles(graph: torch.Tensor, strength: torch.Tensor | None = None) -> torch.Tensor:
    """`graph [d, d]` without its weakest edges that close a cycle (in order of `strength [d, d]`, strongest first; all alike if None)."""
    made = torch.zeros_like(graph)
    edges = graph.nonzero()
    order = range(len(edges)) if strength is None else strength[edges[:, 0], edges[:, 1]].argsort(descending=True).tolist()
    for k in order:
        i, j = edges[k].tolist()
        made[i, j] = True
        if i == j or not _acyclic(made):
            made[i, j] = False
    return made


def _acyclic(graph: torch.Tensor) -> bool:
    try:
        scm_graphs.longest_path(graph[None])
    except checks.InputError:
        return False
    return True


def wrong_graph_rows(cells: list[Cell], methods: tuple[str, ...], network: CondFiP, kinds: tuple[str, ...] = ("flip", "add", "delete"), edges: tuple[int, ...] = (1, 2, 4), seed: int = 0, fip: FiPConfig = FiPConfig()) -> list[dict]:
    """E8: every method with the same wrong graphs, scored on the true data; cells are named `<cell>_flip2`."""
    made = []
    for cell in cells:
        for kind in kinds:
            for k in edges:
                wrong = replace(cell, adjacency=corrupted(cell.adjacency, kind, k, seeding.generator(0, "corrupt", cell.name, kind, k)))
                for method in methods:
                    fitted = scm_methods.fit(method, wrong, network, fip=fip)
                    made += scm_methods.rows("condfip.E8", cell, fitted, scm_methods.errors(fitted, cell), seed if method in scm_methods.AMORTISED else 0, f"{cell.name}_{kind}{k}")
    return made


# ---------------------------------------------------------------- E15: protocol forks


@torch.no_grad()
def fork_rows(family: str, d: int, n: int, stack: int, methods: tuple[str, ...], network: CondFiP, seed: int = 0) -> list[dict]:
    """E15 on one cell: scaling on the context alone (`_scaled_on_context`), encoder noise with all query rows as its context (`condfip_encoder_all`), interventions with the factual rows of the intervention set embedded in
    place of the context as the released code does (`condfip_factual_rows`), and to tell which rows from how many, as many of them as the context has (`condfip_factual_few`) and as many fresh rows as the intervention
    has (`condfip_fresh_rows`); shared random features (`_shared`)."""
    cell, made = scm_cells.cell(family, d, n, stack), []
    variants = [(cell, cell.name), (scm_cells.cell(family, d, n, stack, scale_on="context"), f"{cell.name}_scaled_on_context")]
    if FAMILIES[family].mechanism == "rff":
        variants.append((scm_cells.cell(replace(FAMILIES[family], shared=True, name=f"{family}_shared"), d, n, stack), f"{cell.name}_shared"))
    for variant, name in variants:
        for method in methods:
            fitted = scm_methods.fit(method, variant, network)
            made += scm_methods.rows("condfip.E15", variant, fitted, scm_methods.errors(fitted, variant), seed if method in scm_methods.AMORTISED else 0, name)
    whole = scm_methods.fit("condfip_encoder", cell, network, context=cell.query)
    made += scm_methods.rows("condfip.E15", cell, whole, scm_methods.errors(whole, cell), seed, method="condfip_encoder_all")
    rows, there = cell.do_noise.shape[1] // d, cell.to(next(network.parameters()).device)
    factual = scm_methods.fit("condfip", cell, network)
    for name, read in (("factual_rows", lambda s: there.do_factual[:, s]), ("factual_few", lambda s: there.do_factual[:, s][:, :n]), ("fresh_rows", lambda s: there.query[:, :rows])):
        generated = []
        for s in (slice(k * rows, (k + 1) * rows) for k in range(d)):
            condition = network.condition(read(s), there.adjacency)
            generated.append(fixed_point(lambda z, c=condition: network.mechanism(z, c), there.do_noise[:, s], steps_needed(there.adjacency), there.held[:, s]))
        found = {"rmse_intervention": scm_methods.scm_metrics.row_rmse(cell.do_data.numpy(), torch.cat(generated, 1).cpu().numpy())}
        made += scm_methods.rows("condfip.E15", cell, factual, found, seed, method=f"condfip_{name}")
    return made


# ---------------------------------------------------------------- E7: graphs of another kind


def regulatory_cell(family: str, edges: pd.DataFrame, d: int, n: int, stack: int, seed: int = 0) -> Cell:
    """E7: mechanisms of `family` on `regulatory_graphs`, named `rff_in_regulatory_d10_n100`."""
    graphs = regulatory_graphs(edges, d, stack, seeding.generator(seed, "evaluation", "regulatory", d))
    return scm_cells.cell(replace(FAMILIES[family], name=f"{family}_regulatory"), d, n, stack, seed, graphs=graphs)


def regulatory_graphs(edges: pd.DataFrame, d: int, stack: int, rng: torch.Generator) -> torch.Tensor:
    """`stack` graphs of d genes of a network (columns regulator, target), upper triangular [S, d, d]: a random gene and its neighbours, grown until d, cycles broken at random, loops dropped."""
    pairs = edges[edges["regulator"] != edges["target"]].drop_duplicates(["regulator", "target"])
    names = {name: i for i, name in enumerate(sorted(set(pairs["regulator"]) | set(pairs["target"])))}
    near: list[set[int]] = [set() for _ in names]
    links = [(names[a], names[b]) for a, b in zip(pairs["regulator"], pairs["target"])]
    for a, b in links:
        near[a].add(b)
        near[b].add(a)
    linked, made = set(links), []
    pick = lambda options: options[int(torch.randint(len(options), (), generator=rng))]  # noqa: E731
    while len(made) < stack:
        genes = [pick(range(len(names)))]
        while len(genes) < d and (border := sorted({b for a in genes for b in near[a]} - set(genes))):
            genes.append(pick(border))
        if len(genes) < d:
            continue
        graph = torch.tensor([[(a, b) in linked for b in genes] for a in genes])
        graph = break_cycles(graph, torch.rand(d, d, generator=rng))
        order = scms.causal_order(graph[None])[0]
        made.append(graph[order][:, order])
    return torch.stack(made)
