r"""Models of one SCM each, fitted to its context rows with the graph given: the bars that one amortised network must reach.

    zero_mechanism   F = 0: the noise is the data. The floor of every table
    ols              least squares of each node on its parents
    kernel_ridge     Gaussian kernel ridge regression of each node on its parents, width and penalty by leave-one-out error
    fip              a fixed-point transformer trained on the data set (`scm_models.fip`)
    dowhy_gcm        DoWhy's graphical causal model with mechanisms assigned by its own search (`scm_models.dowhy`)

Data are standardised. A model gives F_j for one node and for all; noise, sample, intervention and counterfactual follow from it alike for all models:
noise x - F(x); data from noise in causal order.
"""

from gencausal.scm_models.regressions import KernelRidge, OLS, ZeroMechanism

SIMPLE = {"zero_mechanism": ZeroMechanism, "ols": OLS, "kernel_ridge": KernelRidge}

__all__ = ["KernelRidge", "OLS", "SIMPLE", "ZeroMechanism"]
