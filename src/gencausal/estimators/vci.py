r"""`VCI`: single cells under another treatment, on AnnData, by variational causal inference (arXiv 2410.12730).

An encoder reads a cell's outcome, treatment and covariates, a decoder reads latent and treatment alone (`vci.networks`, `vci.objective`); `cell_models.stack` trains. A treatment is one-hot times dose, summed over the
parts of "A+B": of an unseen combination every part must have been seen. All of it is causal under unconfoundedness given the covariates, overlap and consistency, which no table of cells can show.

    counterfactual   y'_i = E[y | z_i, t'],  z_i the mean of q(z | y_i, x_i, t_i)                                        (Eq. encoder, Eq. decoder)
    marginal effect  mean_i [phi_i(t') - phi_i(control)],  phi of Eq. aipw within strata, intervals of Eq. influence    `Eq. cell-effect`

The correction of a marginal effect is cross-fitted: a cell belongs to one of two halves by the hash of its values, and everything that is predicted for it comes from a network trained on the other half. m_i(t') must not know
the cell's own treatment (`robust`), so it is the mean prediction for the *controls* of the cell's stratum in the other half. With the empirical propensities of the strata the value then
stays near that of the stratified means, whatever the model says; the model's own word is the column `plug_in`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from gencausal import checks, robust
from gencausal.cell_models import stack
from gencausal.checkpoints import load_state, save_state, tensor_hash
from gencausal.checks import InputError
from gencausal.data.cell_table import CellTable
from gencausal.estimators import annotated
from gencausal.estimators.outcomes import member_seeds, resolve_device
from gencausal.seeding import generator
from gencausal.vci.networks import CellNetworks

FORMAT = "gencausal.VCI/1"
EXPECTS = ("log1p", "counts")
WEIGHTS = {"vci_borrowed": (0.03, 1.7, 0.0003), "vci": stack.WEIGHTS["vci"][:3], "published": stack.WEIGHTS["vci"][:3]}
"""w0, w1, w2 by name: ours, meant for groups never treated, with borrowed matches, few cells and steps; and the published ones (`vci` and `published` are the same)."""
BORROW = ("vci_borrowed",)
CONFIG = stack.Config(rounds=1000, batch=64, draws=1, matches=stack.EVERY_MATCH, lr=3e-3)
FEWEST_CELLS = 20
HALVES = 2


class VCI:
    """Counterfactual cells.

    config: a `stack.Config` (rounds, batch, widths, ...). weights: `vci_borrowed`, `vci` (as published; also `published`), or (w0, w1, w2), which leaves `config.borrow` as it is. members: networks of the ensemble, whose
    predictions are averaged. seed: of everything. device: auto, cpu, cuda or mps. crossfit: also train on either half, for `marginal_effect` (three networks a member in one stack, three copies of the cells).
    checkpoint_folder: where a killed fit continues from.

    After `fit`: genes_, control_, treatments_ (the parts), conditions_, strata_, covariates_ (levels by key), model_id_, history_.
    """

    def __init__(self, config: stack.Config = CONFIG, weights: str | tuple[float, float, float] = "vci_borrowed", members: int = 1, seed: int = 0, device: str = "auto", crossfit: bool = True, checkpoint_folder: str | None = None):
        if not isinstance(config, stack.Config):
            raise InputError(f"config must be a gencausal.cell_models.stack.Config, not {type(config).__name__}; change single fields by dataclasses.replace(estimators.vci.CONFIG, rounds=...).")
        if config.likelihood != "normal":
            raise InputError(f"config.likelihood is {config.likelihood!r}; VCI on AnnData models log-normalised expression, so leave it 'normal' and pass expects='counts' to fit for raw counts.")
        if isinstance(weights, str):
            checks.choice(weights, "weights", tuple(WEIGHTS))
            config = replace(config, borrow=weights in BORROW)
        elif len(weights) != 3:
            raise InputError(f"weights must be three numbers (w0, w1, w2) or one of {', '.join(map(repr, WEIGHTS))}, not {weights!r}.")
        self.weights = tuple(checks.non_negative(w, "weights") for w in (WEIGHTS[weights] if isinstance(weights, str) else weights))
        self.config, self.members, self.seed = config, checks.whole(members, "members"), checks.whole(seed, "seed", 0)
        self.device, self.crossfit, self.checkpoint_folder = device, bool(crossfit), checkpoint_folder

    # --- fitting -------------------------------------------------------------------------------------------------------------------------

    def fit(self, adata, treatment_key: str, covariate_keys: Sequence[str] = (), control: str = "control", layer: str | None = None, dose_key: str | None = None, expects: str = "log1p") -> "VCI":
        """Learn from every cell of `adata`; hold cells out by not passing them.

        treatment_key, covariate_keys: columns of adata.obs, categories; a treatment "A+B" has parts A and B, and "A+<control>" is A. control: its label. layer: of adata (X if None). dose_key: column of positive doses, 1 if None.
        expects: "log1p", values are log-normalised; "counts", they are raw and become log1p of counts at the median depth of these cells (Eq. lognorm): predictions are on that scale in either case.
        Raises checks.InputError, naming the argument and the fix, before any work starts.
        """
        device = resolve_device(self.device)
        covariate_keys = [covariate_keys] if isinstance(covariate_keys, str) else list(covariate_keys)
        keys = {"treatment_key": [treatment_key], "covariate_keys": covariate_keys, "dose_key": [dose_key] if dose_key is not None else []}
        for name, columns in keys.items():
            annotated.columns(adata, columns, name)
        checks.choice(expects, "expects", EXPECTS)
        raw = annotated.values(adata, layer, expects)
        if len(raw) < FEWEST_CELLS:
            raise InputError(f"adata has {len(raw)} cells; VCI needs at least {FEWEST_CELLS} to train.")
        labels, covariates = annotated.text(adata, treatment_key), {key: annotated.text(adata, key) for key in covariate_keys}
        doses = np.ones(len(raw)) if dose_key is None else annotated.doses(adata.obs[dose_key], dose_key, labels == control)
        if control not in labels:
            raise InputError(f"control is {control!r}, but no cell has it in obs[{treatment_key!r}]; the labels there are {annotated.some(sorted(set(labels)))}.")
        parts = [annotated.parts(label, control) for label in labels]
        treatments = (control, *sorted({p for found in parts for p in found} - {control}))
        if len(treatments) == 1:
            raise InputError(f"every cell of obs[{treatment_key!r}] is {control!r}; VCI needs treated cells too.")
        levels = {key: sorted(set(values)) for key, values in covariates.items()}
        condition, conditions, rows = annotated.conditions(parts, doses, treatments)
        stratum, strata, one_hot = annotated.strata(covariates, levels, len(raw))
        for x, name in enumerate(strata):
            if not ((stratum == x) & (condition == 0)).any():
                raise InputError(f"no cell of stratum {name!r} is a control ({control!r}); add controls there, or drop its {int((stratum == x).sum())} cells, or leave a covariate out.")
        target = float(np.median(raw.sum(1))) if expects == "counts" else None
        if target == 0:
            raise InputError("half of the cells have no count at all; filter empty cells first (scanpy.pp.filter_cells).")
        first = np.array([np.flatnonzero(stratum == x)[0] for x in range(len(strata))])
        table = CellTable("adata", "all", annotated.normalised(raw, target), tuple(map(str, adata.var_names)), rows[condition], treatments, condition, conditions, rows, 0, one_hot, tuple(map(len, levels.values())), stratum, strata,
                          one_hot[first], np.arange(len(raw)), np.arange(0))
        tables = [table]
        if self.crossfit:
            half = annotated.halves(raw)
            for h in range(HALVES):
                kept = np.flatnonzero(half == h)
                if not ((condition[kept] == 0).any() and (condition[kept] != 0).any()):
                    raise InputError("one half of the cells has no control or no treated cell, too few for cross-fitting; pass more cells or crossfit=False (then without marginal_effect).")
                tables.append(replace(table, unit=f"half {h}", train=kept))
        members = [stack.Member(t, (*self.weights, 0.0), seed) for seed in member_seeds(self.seed, self.members) for t in range(len(tables))]
        fitted = stack.train(tables, members, self.config, None if self.checkpoint_folder is None else Path(self.checkpoint_folder), device)
        # Only now, so that an interrupted second fit leaves the first one whole.
        self.history_ = fitted.history
        self._know(fitted.networks, {"genes": list(table.genes), "control": control, "treatments": list(treatments), "conditions": list(conditions), "strata": list(strata), "covariates": levels, "treatment_key": treatment_key,
                                     "dose_key": dose_key, "layer": layer, "expects": expects, "target": target})
        return self

    def _know(self, networks: CellNetworks, about: dict) -> None:
        """Set all that `fit` and `load` leave behind."""
        self._about, self._per_member = about, 1 + HALVES * self.crossfit
        self._fit = stack.Fitted(networks.requires_grad_(False).eval(), [], [], [], 0.0)
        self.genes_, self.control_, self.treatments_, self.conditions_, self.strata_ = tuple(about["genes"]), about["control"], tuple(about["treatments"]), tuple(about["conditions"]), tuple(about["strata"])
        self.covariates_ = about["covariates"]
        self.model_id_ = tensor_hash(*networks.parameters())

    # --- cells under another treatment ---------------------------------------------------------------------------------------------------

    def predict(self, adata, treatment):
        """The cells of `adata` under `treatment`, an AnnData with expected log1p expression in X and everything of obs and var.

        treatment: a label, "A+B" for a combination (unseen ones too, if A and B were seen), {"A": 0.5} or {"A": 0.5, "B": 1} for doses, or one label a cell. adata holds the columns and the genes of `fit`.
        """
        outcome, factual, covariates, _ = self._read(adata)
        return self._anndata(adata, self._mean(0, outcome, factual, covariates, self._asked(treatment, len(outcome))[0]))

    def counterfactual(self, adata, treatment):
        """`predict`, with provenance: obs gains factual_treatment, counterfactual_treatment, method and model_id, layers["factual"] the cells' own log1p expression, and obs_names end in the treatment."""
        outcome, factual, covariates, labels = self._read(adata)
        rows, names = self._asked(treatment, len(outcome))
        made = self._anndata(adata, self._mean(0, outcome, factual, covariates, rows))
        made.layers["factual"] = outcome
        made.obs["factual_treatment"], made.obs["counterfactual_treatment"] = labels, names
        made.obs["method"], made.obs["model_id"] = "VCI", self.model_id_
        made.obs_names = [f"{cell} do({name})" for cell, name in zip(made.obs_names, names)]
        return made

    # --- effects -------------------------------------------------------------------------------------------------------------------------

    def marginal_effect(self, adata, treatment, alpha: float = 0.05) -> pd.DataFrame:
        """Mean effect of `treatment` (one, seen in every stratum) against the control over the cells of `adata`, by gene: estimate, se, low, high of the interval at level 1 - alpha (Eq. cell-effect), plug_in and n, cells under the treatment.

        adata: treated and control cells, of `fit` or new; either way no cell is corrected by a network that saw it. The intervals treat cells as independent: with few donors they are too narrow.
        """
        if not self.crossfit:
            raise InputError("this VCI was made with crossfit=False and has no networks that did not see a cell; fit again with crossfit=True.")
        outcome, factual, covariates, _ = self._read(adata)
        rows, names = self._asked(treatment, 1)
        stratum = self._stratum(covariates)
        arms = np.stack([np.eye(len(self.treatments_), dtype=np.float32)[0], rows[0]])
        arm = np.full(len(outcome), -1)
        for a, row in enumerate(arms):
            arm[(np.abs(factual - row) < 1e-6).all(1)] = a
        for x in np.unique(stratum):
            for a, name in enumerate((self.control_, names[0])):
                if not ((stratum == x) & (arm == a)).any():
                    raise InputError(f"no cell of stratum {self.strata_[x]!r} in adata is under {name!r}, so that nothing corrects the model there; pass the other strata alone, or ask predict or de_table.")
        half = annotated.halves(annotated.values(adata, self._about["layer"], self._about["expects"]))
        predicted = np.empty((len(outcome), 2, len(self.genes_)))
        for h in range(HALVES):
            for x in np.unique(stratum):
                mine, source = (half == h) & (stratum == x), (half != h) & (stratum == x) & (arm == 0)
                if mine.any() and not source.any():
                    raise InputError(f"stratum {self.strata_[x]!r} has too few controls in adata to be halved; pass more of them.")
                for a in range(2):
                    predicted[mine, a] = self._mean(1 + (1 - h), outcome[source], factual[source], covariates[source], np.repeat(arms[a:a + 1], source.sum(), 0)).mean(0) if mine.any() else 0.0
        propensity = robust.shares(arm, 2, stratum)
        phi = robust.influence(outcome, arm, predicted, propensity)
        effect = robust.robust_mean(phi[:, 1] - phi[:, 0], np.zeros(len(outcome), int), np.zeros((len(outcome), 1, 1)), np.ones((len(outcome), 1)))
        low, high = (end[0] for end in effect.interval(alpha))
        return pd.DataFrame({"estimate": effect.value[0], "se": effect.se[0], "low": low, "high": high, "plug_in": (predicted[:, 1] - predicted[:, 0]).mean(0), "n": int((arm == 1).sum())}, index=pd.Index(self.genes_, name="gene"))

    def de_table(self, adata, treatment, groupby: str | None = None) -> pd.DataFrame:
        """Predicted differential expression in the form of scanpy.get.rank_genes_groups_df: group, names, scores, logfoldchanges, best score first in each group.

        The controls of `adata` (of each level of obs[groupby]) are predicted under `treatment` and under the control; scores are mean over sd of the mean of the paired difference, logfoldchanges base 2 of the mean
        expression as scanpy takes it. There is no p-value: predicted cells are no observations.
        """
        if groupby is not None:
            annotated.columns(adata, [groupby], "groupby")
        outcome, factual, covariates, labels = self._read(adata)
        names = np.full(len(outcome), annotated.ALL) if groupby is None else annotated.text(adata, groupby)
        frames = []
        for group in sorted(set(names)):
            rows = np.flatnonzero((names == group) & (labels == self.control_))
            if len(rows) < 2:
                raise InputError(f"group {group!r} of adata has {len(rows)} control cells; de_table predicts from the controls of each group and needs two.")
            of = lambda asked: self._mean(0, outcome[rows], factual[rows], covariates[rows], self._asked(asked, len(rows))[0]).astype(np.float64)  # noqa: E731
            treated, control = of(treatment), of(self.control_)
            error = (treated - control).std(0, ddof=1) / np.sqrt(len(rows))
            difference = treated.mean(0) - control.mean(0)
            fold = np.log2((np.expm1(treated.mean(0)).clip(0) + 1e-9) / (np.expm1(control.mean(0)).clip(0) + 1e-9))
            score = np.divide(difference, error, out=np.zeros_like(error), where=error > 0)
            order = np.argsort(-score, kind="stable")
            frames.append(pd.DataFrame({"group": group, "names": np.array(self.genes_)[order], "scores": score[order], "logfoldchanges": fold[order]}))
        return pd.concat(frames, ignore_index=True)

    # --- on disk -------------------------------------------------------------------------------------------------------------------------

    def save(self, path) -> Path:
        """Write the fitted estimator to `path` (a .safetensors file, or a folder, which then holds vci.safetensors): weights and JSON, nothing pickled, no cell of the table. Returns the file."""
        self._fitted()
        parameters = {"config": asdict(self.config), "weights": list(self.weights), "members": self.members, "seed": self.seed, "crossfit": self.crossfit}
        save_state(file := _file(path), dict(self._fit.networks.named_parameters()), {"config": FORMAT, "parameters": parameters, "about": json.loads(json.dumps(self._about))})
        return file

    @classmethod
    def load(cls, path, device: str = "auto") -> "VCI":
        """The estimator that `save` wrote: the same predictions, bit for bit on the same kind of device."""
        file, place = _file(path), resolve_device(device)
        try:
            found = load_state(file, FORMAT, place)
            if found is None:
                raise InputError(f"There is no file {file.name} at the path given; pass what save returned.")
            tensors, meta = found
            given, about = meta["parameters"], meta["about"]
            config = stack.Config(**given["config"])
            model = cls(config, tuple(given["weights"]), given["members"], given["seed"], device, given["crossfit"])
            networks = CellNetworks(model.members * (1 + HALVES * model.crossfit), len(about["genes"]), len(about["treatments"]), tuple(map(len, about["covariates"].values())), generator(0, "shape", device=place), config.width, config.latent,
                                    config.embedding, relu_heads=config.relu_heads, norm=config.norm, sees_treatment=config.sees_treatment, sees_covariates=config.sees_covariates, likelihood=config.likelihood)
            networks.load_state_dict(tensors)
            model._know(networks, about)
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
            raise InputError(f"{file.name} is not a whole file of VCI.save of this version ({type(error).__name__}); save the estimator again.") from None
        return model

    # --- inside --------------------------------------------------------------------------------------------------------------------------

    def _fitted(self) -> None:
        if not hasattr(self, "_fit"):
            raise InputError("This VCI is not fitted; call fit(adata, treatment_key=...) first.")

    def _read(self, adata) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Outcome [n, G], factual treatment [n, T], covariates [n, C] and canonical labels [n] of cells like those of `fit`."""
        self._fitted()
        about = self._about
        annotated.columns(adata, [about["treatment_key"], *self.covariates_, *([about["dose_key"]] if about["dose_key"] is not None else [])], "adata")
        genes = tuple(map(str, adata.var_names))
        if missing := [g for g in self.genes_ if g not in set(genes)]:
            raise InputError(f"adata lacks {len(missing)} of the {len(self.genes_)} genes that were fitted ({annotated.some(missing)}); pass cells measured on the same genes.")
        if genes != self.genes_:
            raise InputError("adata has other genes than those fitted, or in another order; pass adata[:, list(model.genes_)].")
        raw = annotated.values(adata, about["layer"], about["expects"])
        labels = annotated.text(adata, about["treatment_key"])
        doses = np.ones(len(raw)) if about["dose_key"] is None else annotated.doses(adata.obs[about["dose_key"]], about["dose_key"], labels == self.control_)
        rows = {(label, dose): self._row(dict.fromkeys(annotated.parts(label, self.control_), dose), f"obs[{about['treatment_key']!r}]") for label, dose in set(zip(labels, doses))}
        covariates = {key: annotated.text(adata, key) for key in self.covariates_}
        for key, values in covariates.items():
            if unseen := sorted(set(values) - set(self.covariates_[key])):
                raise InputError(f"obs[{key!r}] holds {unseen[0]!r}, which no fitted cell had; the levels are {annotated.some(self.covariates_[key])}.")
        one_hot = [values[:, None] == np.array(self.covariates_[key], object) for key, values in covariates.items()]
        covariates = np.concatenate([*one_hot, np.zeros((len(raw), 0))], 1).astype(np.float32)
        return annotated.normalised(raw, about["target"]), np.stack([rows[pair] for pair in zip(labels, doses)]), covariates, np.array(["+".join(annotated.parts(label, self.control_)) for label in labels], object)

    def _stratum(self, covariates: np.ndarray) -> np.ndarray:
        """Place in strata_ of one-hot covariates [n, C]."""
        names, start = [], 0
        for levels in self.covariates_.values():
            names.append(np.array(levels)[covariates[:, start:start + len(levels)].argmax(1)])
            start += len(levels)
        found = [" ".join(row) for row in zip(*names)] if names else [annotated.ALL] * len(covariates)
        if unseen := sorted(set(found) - set(self.strata_)):
            raise InputError(f"adata has the covariates {unseen[0]!r} together, which no fitted cell had; the strata are {annotated.some(self.strata_)}.")
        return np.array([self.strata_.index(name) for name in found])

    def _row(self, doses: dict[str, float], where: str) -> np.ndarray:
        """Treatment row [T] of parts and doses."""
        if unknown := [part for part in doses if part not in self.treatments_]:
            raise InputError(f"{where} names {unknown[0]!r}, which no fitted cell was given; the treatments are {annotated.some(self.treatments_)}.")
        row = np.zeros(len(self.treatments_), np.float32)
        for part, dose in doses.items():
            row[self.treatments_.index(part)] = 1.0 if part == self.control_ else checks.positive(float(dose), f"the dose of {part!r}")
        return row

    def _asked(self, treatment, n: int) -> tuple[np.ndarray, list[str]]:
        """Rows [n, T] and names of the treatments asked for."""
        if isinstance(treatment, dict):
            if not treatment:
                raise InputError('treatment names nothing; pass a label such as "A+B" or doses such as {"A": 0.5}.')
            return np.repeat(self._row(treatment, "treatment")[None], n, 0), ["+".join(f"{part}@{dose:g}" for part, dose in sorted(treatment.items()))] * n
        labels = [treatment] * n if isinstance(treatment, str) else [str(label) for label in treatment]
        if len(labels) != n:
            raise InputError(f"treatment has {len(labels)} labels but there are {n} cells; pass one, or one for each cell.")
        rows = {label: self._row(dict.fromkeys(annotated.parts(label, self.control_), 1.0), "treatment") for label in set(labels)}
        return np.stack([rows[label] for label in labels]), ["+".join(annotated.parts(label, self.control_)) for label in labels]

    def _mean(self, table: int, *arrays: np.ndarray) -> np.ndarray:
        """Prediction [n, G] averaged over the members' networks trained on all cells (table 0), half 0 (1) or half 1 (2)."""
        return np.mean([self._fit.predict(member * self._per_member + table, *arrays) for member in range(self.members)], 0)

    def _anndata(self, adata, outcome: np.ndarray):
        from anndata import AnnData  # here and not above: seconds of import

        return AnnData(outcome, obs=adata.obs.copy(), var=adata.var.copy(), uns={"log1p": {"base": None}})


def _file(path) -> Path:
    """The file of a .safetensors path, or the one inside a folder."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / "vci.safetensors"
