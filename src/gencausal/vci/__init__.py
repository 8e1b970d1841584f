"""Variational causal inference (VCI, arXiv 2410.12730v3): networks and objective, for cells (`networks`, `objective`) and images (`images`)."""
