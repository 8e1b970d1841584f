r"""Random acyclic graphs as AVICI draws them (Lorch et al. 2022; spec cond_fip, section 3.2), many at once.

`adjacency[s, i, j]` says i -> j. Here every graph is upper triangular, node 0 first in the causal order; `scms.draw` renames the nodes at random.

    er       edges independent with p = min(2 e / (d - 1), 0.99), e edges a node                                     `Eq. er`
    sf_in    preferential attachment: each new node points to m old ones, drawn in proportion to indegree^power + 1   `Eq. barabasi`
    sf_out   its transpose: old nodes point to new ones
    ws       torus of dimension D with ceil(d^(1/D)) nodes a side, each edge rewired with probability 0.3, surplus nodes left out
    sbm      blocks at random splits, p within and 0.1 p between, p such that 2 d edges are expected                   `Eq. sbm`

Shapes: S graphs, d nodes.
"""

import math

import torch

from gencausal import checks

KINDS = ("er", "sf_in", "sf_out", "ws", "sbm")
EDGES = (1, 2, 3)  # edges a node of er, sf_in and sf_out
DIMENSIONS, REWIRED = (2, 3), 0.3
BLOCKS, DAMPING, SBM_EDGES = (5, 10), 0.1, 2


def sample(kind: str, stack: int, d: int, rng: torch.Generator) -> torch.Tensor:
    """`stack` graphs of `kind` over d >= 2 nodes, [S, d, d] of bool, upper triangular, on the generator's device."""
    checks.choice(kind, "kind", KINDS)
    checks.whole(d, "d", 2)
    if kind == "er":
        p = (2.0 * _choice(EDGES, stack, rng) / (d - 1)).clamp(max=0.99)
        return _uniform((stack, d, d), rng).lt(p[:, None, None]).triu(1)
    if kind in ("sf_in", "sf_out"):
        grown = barabasi(_choice(EDGES, stack, rng), d, rng)
        return grown.mT if kind == "sf_out" else grown.flip(1, 2)  # new -> old has the newest node first in the causal order
    if kind == "sbm":
        return _blocks(stack, d, rng)
    made = torch.zeros(stack, d, d, dtype=torch.bool, device=rng.device)
    dimension = _choice(DIMENSIONS, stack, rng)
    for value in DIMENSIONS:
        rows = (dimension == value).nonzero().flatten()
        made[rows] = _small_world(len(rows), d, value, rng)
    return made


def mixed(kinds: tuple[str, ...], stack: int, d: int, rng: torch.Generator) -> torch.Tensor:
    """Graphs of `kinds` in turn (graph s is of kind s mod their number), [S, d, d]."""
    made = torch.zeros(stack, d, d, dtype=torch.bool, device=rng.device)
    for start, kind in enumerate(kinds):
        if count := len(range(start, stack, len(kinds))):
            made[start::len(kinds)] = sample(kind, count, d, rng)
    return made


def barabasi(edges: torch.Tensor, d: int, rng: torch.Generator, power: float = 1.0) -> torch.Tensor:
    """Growth by preferential attachment (Eq. barabasi), `edges [S]` to distinct old nodes for each new one: [S, new, old] of bool."""
    stack = len(edges)
    made = torch.zeros(stack, d, d, dtype=torch.bool, device=rng.device)
    for new in range(1, d):
        weight = made[:, :new, :new].sum(1).double() ** power + 1
        gumbel = -torch.log(-torch.log(_uniform((stack, new), rng).double().clamp(1e-12, 1 - 1e-12)))
        rank = (weight.log() + gumbel).argsort(1, descending=True).argsort(1)
        made[:, new, :new] = rank < edges[:, None]
    return made


def longest_path(adjacency: torch.Tensor) -> torch.Tensor:
    """Edges on the longest path that ends in each node, [..., d] of int64: the depth, 0 for a root. A cyclic graph has none and raises InputError."""
    depth = torch.zeros(adjacency.shape[:-1], dtype=torch.long, device=adjacency.device)
    edge = adjacency != 0
    for _ in range(adjacency.shape[-1] + 1):
        deeper = torch.where(edge, depth[..., :, None] + 1, 0).amax(-2)
        if torch.equal(deeper, depth):
            return depth
        depth = deeper
    raise checks.InputError("graph has a cycle; remove one of its edges.")


def _uniform(shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=rng, device=rng.device)


def _choice(options: tuple[int, ...], stack: int, rng: torch.Generator) -> torch.Tensor:
    """One of `options` for each graph, [S]."""
    values = torch.tensor(options, device=rng.device)
    return values[torch.randint(len(options), (stack,), generator=rng, device=rng.device)]


def _blocks(stack: int, d: int, rng: torch.Generator) -> torch.Tensor:
    """Stochastic block model (Eq. sbm), [S, d, d]."""
    splits = (_choice(BLOCKS, stack, rng) - 1).clamp(max=d - 1)
    rank = _uniform((stack, d), rng).argsort(1).argsort(1)
    block = (rank < splits[:, None]).cumsum(1)  # a new block starts at each of the splits, which are distinct places
    place = _uniform((stack, d), rng).argsort(1)
    block = block.gather(1, place)
    same = block[:, :, None] == block[:, None, :]
    weight = torch.where(same, 1.0, DAMPING).triu(1)
    p = (SBM_EDGES * d / weight.sum((1, 2)))[:, None, None] * weight
    return _uniform((stack, d, d), rng).lt(p.clamp(max=0.99)).triu(1)


def _small_world(stack: int, d: int, dimension: int, rng: torch.Generator) -> torch.Tensor:
    """Watts and Strogatz: torus, rewired edge by edge without loops or double edges, d nodes kept at random, [S, d, d]."""
    side = math.ceil(round(d ** (1 / dimension), 9))
    size = side**dimension
    index = torch.arange(size, device=rng.device).view(*[side] * dimension)
    pairs = torch.stack([torch.stack([index, index.roll(-1, axis)], -1).view(-1, 2) for axis in range(dimension)]).view(-1, 2)
    linked = torch.zeros(stack, size, size, dtype=torch.bool, device=rng.device)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    linked[:, pairs[:, 0], pairs[:, 1]] = linked[:, pairs[:, 1], pairs[:, 0]] = True
    pairs = torch.unique(pairs.sort(1).values, dim=0)
    everyone = torch.arange(stack, device=rng.device)
    for one, other in pairs.tolist():
        free = ~linked[:, one]
        free[:, one] = False
        chosen = (_uniform((stack, size), rng) * free).argmax(1)
        move = (_uniform((stack,), rng) < REWIRED) & free.any(1)
        chosen = torch.where(move, chosen, other)
        linked[:, one, other] = linked[:, other, one] = False
        linked[everyone, one, chosen] = linked[everyone, chosen, one] = True
    kept = _uniform((stack, size), rng).argsort(1)[:, :d]
    return linked.gather(1, kept[:, :, None].expand(-1, -1, size)).gather(2, kept[:, None, :].expand(-1, d, -1)).triu(1)
