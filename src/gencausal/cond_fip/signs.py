r"""A trained network averaged over reflections of the columns (ours).

Additive-noise models stay additive-noise models when columns change sign, and the families of the training are as likely before as after. So the best predictor changes its own columns' signs with them, T(s z, s D) = s T(z, D); a trained
one does so only nearly. Its average over K sign vectors

    T(z, D) = (1 / K) sum_k s_k T_0(s_k z, s_k D)                                                                          `Eq. signs`

does exactly so for each s_k of the group {s_k}, and its squared error is at most that of T_0, averaged over the K reflected problems (by convexity). The vectors are rows of a Walsh matrix, s_kj = (-1)^(number of common bits of k and c_j),
c_j = 1 + j mod (K - 1): a group, in which each column has both signs equally often, and each pair of columns whose codes differ all four.
"""

import torch
from torch import nn

from gencausal import checks
from gencausal.cond_fip.networks import Condition, CondFiP

REFLECTIONS = 4  # by default: on validation models twice as many cost twice as much and gain little more (notebook 05a)


def walsh(count: int, ranks: torch.Tensor) -> torch.Tensor:
    """`count` sign vectors of the columns with the numbers `ranks [d]`, [count, d] of -1 and 1; the first is all ones. Raises InputError unless count is a power of two."""
    if count < 1 or count & (count - 1):
        raise checks.InputError(f"signs is {count} but must be a power of two, such as 1 or 4.")
    codes = 1 + ranks % max(count - 1, 1)
    common = torch.arange(count)[:, None] & codes
    odd = sum((common >> bit) & 1 for bit in range(count.bit_length())) % 2
    return 1.0 - 2.0 * odd


class SignAveraged(nn.Module):
    """`Eq. signs` of `network` with `count` reflections (1: the network itself), to be used in its place. A pass costs `count` of the network's.

    ranks: j of every column in the codes above, by default its place; with ranks that move with the columns their order does not matter.
    """

    def __init__(self, network: CondFiP, count: int = REFLECTIONS, ranks: list[int] | None = None):
        super().__init__()
        self.network, self.count, self.ranks = network, count, ranks
        self._signs(1 if ranks is None else len(ranks), torch.empty(0))

    def condition(self, context: torch.Tensor, adjacency: torch.Tensor) -> list[Condition]:
        """As `CondFiP.condition`, of each reflection. One after the other: on a CPU several data sets at once take longer, as their maps of attention leave the cache."""
        return [self.network.condition(context * s, adjacency) for s in self._signs(context.shape[-1], context)]

    def mechanism(self, z: torch.Tensor, condition: list[Condition], nodes: list[int] | None = None) -> torch.Tensor:
        """T(z), [B, m, d], at any rows `z [B, m, d]`; at `nodes` alone [B, m, len(nodes)]."""
        at = slice(None) if nodes is None else nodes
        return sum(s[at] * self.network.mechanism(z * s, part, nodes) for s, part in zip(self._signs(z.shape[-1], z), condition)) / self.count

    def encoder_mechanism(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        """F at the rows `x [B, n, d]`, which are their own context: [B, n, d]."""
        return sum(s * self.network.encoder_mechanism(x * s, adjacency) for s in self._signs(x.shape[-1], x)) / self.count

    def _signs(self, d: int, like: torch.Tensor) -> torch.Tensor:
        return walsh(self.count, torch.arange(d) if self.ranks is None else torch.tensor(self.ranks)).to(like)
