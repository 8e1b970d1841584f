"""Methods that a generative estimator must beat or explain (spec iwdd, sections 5.3 and 5.4).

    simple      zero and constant effects, T-learners that need no choice
    learners    S-, X-, DR-learner, causal forests, Bayesian causal forest, quantile forest
"""

from gencausal.baselines import learners
from gencausal.baselines.prediction import Prediction
from gencausal.baselines.simple import NAMES, fit_predict

__all__ = ["NAMES", "Prediction", "fit_predict", "learners"]
