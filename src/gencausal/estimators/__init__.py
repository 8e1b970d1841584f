"""The public estimators: fit on data frames or arrays, then ask for effects, intervals and draws."""

from gencausal.estimators.guided import GuidedCounterfactuals
from gencausal.estimators.iwdd import IWDD
from gencausal.estimators.overlap import ExtrapolationWarning

__all__ = ["ExtrapolationWarning", "GuidedCounterfactuals", "IWDD"]
