"""`IWDD` as dowhy's econml wrapper wants it.

The wrapper (`dowhy.causal_estimators.econml.Econml`) splits covariates into effect modifiers X and controls W. For estimators whose effects
condition on every covariate it passes all of them as X, and it knows such an estimator by the name of its module, which must end in
"metalearners". Refuters that add a covariate, such as the random common cause, then reach IWDD too.
"""

from gencausal.estimators import iwdd


class IWDD(iwdd.IWDD):
    """`estimators.IWDD`, for `Econml(estimand, IWDD(...))`; a worked example is in tests/test_iwdd.py."""
