"""`IWDD`: potential outcomes of a table by importance-weighted diffusion distillation, with econml's conventions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.base import BaseEstimator

from gencausal import checks, metrics
from gencausal.data.stack import prepare
from gencausal.estimators import outcomes
from gencausal.estimators.outcomes import DistillationConfig, TeacherConfig, distil, generator_draws, potential_draws, train_teacher
from gencausal.sampling import stratified_normal
from gencausal.seeding import generator as make_generator, numpy_generator

FEWEST_ROWS = 50


class IWDD(BaseEstimator):
    """Effects and potential-outcome draws from a conditional diffusion model distilled to one step.

    A teacher learns p(y | x, t) on the rows given; a one-step generator y = G(eps; x, t) is distilled from it under `law`, by
    default with treatments shuffled over covariates (Song, Chen, Zhou, arXiv 2505.11444). Valid under unconfoundedness given X,
    overlap and consistency.

    law: shuffle, obs, ipw or bernoulli. divergence: sid (Fisher) or dmd (KL). alpha: SiD coefficient.
    teacher_rounds, distillation_rounds: training lengths. width: of the network's trunk. gate_penalty: L1 penalty on the feature
    gates. n_draws: draws a unit and arm behind an estimate. validation_share: rows held out to choose the stopping round.
    random_state: seed of everything. device: auto, cpu, cuda or mps. checkpoint_folder: where a killed fit continues from.
    """

    def __init__(self, law: str = "shuffle", divergence: str = "sid", alpha: float = 0.5, teacher_rounds: int = TeacherConfig.rounds,
                 distillation_rounds: int = DistillationConfig.rounds, width: int = TeacherConfig.width, gate_penalty: float = TeacherConfig.gate_penalty,
                 n_draws: int = 100, validation_share: float = 0.1, random_state: int = 0, device: str = "auto", checkpoint_folder: str | None = None):
        self.law, self.divergence, self.alpha = law, divergence, alpha
        self.teacher_rounds, self.distillation_rounds, self.width, self.gate_penalty = teacher_rounds, distillation_rounds, width, gate_penalty
        self.n_draws, self.validation_share, self.random_state = n_draws, validation_share, random_state
        self.device, self.checkpoint_folder = device, checkpoint_folder

    def fit(self, Y, T, *, X) -> "IWDD":
        """Y: outcomes, [n]. T: arms, [n] integers 0..K-1, every arm present. X: numeric covariates, [n, d], array or DataFrame. n >= 50.

        Raises checks.InputError, naming the argument and the fix, before any work starts.
        """
        x = checks.matrix(X, "X")
        y, t = checks.vector(Y, "Y", len(x)), checks.treatment(T, "T", len(x))
        if len(x) < FEWEST_ROWS:
            raise checks.InputError(f"X has {len(x)} rows; IWDD needs at least {FEWEST_ROWS} to train and to hold some out.")
        if np.ptp(y) == 0:
            raise checks.InputError("Y is constant; an outcome without variation has no effect to estimate.")
        outcomes.check_law(self.law, t.max() + 1)
        checks.choice(self.divergence, "divergence", ("sid", "dmd"))
        for name, least in (("teacher_rounds", 1), ("distillation_rounds", 1), ("width", 1), ("n_draws", 2), ("random_state", 0)):
            checks.whole(getattr(self, name), name, least)
        for name in ("alpha", "gate_penalty"):
            checks.non_negative(getattr(self, name), name)
        checks.fraction(self.validation_share, "validation_share")
        device = outcomes.resolve_device(self.device)
        order = numpy_generator(self.random_state, "validation").permutation(len(x))
        held, rest = np.split(order, [max(1, int(self.validation_share * len(x)))])
        if len(missing := np.setdiff1d(np.arange(t.max() + 1), t[rest])):
            raise checks.InputError(f"T has so few units in arm {missing[0]} that none is left to train on; lower validation_share or merge arms.")
        if self.law == "ipw" and np.bincount(t).min() < 5:
            raise checks.InputError(f"T has an arm of {np.bincount(t).min()} units; law 'ipw' fits propensities in five folds and needs 5 an arm. Use law='shuffle'.")
        data = prepare(x[None], t[None], y[None], rest[None], held[None], ["table"], device)
        folder = None if self.checkpoint_folder is None else Path(self.checkpoint_folder)
        teacher = replace(TeacherConfig(), rounds=self.teacher_rounds, width=self.width, gate_penalty=self.gate_penalty)
        student = replace(DistillationConfig(), law=self.law, divergence=self.divergence, alpha=self.alpha, rounds=self.distillation_rounds)
        teacher_training = train_teacher(data, teacher, self.random_state, folder)
        distillation_training = distil(teacher_training.modules["teacher"], data, student, self.random_state, folder)
        # Only now, so that an interrupted second fit leaves the first one whole.
        self.data_, self._distillation, self.n_features_in_, self.n_arms_ = data, student, x.shape[1], data.arms
        self.feature_names_in_ = [str(c) for c in X.columns] if hasattr(X, "columns") else None
        self.teacher_training_, self.distillation_training_ = teacher_training, distillation_training
        self.teacher_, self.generator_ = teacher_training.modules["teacher"], distillation_training.modules["generator"]
        return self

    def _check(self, X) -> np.ndarray:
        if not hasattr(self, "generator_"):
            raise checks.InputError("This IWDD is not fitted; call fit(Y, T, X=X) first.")
        x = checks.matrix(X, "X", self.n_features_in_)
        if self.feature_names_in_ is not None and hasattr(X, "columns") and [str(c) for c in X.columns] != self.feature_names_in_:
            raise checks.InputError(f"X has other columns, or another order, than the table that was fitted; pass {', '.join(self.feature_names_in_)}.")
        return x

    def _arm(self, value, name: str) -> int:
        return checks.whole(value, name, 0, self.n_arms_ - 1)

    def _draws(self, x: np.ndarray, eps: torch.Tensor) -> np.ndarray:
        """Draws of every potential outcome, [n, K, M]."""
        return potential_draws(self.data_, self.generator_, generator_draws(self._distillation.sigma_init), x, eps)[0]

    def _stratified(self, x: np.ndarray) -> np.ndarray:
        return self._draws(x, stratified_normal(self.n_draws, self.data_.device))

    def effect(self, X, T0: int = 0, T1: int = 1) -> np.ndarray:
        """CATE of arm T1 against T0, [n]: difference of the medians of `n_draws` stratified draws (specification 2.5). It is the CATE where
        mean and median are equally far apart in both arms, as under symmetric noise."""
        t0, t1 = (self._arm(t, name) for t, name in ((T0, "T0"), (T1, "T1"))) if hasattr(self, "n_arms_") else (T0, T1)
        median = np.median(self._stratified(self._check(X)), -1)
        return median[:, t1] - median[:, t0]

    def ate(self, X, T0: int = 0, T1: int = 1) -> float:
        """Mean of `effect` over the rows of X."""
        return float(self.effect(X, T0, T1).mean())

    def effect_interval(self, X, T0: int = 0, T1: int = 1, alpha: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
        """Central 1 - alpha interval of the individual effect Y(T1) - Y(T0) at each row, ([n], [n]).

        Independent noise in the two arms: the data do not identify their joint law, and this is an interval for one unit's
        difference, not a confidence interval of its mean.
        """
        checks.fraction(alpha, "alpha")
        x = self._check(X)
        t0, t1 = self._arm(T0, "T0"), self._arm(T1, "T1")
        draws = self._stratified(x)
        pairing = numpy_generator(self.random_state, "pairing").permutation(self.n_draws)
        return metrics.interval(draws[:, t1] - draws[:, t0][:, pairing], 1 - alpha)

    def outcome_interval(self, X, T, alpha: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
        """Central 1 - alpha interval of Y(T) at each row, ([n], [n]); T: one arm, or one a row."""
        checks.fraction(alpha, "alpha")
        draws = self._of_arm(self._stratified(self._check(X)), T)
        return metrics.interval(draws, 1 - alpha, stratified=True)

    def sample(self, X, T, n: int = 1, seed: int | None = None) -> np.ndarray:
        """`n` random draws of Y(T) at each row, [rows, n]; T: one arm, or one a row; `seed` defaults to random_state. Arms share their noise
        at one seed."""
        x = self._check(X)
        checks.whole(n, "n")
        rng = make_generator(self.random_state if seed is None else seed, "sample", device=self.data_.device)
        eps = torch.randn(1, len(x), 1, n, generator=rng, device=self.data_.device).expand(-1, -1, self.n_arms_, -1)
        return self._of_arm(self._draws(x, eps), T)

    def _of_arm(self, draws: np.ndarray, T) -> np.ndarray:
        if np.ndim(T) == 0:
            return draws[:, self._arm(T, "T")]
        arm = checks.treatment(T, "T", len(draws), self.n_arms_)
        return draws[np.arange(len(draws)), arm]
