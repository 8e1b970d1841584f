r"""Attention blocks for data sets and graphs: among rows by softmax, among nodes along the edges of a graph.

DAG-attention (FiP, Scetbon et al. 2024). With scores S = q k' / d_k^(1/2) and a mask G, row = child, column = parent (the transpose of an adjacency),

    DA_ij = G_ij e^{S_ij} / max(sum_k G_ik e^{S_ik}, 1)                                                                `Eq. dag-attention`
          = softmax(S)_ij min(1, e^{lse_i}),  lse_i = log sum_k G_ik e^{S_ik}

Rows sum to at most 1, and a node without parents has a row of zeros, where softmax would be undefined. Computed with m_i = max(0, max of the allowed S_ik) taken out of numerator and denominator,
which changes no value and overflows for none; scores that are not allowed never enter an exponential.

Pre-norm blocks as in AVICI (Lorch et al. 2022): queries, keys and values are read through three layer norms of their own. These differ only by gain and shift, which are multiplied into the projections
that follow, so that one normalisation and one matrix product serve all three; the parameters remain apart.

Every attention here takes queries that are divided by d_k^(1/2) already: the projection that makes them carries the factor.

Shapes: B data sets, n rows, d nodes, h heads of size k, w features; `x [B, n, d, w]`.
"""

import math

import torch
from torch import nn
from torch.nn.functional import layer_norm, linear, relu, scaled_dot_product_attention

EPS = 1e-5


def dag_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`Eq. dag-attention` times v: `q, k, v [..., d, k], mask [..., d, d]` of bool, broadcast to the scores; [..., d, k]."""
    scores = (q @ k.mT).float().masked_fill(~mask, -torch.inf)
    peak = scores.detach().amax(-1, keepdim=True).clamp(min=0)
    weight = (scores - peak).exp()  # of -inf: 0, with gradient 0
    weight = weight / weight.sum(-1, keepdim=True).maximum((-peak).exp())
    return weight.to(v.dtype) @ v


def softmax_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The ablation: softmax over the parents; a node without parents gets zeros."""
    scores = (q @ k.mT).float().masked_fill(~mask, -1e9)
    return (scores.softmax(-1) * mask.any(-1, keepdim=True)).to(v.dtype) @ v


class _RowAttention(torch.autograd.Function):
    """Softmax attention of `q [N, m, k]` to `k, v [N, n, k]` in plain batched products: in bf16 on a CPU the backward pass takes a fifth of the time of torch's fused one, the forward pass less too. Small maps are kept, large ones made again, part by part."""

    KEPT, PART = 2**24, 16

    @staticmethod
    def _map(q, k):
        return (q @ k.mT).softmax(-1)

    @staticmethod
    def forward(ctx, q, k, v):
        kept = _RowAttention._map(q, k) if len(q) * q.shape[1] * k.shape[1] <= _RowAttention.KEPT else None
        ctx.save_for_backward(q, k, v, *([] if kept is None else [kept]))
        if kept is not None:
            return kept @ v
        return torch.cat([_RowAttention._map(a, b) @ c for a, b, c in zip(*(t.split(_RowAttention.PART) for t in (q, k, v)))])

    @staticmethod
    def backward(ctx, grad):
        q, k, v, *kept = ctx.saved_tensors
        part = len(q) if kept else _RowAttention.PART
        made = []
        for i in range(0, len(q), part):
            a, b, c, g = (t[i : i + part] for t in (q, k, v, grad))
            p = kept[0] if kept else _RowAttention._map(a, b)
            slope = torch._softmax_backward_data(g @ c.mT, p, -1, p.dtype)
            made.append((slope @ b, slope.mT @ a, p.mT @ g))
        return tuple(torch.cat(parts) for parts in zip(*made)) if len(made) > 1 else made[0]


def row_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Softmax attention of `q [N, h, m, k]` to `k, v [N, h, n, k]` without a mask, [N, h, m, k]."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return _RowAttention.apply(*(t.flatten(0, 1) for t in (q, k, v))).unflatten(0, q.shape[:2])
    return scaled_dot_product_attention(q, k, v, scale=1.0)


ATTENTION = {"dag": dag_attention, "softmax": softmax_attention}


class Linear(nn.Module):
    """An affine map with weights U(-1, 1) (n_in)^(-1/2) drawn by `rng`."""

    def __init__(self, n_in: int, n_out: int, rng: torch.Generator, bias: bool = True):
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        draw = lambda *shape: (2 * torch.rand(shape, generator=rng, device=rng.device) - 1) * bound  # noqa: E731
        self.weight = nn.Parameter(draw(n_out, n_in))
        self.bias = nn.Parameter(draw(n_out)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


class Norm(nn.Module):
    """Layer norm over the last axis with gain and shift."""

    def __init__(self, width: int, device: torch.device | str = "cpu"):
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(width, device=device)), nn.Parameter(torch.zeros(width, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], self.gain, self.shift, EPS)

    def into(self, projection: Linear) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of `projection` after this norm, to be used on the bare normalisation."""
        return projection.weight * self.gain, projection.bias + projection.weight @ self.shift


def bare(x: torch.Tensor) -> torch.Tensor:
    """Normalisation over the last axis without gain and shift."""
    return layer_norm(x, x.shape[-1:], eps=EPS)


class FeedForward(nn.Module):
    """Two layers with a ReLU between, behind a layer norm of their own."""

    def __init__(self, width: int, hidden: int, rng: torch.Generator):
        super().__init__()
        self.norm, self.first, self.second = Norm(width, rng.device), Linear(width, hidden, rng), Linear(hidden, width, rng)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(relu(linear(bare(x), *self.norm.into(self.first))))


class Block(nn.Module):
    """Self-attention and feed-forward, each added to the stream, over one of the axes of `x [B, n, d, w]`: `rows` (softmax, node by node, no mask) or `nodes` (along `mask [B, d, d]`, row by row).

    attention: dag or softmax, for `nodes`. Without dropout: every training batch is fresh, so there is nothing to overfit.
    """

    def __init__(self, axis: str, width: int, heads: int, head_width: int, hidden: int, rng: torch.Generator, attention: str = "dag"):
        super().__init__()
        self.axis, self.heads, self.scale, self.attend = axis, heads, 1 / math.sqrt(head_width), ATTENTION[attention]
        self.norms = nn.ModuleList(Norm(width, rng.device) for _ in range(3))
        self.read = nn.ModuleList(Linear(width, heads * head_width, rng) for _ in range(3))
        self.write = Linear(heads * head_width, width, rng)
        self.feed = FeedForward(width, hidden, rng)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        (query, shift), *others = (norm.into(read) for norm, read in zip(self.norms, self.read))
        weights, biases = zip((query * self.scale, shift * self.scale), *others)
        q, k, v = linear(bare(x), torch.cat(weights), torch.cat(biases)).unflatten(-1, (3, self.heads, -1)).unbind(3)  # each [B, n, d, h, k]
        if self.axis == "rows":
            q, k, v = (t.permute(0, 2, 3, 1, 4) for t in (q, k, v))
            B, d = q.shape[:2]
            out = row_attention(*(t.flatten(0, 1) for t in (q, k, v))).unflatten(0, (B, d)).permute(0, 3, 1, 2, 4)
        else:
            out = self.attend(*(t.transpose(2, 3) for t in (q, k, v)), mask[:, None, None]).transpose(2, 3)
        x = x + self.write(out.flatten(-2))
        return x + self.feed(x)
