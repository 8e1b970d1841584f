"""Methods that predict cells under another treatment: VCI, its rivals with networks, and baselines without (spec vci, 7)."""
