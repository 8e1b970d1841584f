r"""FiP, the fixed-point transformer of one data set (Scetbon et al. 2024), S of them as one stack: what Cond-FiP amortises, trained anew for each.

    z_emb = z_j C_j + P_j,  n = N_j (all learned, one row a node)                                                        `Eq. fip-codes`
    n <- n + DA(q(n), k(z_emb), v(z_emb); G) W;  n <- n + FFN(LN n);  T(z)_j = n_j w_out + b_out                          `Eq. fip-block`

One layer as in the paper's baseline: a mechanism needs no more than the parents' values. As in FiP's text, keys and values read z_emb without a norm: values are affine in z, so that a straight mechanism is near.
Shapes: S data sets, n rows, d nodes, w features, h heads of size k.
"""

import math

import torch
from torch import nn
from torch.nn.functional import relu

from gencausal.nn.attention import bare, dag_attention
from gencausal.nn.mlp import StackedLinear


class StackedFiP(nn.Module):
    """`forward(z [S, n, d]) -> T(z) [S, n, d]` on the graphs `adjacency [S, d, d]` of bool."""

    def __init__(self, adjacency: torch.Tensor, rng: torch.Generator, width: int = 128, heads: int = 8, head_width: int = 32, hidden: int = 128):
        super().__init__()
        S, d = adjacency.shape[:2]
        inner, self.heads = heads * head_width, heads
        code = lambda: nn.Parameter(torch.randn(1, d, width, generator=rng, device=rng.device).repeat(S, 1, 1))  # noqa: E731
        self.codebook, self.position, self.start = code(), code(), code()
        self.query, self.key, self.value = (StackedLinear(S, width, inner, rng) for _ in range(3))
        self.write, self.first, self.second, self.out = (StackedLinear(S, *sizes, rng, gain) for sizes, gain in (((inner, width), 1.0), ((width, hidden), 1.4), ((hidden, width), 1.0), ((width, 1), 0.1)))
        self.register_buffer("mask", adjacency.mT[:, None, None].clone(), persistent=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        basis = torch.stack([z, torch.ones_like(z)], -1).transpose(1, 2)  # [S, d, n, 2]
        k, v = (self._heads(basis @ torch.stack([self.codebook @ read.weight, read(self.position)], 2)) for read in (self.key, self.value))
        q = self._heads(self.query(bare(self.start))[:, :, None]) / math.sqrt(k.shape[-1])
        out = dag_attention(q, k, v, self.mask).transpose(2, 3).flatten(-2)  # [S, n, d, h k]
        rows = out.shape[1:3]
        n = self.write(out.flatten(1, 2)) + self.start.repeat(1, rows[0], 1)
        n = n + self.second(relu(self.first(bare(n))))
        return self.out(n)[..., 0].unflatten(1, rows)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """[S, d, n, h k] to [S, n, h, d, k]."""
        return x.unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1, 4)
