r"""Test cells of the amortised study: SCMs of one family, their context and query rows, interventions with their outcomes (spec cond_fip, section 4.4).

A cell `rff_in_d10_n100` holds S SCMs of 10 nodes, 100 context rows to learn from, 400 query rows to be scored on, and for each SCM d interventions: do(x_j = a) at a random node, a uniform between
the 10 % and the 90 % quantile of the node's rows, 100 rows each. Everything is standardised by all rows, context and query, as the paper does, or by the context alone.

Shapes: S SCMs, n context rows, m query rows, d nodes, R = interventions times rows.
"""

from dataclasses import dataclass, fields, replace

import torch

from gencausal import checks, seeding
from gencausal.data import scms
from gencausal.data.scms import FAMILIES, Family, Scale, SCMs

QUERY, DO_ROWS = 400, 100


@dataclass(frozen=True, eq=False)
class Cell:
    """Standardised data of S SCMs, float32. name; scms in their own units; scale of the standardisation; adjacency [S, d, d] of bool.

    context, context_noise [S, n, d]; query, query_noise [S, m, d]. do_noise [S, R, d] with its outcome do_data under `held [S, R, d]` (NaN where left alone), do_factual the same rows without intervention.
    """

    name: str
    scms: SCMs
    scale: Scale
    adjacency: torch.Tensor
    context: torch.Tensor
    context_noise: torch.Tensor
    query: torch.Tensor
    query_noise: torch.Tensor
    held: torch.Tensor
    do_noise: torch.Tensor
    do_data: torch.Tensor
    do_factual: torch.Tensor

    def __len__(self) -> int:
        return len(self.adjacency)

    @property
    def d(self) -> int:
        return self.adjacency.shape[1]

    def to(self, device: torch.device | str) -> "Cell":
        """The same cell with its tensors (not its `scms`) on `device`."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if isinstance(getattr(self, f.name), torch.Tensor)}
        return replace(self, **moved, scale=Scale(self.scale.mean.to(device), self.scale.sd.to(device)))

    def mechanism(self, z: torch.Tensor) -> torch.Tensor:
        """True F in standardised units: `z [S, rows, d]` to (F(x) - mean) / sd."""
        return self.scale.into(self.scms.mechanisms(self.scale.back(z)))


def cell(family: Family | str, d: int, context: int, stack: int, seed: int = 0, query: int = QUERY, interventions: int | None = None, rows: int = DO_ROWS, scale_on: str = "all",
         graphs: torch.Tensor | None = None) -> Cell:
    """`stack` SCMs of `family` with d nodes; the streams are those of evaluation, so that no training SCM meets them. The SCMs and their query rows do not depend on `context` up to 400 rows.

    interventions: how many an SCM, default d. scale_on: all (context and query) or context. graphs: as in `scms.draw`.
    """
    family = FAMILIES[checks.choice(family, "family", list(FAMILIES))] if isinstance(family, str) else family
    checks.whole(context, "context", 2)
    name = f"{family.name}_d{d}"
    drawn = scms.draw(family, stack, d, seeding.generator(seed, "evaluation", name, "scms"), graphs)
    return from_scms(f"{name}_n{context}", drawn, context, seed, query, interventions, rows, scale_on)


def from_scms(name: str, drawn: SCMs, context: int, seed: int = 0, query: int = QUERY, interventions: int | None = None, rows: int = DO_ROWS, scale_on: str = "all") -> Cell:
    """The cell of given SCMs; see `cell`."""
    checks.choice(scale_on, "scale_on", ("all", "context"))
    stack, d = len(drawn), drawn.d
    stream = lambda use: seeding.generator(seed, "evaluation", drawn.name, d, use, device=drawn.adjacency.device)  # noqa: E731
    x_query, u_query = drawn.sample(query, stream("query"))
    x, u = drawn.sample(max(context, 400), stream("context"))
    x, u = x[:, :context], u[:, :context]
    scale = Scale.of(torch.cat([x, x_query], 1) if scale_on == "all" else x)
    rng, count = stream("do"), interventions or d
    node = torch.randint(d, (stack, count), generator=rng, device=rng.device)
    low, high = torch.cat([x, x_query], 1).quantile(torch.tensor([0.1, 0.9], device=rng.device), dim=1).gather(2, node.expand(2, -1, -1))
    value = low + (high - low) * torch.rand(stack, count, generator=rng, device=rng.device)
    held = torch.full((stack, count, d), torch.nan, device=rng.device).scatter(2, node[:, :, None], value[:, :, None]).repeat_interleave(rows, 1)
    u_do = drawn.noise.sample(count * rows, rng)
    return Cell(name, drawn, scale, drawn.adjacency, scale.into(x), u / scale.sd, scale.into(x_query), u_query / scale.sd, scale.into(held), u_do / scale.sd, scale.into(drawn.generate(u_do, held)),
                scale.into(drawn.generate(u_do)))


def protocol(made: Cell) -> dict[str, float]:
    """One row of the protocol table: SCMs, nodes, context and query rows, mean edges a node, longest path (mean, largest), largest number of parents."""
    depth = scms.scm_graphs.longest_path(made.adjacency).amax(1).double()
    return {"cell": made.name, "scms": len(made), "nodes": made.d, "context": made.context.shape[1], "query": made.query.shape[1], "edges_a_node": made.adjacency.sum().item() / (len(made) * made.d),
            "longest_path": depth.mean().item(), "longest_path_max": int(depth.max()), "most_parents": int(made.adjacency.sum(1).max())}
