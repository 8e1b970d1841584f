"""Methods that predict single cells under another treatment: each is fitted to a `CellTable` and gives `predict(outcome, treatment, covariates, treatment_cf) -> outcome_cf`."""
