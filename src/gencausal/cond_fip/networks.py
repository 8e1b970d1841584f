r"""Dataset encoder and conditional decoder of Cond-FiP (arXiv 2410.06128, sections 3.1-3.2, and the released code where it says more).

    encoder    x -> x w + b, then layers of (attention among rows, DAG-attention among nodes), a layer norm; head of two hidden layers   `Eq. dataset-encoder`
    pooling    h = layers(proj(embedding)); mu_j = max over rows of h_rj                                                                  `Eq. pool`
    codes      C = LN(mu W_C), P = LN(mu W_P), c = LN(mu W_c); z_emb = z_j C_j + P_j; the stream starts at n = P                          `Eq. codes`
    block      (s1, g1, a1, s2, g2, a2) = W silu(c);  u = LN(.)(1 + g1) + s1 for queries (n), keys and values (z_emb)
               n <- n + a1 DA(q, k; G) v;  n <- n + a2 FFN(LN(n)(1 + g2) + s2)                                                            `Eq. adaptive`
    recall     (ours, off by default) n_j <- n_j + softmax(q(n_j) k(h_rj)') v(h_rj) over the context rows r of the same node, then a feed-forward net            `Eq. recall`
    output     T(z)_j = LN(n_j) w_out + b_out

The paper squeezes all that is known of F_j into the pooled mu_j, w numbers; with recall the query looks the rows up again, as a kernel regression does. It reads n_j and the data alone, so what follows holds with it.

Queries start from the data alone, keys and values of node j read z_j alone, and G holds parents only: so T(z)_j depends on z only through the parents of j, for any weights (`Eq. triangular`).

Keys and values cost almost nothing. z_emb is affine in the number z_j, and with C~, P~ the centred codes its layer norm is r(z)(z C~ + P~), r(z) = (z^2 var C + 2 z cov(C, P) + var P + eps)^(-1/2).
What follows is linear, so that

    k_j = r z A_j + r B_j + c_j                                                                                           `Eq. rank-two`

with A, B, c one vector a node and block, computed once a data set: exact, and no product of matrices a query row.

Shapes: B data sets, n context rows, m query rows, d nodes, w features. Data are standardised. `adjacency[b, i, j]` says i -> j; the masks of attention are its transpose.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.functional import leaky_relu, linear, relu, silu
from torch.utils.checkpoint import checkpoint

from gencausal import checks
from gencausal.nn.attention import ATTENTION, EPS, Block, FeedForward, Linear, Norm, bare, row_attention

CONDITIONING = ("adaptive", "film", "concatenate", "none")


@dataclass(frozen=True)
class Sizes:
    """width w; heads, with head_width and decoder_head_width features each; hidden of the feed-forward nets; head of the encoder's output net; layers of the encoder, each of a row and a node block;
    dataset_layers more of them in the decoder; blocks of the decoder.

    attention: dag or softmax among nodes. conditioning: adaptive (Eq. adaptive), film (no gates), concatenate (c enters z_emb alone), none (only C and P). pool: max or mean. own_start: a matrix of its own for the
    start of the stream. recall: of the decoder's blocks, how many (the last) are followed by `Eq. recall`.
    """

    width: int = 64
    heads: int = 4
    head_width: int = 16
    decoder_head_width: int = 16
    hidden: int = 128
    head: int = 128
    layers: int = 3
    dataset_layers: int = 1
    blocks: int = 3
    attention: str = "dag"
    conditioning: str = "adaptive"
    pool: str = "max"
    own_start: bool = False
    recall: int = 0


class Encoder(nn.Module):
    """`Eq. dataset-encoder`. `forward(x [B, n, d], adjacency) -> [B, n, d, w]`; `mechanism` of it gives F at the same rows, [B, n, d]."""

    def __init__(self, sizes: Sizes, rng: torch.Generator):
        super().__init__()
        w, device = sizes.width, rng.device
        self.embed = Linear(1, w, rng)
        self.layers = nn.ModuleList(_block(axis, sizes, sizes.head_width, rng) for _ in range(sizes.layers) for axis in ("rows", "nodes"))
        self.norm = Norm(w, device)
        self.head = nn.ModuleList([Linear(w, sizes.head, rng), Linear(sizes.head, sizes.head, rng), Linear(sizes.head, 1, rng)])
        self.recompute = False

    def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        return self.norm(_through(self.layers, self.embed(x[..., None]), adjacency.mT, self.recompute))

    def mechanism(self, embedding: torch.Tensor) -> torch.Tensor:
        run = lambda h: leaky_relu(self.head[1](leaky_relu(self.head[0](h))))  # noqa: E731
        h = checkpoint(run, embedding, use_reentrant=False, preserve_rng_state=False) if self.recompute and torch.is_grad_enabled() else run(embedding)
        return _number(self.head[2], h)


@dataclass(frozen=True, eq=False)
class Condition:
    """What the decoder keeps of a data set, independent of the query: mask [B, 1, 1, d, d] of parents; start [B, 1, d, w]; statistics [3, B, 1, d] (var C, cov, var P);
    per block keys [B, d, 3, h k] and values (A, B, c of Eq. rank-two) and modulation [B, 1, d, w] each of six, or None; recall: keys and values [B d, h, n, k] of the rows for each block, or None."""

    mask: torch.Tensor
    start: torch.Tensor
    statistics: torch.Tensor
    blocks: list[tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...] | None]]
    recall: list[tuple[torch.Tensor, torch.Tensor] | None]

    def at(self, nodes: list[int]) -> "Condition":
        """What the queries at `nodes` need; keys and values stay those of all nodes."""
        B, d = self.start.shape[0], self.start.shape[2]
        blocks = [(keys, values, None if parts is None else tuple(part[:, :, nodes] for part in parts)) for keys, values, parts in self.blocks]
        recall = [None if rows is None else tuple(t.unflatten(0, (B, d))[:, nodes].flatten(0, 1) for t in rows) for rows in self.recall]
        return Condition(self.mask[..., nodes, :], self.start[:, :, nodes], self.statistics, blocks, recall)


class AdaptiveBlock(nn.Module):
    """`Eq. adaptive`, with keys and values by `Eq. rank-two`."""

    def __init__(self, sizes: Sizes, rng: torch.Generator):
        super().__init__()
        w, inner = sizes.width, sizes.heads * sizes.decoder_head_width
        self.heads, self.scale, self.attend, self.conditioning = sizes.heads, sizes.decoder_head_width**-0.5, ATTENTION[sizes.attention], sizes.conditioning
        self.norms = nn.ModuleList(Norm(w, rng.device) for _ in range(3))
        self.read = nn.ModuleList(Linear(w, inner, rng) for _ in range(3))
        self.write, self.feed = Linear(inner, w, rng), FeedForward(w, sizes.hidden, rng)
        self.modulate = Linear(w, 6 * w, rng) if sizes.conditioning in ("adaptive", "film") else None

    def condition(self, C: torch.Tensor, P: torch.Tensor, c: torch.Tensor) -> tuple:
        """Keys, values [B, d, 3, h k] and the modulation from the centred codes C, P and c, [B, d, w] each."""
        parts = None if self.modulate is None else self.modulate(silu(c)).chunk(6, -1)
        made = []
        for norm, read in zip(self.norms[1:], self.read[1:]):
            gain, shift = norm.gain, norm.shift
            if parts is not None:
                gain, shift = gain * (1 + parts[1]), shift * (1 + parts[1]) + parts[0]
            made.append(torch.stack([linear(C * gain, read.weight), linear(P * gain, read.weight), linear(shift.expand_as(C), read.weight, read.bias)], 2))
        return *made, None if parts is None else tuple(part[:, None] for part in parts)

    def forward(self, n: torch.Tensor, basis: torch.Tensor, condition: tuple, mask: torch.Tensor) -> torch.Tensor:
        """The stream `n [B, m or 1, d, w]` after the block; basis [B, d, m, 3] holds r z, r, 1, or in half precision [B, d, m, 5] high and low parts of the first two."""
        keys, values, parts = condition
        if basis.shape[-1] == 5:
            keys, values = (torch.cat([t[:, :, :2], t], 2) for t in (keys, values))
        k, v = ((basis @ t.to(basis.dtype)).unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1, 4) for t in (keys, values))  # [B, m, h, d, k]
        if parts is None:
            weight, bias = self.norms[0].into(self.read[0])
            q = linear(bare(n), weight * self.scale, bias * self.scale)
        else:
            shift, gain = self.norms[0].shift * (1 + parts[1]) + parts[0], self.norms[0].gain * (1 + parts[1])
            q = linear(torch.addcmul(shift.to(n.dtype), bare(n), gain.to(n.dtype)), self.read[0].weight * self.scale, self.read[0].bias * self.scale)
        q = q.unflatten(-1, (self.heads, -1)).transpose(2, 3)
        out = self.write(self.attend(q, k, v, mask).transpose(2, 3).flatten(-2))
        gated = parts is not None and self.conditioning == "adaptive"
        n = n + (out * parts[2].to(n.dtype) if gated else out)
        if parts is None:
            return n + self.feed(n)
        feed, norm = self.feed, self.feed.norm
        u = torch.addcmul((norm.shift * (1 + parts[4]) + parts[3]).to(n.dtype), bare(n), (norm.gain * (1 + parts[4])).to(n.dtype))
        out = feed.second(relu(feed.first(u)))
        return n + (out * parts[5].to(n.dtype) if gated else out)


class Recall(nn.Module):
    """`Eq. recall`: attention of the query rows to the context rows, node by node."""

    def __init__(self, sizes: Sizes, rng: torch.Generator):
        super().__init__()
        w, inner = sizes.width, sizes.heads * sizes.decoder_head_width
        self.heads, self.scale = sizes.heads, sizes.decoder_head_width**-0.5
        self.norm, self.read = Norm(w, rng.device), nn.ModuleList(Linear(w, inner, rng) for _ in range(3))
        self.write, self.feed = Linear(inner, w, rng), FeedForward(w, sizes.hidden, rng)

    def _by_node(self, x: torch.Tensor) -> torch.Tensor:
        """[B, r, d, h k] to [B d, h, r, k]."""
        return x.unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1, 4).flatten(0, 1)

    def condition(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the normalised rows [B, n, d, w]."""
        return self._by_node(self.read[1](rows)), self._by_node(self.read[2](rows))

    def forward(self, n: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        weight, bias = self.norm.into(self.read[0])
        q = self._by_node(linear(bare(n), weight * self.scale, bias * self.scale))
        out = row_attention(q, keys.to(q.dtype), values.to(q.dtype)).unflatten(0, (n.shape[0], n.shape[2])).permute(0, 3, 1, 2, 4).flatten(-2)
        n = n + self.write(out)
        return n + self.feed(n)


class Decoder(nn.Module):
    """`Eq. pool`, `Eq. codes`, `Eq. adaptive`. `condition` once a data set, `forward` for query rows."""

    def __init__(self, sizes: Sizes, rng: torch.Generator):
        super().__init__()
        w, device = sizes.width, rng.device
        self.pool, self.conditioning = sizes.pool, sizes.conditioning
        self.project = Linear(w, w, rng)
        self.layers = nn.ModuleList(_block(axis, sizes, sizes.decoder_head_width, rng) for _ in range(sizes.dataset_layers) for axis in ("rows", "nodes"))
        self.before, self.after = Norm(w, device), Norm(w, device)
        names = ["codebook", "position", "condition"] + ["start"] * sizes.own_start
        self.codes = nn.ModuleDict({name: nn.ModuleList([Linear(w, w, rng, bias=False), Norm(w, device)]) for name in names})
        self.mix = Linear(2 * w, w, rng) if sizes.conditioning == "concatenate" else None
        self.blocks = nn.ModuleList(AdaptiveBlock(sizes, rng) for _ in range(sizes.blocks))
        self.recall = nn.ModuleList(Recall(sizes, rng) for _ in range(sizes.recall))
        self.norm, self.out = Norm(w, device), Linear(w, 1, rng)
        self.recompute = False

    def condition(self, embedding: torch.Tensor, adjacency: torch.Tensor) -> Condition:
        """From the encoder's embedding `[B, n, d, w]` of the context."""
        h = self.before(_through(self.layers, self.project(embedding), adjacency.mT, self.recompute))
        mu = self.after(h.amax(1) if self.pool == "max" else h.mean(1))  # [B, d, w]
        code = {name: norm(into(mu)) for name, (into, norm) in self.codes.items()}
        C, P, c = (code[name].float() for name in ("codebook", "position", "condition"))
        start = code.get("start", P)[:, None].float()
        if self.mix is not None:
            w = C.shape[-1]
            C, P = linear(C, self.mix.weight[:, :w]).float(), self.mix(torch.cat([P, c], -1)).float()
        C, P = C - C.mean(-1, keepdim=True), P - P.mean(-1, keepdim=True)
        statistics = torch.stack([(C * C).mean(-1), (C * P).mean(-1), (P * P).mean(-1)])[:, :, None]
        recall = [None] * (len(self.blocks) - len(self.recall)) + [part.condition(h) for part in self.recall]
        return Condition(adjacency.mT[:, None, None], start, statistics, [block.condition(C, P, c) for block in self.blocks], recall)

    def forward(self, z: torch.Tensor, condition: Condition, nodes: list[int] | None = None) -> torch.Tensor:
        """T(z), [B, m, d], for `z [B, m, d]`; at `nodes` alone, [B, m, len(nodes)], for their share of the cost."""
        if nodes is not None:
            condition = condition.at(nodes)
        c2, cp, p2 = condition.statistics
        r = (z * z * c2 + 2 * z * cp + p2 + EPS).clamp(min=EPS).rsqrt()
        basis, start = torch.stack([r * z, r, torch.ones_like(z)], -1).transpose(1, 2), condition.start  # [B, d, m, 3]
        if torch.is_autocast_enabled(z.device.type):  # two half numbers hold the digits of one
            half = torch.get_autocast_dtype(z.device.type)
            high = basis[..., :2].to(half)
            basis, start = torch.cat([high, (basis[..., :2] - high).to(half), basis[..., 2:].to(half)], -1), start.to(half)
        n = start
        run = partial(checkpoint, use_reentrant=False, preserve_rng_state=False) if self.recompute and torch.is_grad_enabled() else lambda block, *inputs: block(*inputs)
        for i, (block, part, rows) in enumerate(zip(self.blocks, condition.blocks, condition.recall)):
            n = run(block, n, basis, part, condition.mask)
            if rows is not None:
                n = run(self.recall[i - len(self.blocks)], n, *rows)
        return _number(self.out, self.norm(n)).expand(-1, z.shape[1], -1)


class CondFiP(nn.Module):
    """Encoder and decoder with their options. half: bf16 products (autocast); recompute: activations of blocks are computed again for the gradient instead of kept. Neither changes a parameter."""

    def __init__(self, sizes: Sizes, rng: torch.Generator, half: bool = False, recompute: bool = False):
        super().__init__()
        checks.choice(sizes.conditioning, "sizes.conditioning", CONDITIONING)
        checks.choice(sizes.pool, "sizes.pool", ("max", "mean"))
        checks.choice(sizes.attention, "sizes.attention", tuple(ATTENTION))
        self.sizes, self.half = sizes, half
        self.encoder, self.decoder = Encoder(sizes, rng), Decoder(sizes, rng)
        self.encoder.recompute = self.decoder.recompute = recompute

    def precision(self, x: torch.Tensor) -> torch.autocast:
        """The context in which products run."""
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.half)

    def encode(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        with self.precision(x):
            return self.encoder(x, adjacency)

    def encoder_mechanism(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        """F at the rows `x [B, n, d]`, which are their own context, by the encoder's head: [B, n, d]."""
        with self.precision(x):
            return self.encoder.mechanism(self.encoder(x, adjacency))

    def condition(self, context: torch.Tensor, adjacency: torch.Tensor) -> Condition:
        """What is known of the SCMs behind `context [B, n, d]` and `adjacency [B, d, d]` of bool."""
        with self.precision(context):
            return self.decoder.condition(self.encoder(context, adjacency), adjacency)

    def mechanism(self, z: torch.Tensor, condition: Condition, nodes: list[int] | None = None) -> torch.Tensor:
        """T(z), [B, m, d], at any rows `z [B, m, d]`; at `nodes` alone [B, m, len(nodes)]."""
        with self.precision(z):
            return self.decoder(z, condition, nodes)


def _number(projection: Linear, h: torch.Tensor) -> torch.Tensor:
    """The last map, to one number, in full precision: `h [..., w] -> [...]`."""
    with torch.autocast(h.device.type, enabled=False):
        return projection(h.float())[..., 0]


def _block(axis: str, sizes: Sizes, head_width: int, rng: torch.Generator) -> Block:
    return Block(axis, sizes.width, sizes.heads, head_width, sizes.hidden, rng, sizes.attention)


def _through(layers: nn.ModuleList, x: torch.Tensor, mask: torch.Tensor, recompute: bool) -> torch.Tensor:
    for layer in layers:
        x = checkpoint(layer, x, mask, use_reentrant=False, preserve_rng_state=False) if recompute and torch.is_grad_enabled() else layer(x, mask)
    return x
