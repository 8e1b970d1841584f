r"""Cond-FiP: one network that infers the mechanisms of an additive-noise SCM from its rows and its graph (Mahajan et al., arXiv 2410.06128).

    encoder    E(D_X, G) -> rows' embedding, whose head predicts F(D_X) = D_X - D_N                                       `networks.Encoder`
    decoder    T(z, D_X, G) = F(z) for any z, conditioned on the embedding pooled over rows                              `networks.Decoder`
    use        noise z - T(z); data as the fixed point z = T(z) + n, reached exactly after longest path + 1 steps        `inference`
    signs      the same network averaged over reflections of the columns (ours)                                         `signs`
    rival      the same kind of transformer with codes of its own, trained on one data set                              `per_dataset`
"""

from gencausal.cond_fip.inference import fixed_point, levels, steps_needed, sweep
from gencausal.cond_fip.objective import losses, row_loss
from gencausal.cond_fip.networks import Condition, CondFiP, Decoder, Encoder, Sizes
from gencausal.cond_fip.signs import REFLECTIONS, SignAveraged

__all__ = ["REFLECTIONS", "CondFiP", "Condition", "Decoder", "Encoder", "SignAveraged", "Sizes", "fixed_point", "levels", "losses", "row_loss", "steps_needed", "sweep"]
