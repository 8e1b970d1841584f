"""The public estimators: fit on data frames or arrays, then ask for effects, intervals and draws."""

from gencausal.estimators.iwdd import IWDD

__all__ = ["IWDD"]
