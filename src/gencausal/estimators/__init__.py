"""The public estimators: fit on data frames or arrays, then ask for effects, intervals and draws."""
