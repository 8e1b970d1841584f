"""The public estimators: fit on data frames or arrays, then ask for effects, intervals and draws."""

from gencausal.estimators.cond_fip import CondFiP, InferredSCM
from gencausal.estimators.guided import GuidedCounterfactuals
from gencausal.estimators.iwdd import IWDD
from gencausal.estimators.overlap import ExtrapolationWarning
from gencausal.estimators.vci import VCI

__all__ = ["CondFiP", "ExtrapolationWarning", "GuidedCounterfactuals", "IWDD", "InferredSCM", "VCI"]
