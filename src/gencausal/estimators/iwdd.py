r"""`IWDD`: potential outcomes of a table by importance-weighted diffusion distillation, with scikit-learn's and econml's habits.

A teacher learns p(y | x, t) on the rows given; a one-step generator y = G(eps; x, t) is distilled from it under a law of (x, t) in which
covariates and arms are independent (Song, Chen, Zhou, arXiv 2505.11444). Draws of Y(k) are G(eps; x, k), and

    effect(x; j, k) = mean of the draws of Y(k) - mean of the draws of Y(j) at x          `Eq. effect`

with the same noise eps in both arms: stratified normals, a quadrature rather than a sample. All of it is causal under unconfoundedness
given X, overlap (see `overlap`) and consistency; the first cannot be tested from the table.
"""

import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.base import BaseEstimator

from gencausal import checks, metrics
from gencausal.checkpoints import load_state, save_state
from gencausal.checks import InputError
from gencausal.data import columns
from gencausal.data.stack import Outcomes, prepare
from gencausal.diffusion import Denoiser
from gencausal.estimators import calibration, outcomes, overlap
from gencausal.estimators.encoding import Encoder
from gencausal.estimators.outcomes import DistillationConfig, TeacherConfig
from gencausal.nn.mlp import OutcomeNetwork
from gencausal.sampling import stratified_normal
from gencausal.seeding import generator as make_generator, numpy_generator
from gencausal.training import Trained

FORMAT = "gencausal.IWDD/1"
OWN_OFFSET = 50  # held rows from which an arm has its own offset (sd of its coverage at 0.9 is then 0.04); with fewer, arms share one


class IWDD(BaseEstimator):
    """Effects and potential-outcome draws from a conditional diffusion model distilled to one step.

    law: shuffle, obs, ipw or bernoulli. divergence: sid (Fisher) or dmd (KL). alpha: SiD coefficient.
    teacher_rounds, distillation_rounds: training lengths. width: of the network's trunk. gate_penalty: L1 penalty on the feature
    gates. members: networks of the ensemble, trained on the same rows, whose draws are pooled. n_draws: draws a unit and arm behind an estimate. validation_share: rows held out to choose the stopping round and to calibrate.
    random_state: seed of everything. device: auto, cpu, cuda or mps. checkpoint_folder: where a killed fit continues from.

    After `fit`: classes_ labels of the arms, sorted, the first the control; encoder_ how X becomes numbers; overlap_ the diagnosis
    (`overlap.Overlap`) from cross-fitted logistic propensities; propensity_ their model; generators_ the networks;
    teacher_trainings_, distillation_trainings_ their curves (`training.Trained`).
    """

    def __init__(self, law: str = "shuffle", divergence: str = "sid", alpha: float = 0.5, teacher_rounds: int = TeacherConfig.rounds,
                 distillation_rounds: int = DistillationConfig.rounds, width: int = TeacherConfig.width, gate_penalty: float = TeacherConfig.gate_penalty,
                 members: int = 1, n_draws: int = 100, validation_share: float = 0.1, random_state: int = 0, device: str = "auto", checkpoint_folder: str | None = None):
        self.law, self.divergence, self.alpha = law, divergence, alpha
        self.teacher_rounds, self.distillation_rounds, self.width, self.gate_penalty = teacher_rounds, distillation_rounds, width, gate_penalty
        self.members, self.n_draws, self.validation_share, self.random_state = members, n_draws, validation_share, random_state
        self.device, self.checkpoint_folder = device, checkpoint_folder

    # --- fitting -------------------------------------------------------------------------------------------------------------------------

    def fit(self, Y, T, *, X, W=None) -> "IWDD":
        """Y: continuous outcomes, [n]. T: arms, [n] labels (text or numbers), at least 10 rows each. X: covariates, a DataFrame with number,
        text, category or bool columns (`encoding.Encoder`) or an array of numbers, [n, d]. n >= 50.

        W: econml's controls. The effect conditions on every covariate, so W may only repeat columns of X, as dowhy's wrapper does.
        Raises checks.InputError, naming the argument and the fix, before any work starts.
        """
        if X is None:
            raise InputError("X is missing; pass the covariates that the treatment was chosen by.")
        if W is not None and (lacking := [c for c in getattr(W, "columns", ["W"]) if c not in list(getattr(X, "columns", []))]):
            raise InputError(f"W has {lacking[0]!r}, which X lacks; IWDD's effects condition on every covariate, so put the controls into X (dowhy: effect modifiers).")
        encoder = Encoder.fit(X)
        x = encoder.transform(X)
        y = columns.outcome(Y, "Y", len(x))
        if len(x) < columns.FEWEST_ROWS:
            raise InputError(f"X has {len(x)} rows; IWDD needs at least {columns.FEWEST_ROWS} to train and to hold some out.")
        t, classes = columns.arms(T, "T", len(x))
        outcomes.check_law(self.law, len(classes))
        checks.choice(self.divergence, "divergence", ("sid", "dmd"))
        for name, least in (("teacher_rounds", 1), ("distillation_rounds", 1), ("width", 1), ("members", 1), ("n_draws", 2), ("random_state", 0)):
            checks.whole(getattr(self, name), name, least)
        for name in ("alpha", "gate_penalty"):
            checks.non_negative(getattr(self, name), name)
        checks.fraction(self.validation_share, "validation_share")
        device = outcomes.resolve_device(self.device)
        order = numpy_generator(self.random_state, "validation").permutation(len(x))
        held, rest = np.split(order, [max(1, int(self.validation_share * len(x)))])
        if len(missing := np.setdiff1d(np.arange(len(classes)), t[rest])):
            raise InputError(f"T has so few units in arm {classes[missing[0]]} that none is left to train on; lower validation_share or merge arms.")
        data = prepare(x[None], t[None], y[None], rest[None], held[None], ["table"], device)
        diagnosis = overlap.diagnose(t, overlap.crossfitted(x, t, self.random_state), classes.tolist())
        propensity = overlap.Propensity.fit(x, t)
        teacher, student = _configs(self)
        trainings = _train(data, teacher, student, outcomes.member_seeds(self.random_state, self.members), self.checkpoint_folder)
        # Only now, so that an interrupted second fit leaves the first one whole.
        self.data_, self._teacher, self._distillation, self.n_arms_, self.n_features_in_ = data, teacher, student, data.arms, len(encoder.levels)
        self.encoder_, self.classes_, self.overlap_, self.propensity_ = encoder, classes, diagnosis, propensity
        self.feature_names_in_ = encoder.names and list(encoder.names)
        self.teacher_trainings_, self.distillation_trainings_ = (list(stage) for stage in zip(*trainings))
        self.generators_ = [training.modules["generator"] for training in self.distillation_trainings_]
        self._held_arm = t[held]
        self._held_error = self._stratified(x[held])[np.arange(len(held)), t[held]] - y[held][:, None]
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "generators_")

    # --- effects -------------------------------------------------------------------------------------------------------------------------

    def effect(self, X, T0=None, T1=None) -> np.ndarray:
        """`Eq. effect` of arm T1 against T0 at each row of X, [n], from `n_draws` draws. T0, T1: labels, by default the
        first two of classes_. Warns (`overlap.ExtrapolationWarning`) where next to no unit of one of the two arms was seen."""
        x, arms = self._check(X), self._pair(T0, T1)
        self._warn(x, arms)
        mean = self._stratified(x).mean(-1)
        return mean[:, arms[1]] - mean[:, arms[0]]

    def const_marginal_effect(self, X) -> np.ndarray:
        """Effects of every other arm against the first of classes_, [n, K - 1]."""
        x = self._check(X)
        self._warn(x, range(self.n_arms_))
        mean = self._stratified(x).mean(-1)
        return mean[:, 1:] - mean[:, :1]

    def ate(self, X, T0=None, T1=None) -> float:
        """Mean of `effect` over the rows of X."""
        return float(self.effect(X, T0, T1).mean())

    def effect_interval(self, X, T0=None, T1=None, alpha: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
        """Central 1 - alpha interval of the individual effect Y(T1) - Y(T0) at each row, ([n], [n]).

        Independent noise in the two arms: the data do not identify their joint law, and this is an interval for one unit's
        difference, not, as econml's of this name, a confidence interval of its mean.
        """
        checks.fraction(alpha, "alpha")
        x, arms = self._check(X), self._pair(T0, T1)
        self._warn(x, arms)
        draws = self._stratified(x)
        pairing = numpy_generator(self.random_state, "pairing").permutation(self.n_draws)
        return metrics.interval(draws[:, arms[1]] - draws[:, arms[0]][:, pairing], 1 - alpha)

    # --- outcomes ------------------------------------------------------------------------------------------------------------------------

    def outcome_interval(self, X, T, alpha: float = 0.1, calibrated: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Interval of Y(T) at each row that holds the outcome with probability 1 - alpha, ([n], [n]); T: one arm, or one a row.

        calibrated: the central interval of the draws, moved outwards (or inwards) by the offset that the held-out rows ask for
        (`calibration`, split-conformal), an arm's own with `OWN_OFFSET` held rows of it, else one for all. The guarantee is for new units in
        the arm they chose, like the rows fitted; at another arm it rests on overlap. The held rows also chose the stopping round, among few.
        """
        checks.fraction(alpha, "alpha")
        x = self._check(X)
        arm = self._rows(T, len(x))
        low, high = metrics.interval(self._stratified(x)[np.arange(len(x)), arm], 1 - alpha, stratified=True)
        return calibration.widen(low, high, self._offsets(alpha)[arm]) if calibrated else (low, high)

    def _offsets(self, alpha: float) -> np.ndarray:
        """Offsets of `Eq. cqr-offset`, one an arm, [K]."""
        if len(self._held_arm) < (needed := calibration.fewest(alpha)):
            raise InputError(f"{len(self._held_arm)} held-out rows cannot calibrate a level of {1 - alpha:g}, which needs {needed}; raise validation_share or alpha, or pass calibrated=False.")
        sides = metrics.interval(self._held_error, 1 - alpha, stratified=True)
        own = [self._held_arm == k for k in range(self.n_arms_)]
        rows = [mask if mask.sum() >= max(needed, OWN_OFFSET) else np.ones_like(mask) for mask in own]
        return np.array([calibration.calibrate(*(side[mask] for side in sides), np.zeros(mask.sum()), alpha) for mask in rows])

    def sample(self, X, T, n: int = 1, seed: int | None = None) -> np.ndarray:
        """`n` random draws of Y(T) at each row, [rows, n]; T: one arm, or one a row; `seed` defaults to random_state. Arms share their noise
        at one seed."""
        x = self._check(X)
        checks.whole(n, "n")
        rng = make_generator(self.random_state if seed is None else seed, "sample", device=self.data_.device)
        eps = torch.randn(1, len(x), 1, n, generator=rng, device=self.data_.device).expand(-1, -1, self.n_arms_, -1)
        return self._draws(x, eps)[np.arange(len(x)), self._rows(T, len(x))]

    def score(self, Y, T, *, X, W=None) -> float:
        """Minus the mean CRPS of the factual outcomes of these rows under their predicted laws: higher is better, 0 perfect.

        The CRPS is proper and needs no nuisance model, but it judges outcomes: two models may order otherwise by effect. To judge effects
        alone, econml.score.RScorer takes a fitted IWDD.
        """
        x = self._check(X)
        y = columns.outcome(Y, "Y", len(x))
        return -metrics.crps(self._stratified(x)[np.arange(len(x)), self._rows(T, len(x))], y, fair=False)

    # --- on disk -------------------------------------------------------------------------------------------------------------------------

    def save(self, path) -> Path:
        """Write the fitted estimator to `path` (a .safetensors file, or a folder, which then holds iwdd.safetensors): weights, scales and JSON,
        nothing pickled, no row of the table. The teacher and the training curves are not kept. Returns the file."""
        self._fitted()
        tensors = {f"generator.{m}.{name}": value for m, generator in enumerate(self.generators_) for name, value in generator.state_dict().items()}
        tensors |= {name: torch.as_tensor(value) for name, value in self._arrays().items()}
        parameters = {name: getattr(value, "item", lambda value=value: value)() for name, value in self.get_params().items()} | {"checkpoint_folder": None}
        meta = {"config": FORMAT, "parameters": parameters, "classes": self.classes_.tolist(), "encoder": self.encoder_.state(),
                "teacher": asdict(self._teacher), "distillation": asdict(self._distillation), "members": len(self.generators_),
                "bound": self.overlap_.bound, "below": self.overlap_.below}
        save_state(file := _file(path), tensors, meta)
        return file

    @classmethod
    def load(cls, path, device: str = "auto") -> "IWDD":
        """The estimator that `save` wrote: the same predictions, bit for bit on the same kind of device."""
        file, place = _file(path), outcomes.resolve_device(device)
        try:
            found = load_state(file, FORMAT)
            if found is None:
                raise InputError(f"There is no file {file.name} at the path given; pass what save returned.")
            tensors, meta = found
            model = cls(**meta["parameters"] | {"device": device})
            arrays = {name: tensors[name].numpy() for name in tensors if not name.startswith("generator.")}
            model.encoder_, model.classes_ = Encoder.restore(meta["encoder"]), np.array(meta["classes"])
            model.n_features_in_, model.n_arms_ = len(model.encoder_.levels), len(model.classes_)
            model.feature_names_in_ = model.encoder_.names and list(model.encoder_.names)
            model._teacher, model._distillation = TeacherConfig(**meta["teacher"]), DistillationConfig(**meta["distillation"])
            model.propensity_ = overlap.Propensity(*(arrays[f"propensity.{name}"] for name in ("weight", "bias", "center", "scale")))
            model.overlap_ = overlap.Overlap(tuple(meta["classes"]), *(arrays[f"overlap.{name}"] for name in ("rows", "ess", "smallest", "below_arm")),
                                             meta["below"], *(arrays[f"overlap.{name}"] for name in ("edges", "counts")), meta["bound"])
            model._held_arm, model._held_error = arrays["held.arm"], arrays["held.error"]
            none = torch.zeros(1, 0, device=place)
            model.data_ = Outcomes(none[..., None].expand(1, 0, len(arrays["x_center"][0])), none.long(), none, none.long(), none.long(),
                                   *(arrays[name] for name in ("x_center", "x_scale", "y_center", "y_scale")), ("table",), model.n_arms_)
            generators = [_network(model._teacher, arrays["x_center"].shape[1], model.n_arms_, place) for _ in range(meta["members"])]
            for m, generator in enumerate(generators):
                start = f"generator.{m}."
                generator.load_state_dict({name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)})
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
            raise InputError(f"{file.name} is not a whole file of IWDD.save of this version ({type(error).__name__}); save the estimator again.") from None
        model.generators_ = [generator.requires_grad_(False).eval() for generator in generators]
        return model

    def _arrays(self) -> dict[str, np.ndarray]:
        """Everything numeric beside the generator that predictions need."""
        scales = {name: getattr(self.data_, name) for name in ("x_center", "x_scale", "y_center", "y_scale")}
        propensity = {f"propensity.{name}": value for name, value in asdict(self.propensity_).items()}
        diagnosis = {f"overlap.{name}": getattr(self.overlap_, name) for name in ("rows", "ess", "smallest", "below_arm", "edges", "counts")}
        return scales | propensity | diagnosis | {"held.arm": self._held_arm, "held.error": self._held_error}

    # --- inside --------------------------------------------------------------------------------------------------------------------------

    def _fitted(self) -> None:
        if not hasattr(self, "generators_"):
            raise InputError("This IWDD is not fitted; call fit(Y, T, X=X) first.")

    def _check(self, X) -> np.ndarray:
        """X as the numbers that were fitted, [n, p]."""
        self._fitted()
        return self.encoder_.transform(X)

    def _arm(self, label, name: str) -> int:
        """Place of `label` in classes_."""
        found = [k for k, known in enumerate(self.classes_.tolist()) if np.ndim(label) == 0 and known == label]
        if not found:
            raise InputError(f"{name} is {label!r}, which is not an arm that was fitted; the arms are {', '.join(map(repr, self.classes_.tolist()))}.")
        return found[0]

    def _pair(self, T0, T1) -> tuple[int, int]:
        return 0 if T0 is None else self._arm(T0, "T0"), 1 if T1 is None else self._arm(T1, "T1")

    def _rows(self, T, n: int) -> np.ndarray:
        """Places in classes_ of one label for all rows, or of one a row, [n]."""
        if np.ndim(T) == 0:
            return np.full(n, self._arm(T, "T"))
        labels = columns.labels(np.asarray(T).ravel(), "T")
        if len(labels) != n:
            raise InputError(f"T has {len(labels)} entries but X has {n} rows; pass one arm, or one for each row.")
        seen, index = np.unique(labels, return_inverse=True)
        return np.array([self._arm(label, "T") for label in seen.tolist()])[index]

    def _warn(self, x: np.ndarray, arms) -> None:
        if share := overlap.extrapolated(self.propensity_.predict(x), arms):
            labels = ", ".join(repr(self.classes_.tolist()[k]) for k in arms)
            warnings.warn(f"{100 * share:.3g} % of the units asked have a propensity below {overlap.BOUND:g} for one of the arms {labels}: effects are extrapolated there.",
                          overlap.ExtrapolationWarning, stacklevel=3)

    def _stratified(self, x: np.ndarray) -> np.ndarray:
        """`n_draws` stratified draws of every potential outcome, [n, K, M]."""
        return self._draws(x, stratified_normal(self.n_draws, self.data_.device))

    def _draws(self, x: np.ndarray, eps: torch.Tensor) -> np.ndarray:
        return _generate(self.data_, self.generators_, self._distillation, x, eps)


def _file(path) -> Path:
    """The file of a .safetensors path, or the one inside a folder."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / "iwdd.safetensors"


# --- the engine: every call of `outcomes` that trains, draws or builds a network ------------------------------------------------------------


def _configs(model: IWDD) -> tuple[TeacherConfig, DistillationConfig]:
    return (replace(TeacherConfig(), rounds=model.teacher_rounds, width=model.width, gate_penalty=model.gate_penalty),
            replace(DistillationConfig(), law=model.law, divergence=model.divergence, alpha=model.alpha, rounds=model.distillation_rounds))


def _train(data: Outcomes, teacher: TeacherConfig, student: DistillationConfig, seeds: list[int], folder: str | None) -> list[tuple[Trained, Trained]]:
    """(teacher, generator) trainings of a stack of one, for each of the members' `seeds`."""
    folder, trainings = None if folder is None else Path(folder), []
    for seed in seeds:
        trained = outcomes.train_teacher(data, teacher, seed, folder)
        trainings.append((trained, outcomes.distil(trained.modules["teacher"], data, student, seed, folder)))
    return trainings


def _generate(data: Outcomes, generators: list[Denoiser], student: DistillationConfig, x: np.ndarray, eps: torch.Tensor) -> np.ndarray:
    """Draws of every potential outcome at covariates x [n, p] from normals eps, [n, K, M], pooled over the members."""
    return outcomes.potential_draws(data, generators, outcomes.generator_draws(student.sigma_init), x, eps)[0]


def _network(teacher: TeacherConfig, covariates: int, arms: int, device: torch.device) -> Denoiser:
    """An untrained network of the shape that `outcomes.train_teacher` trains."""
    rng = make_generator(0, "shape", device=device)
    return Denoiser(OutcomeNetwork(1, covariates, arms, rng, teacher.width, teacher.depth, teacher.embedding, teacher.decoder, teacher.gate)).to(device)
