"""Names, configurations and tuning grids of the network baselines.

Every method has three configurations in `GRID`, the first its default; `experiments.tuning` chooses among them by held-out factual loss. No truth is read for it.
"""

from dataclasses import dataclass, fields, replace

from gencausal import checks

TWINS = ("mlp_gated", "mlp_gated_ipw", "gaussian_mlp", "quantile_mlp", "flow")
LITERATURE = ("tarnet", "cfr", "dragonnet", "mlp_s")
NAMES = LITERATURE + TWINS
LAWS = ("gaussian_mlp", "quantile_mlp", "flow")  # the methods that give a law, hence draws


@dataclass(frozen=True)
class NetworkConfig:
    """What decides the training of any network; names and meanings are those of the teacher's configuration."""

    width: int = 128  # trunk width
    depth: int = 3  # trunk layers
    rounds: int = 1500  # optimiser steps
    batch: int = 256  # units a step
    lr: float = 3e-3  # peak learning rate
    weight_decay: float = 0.1  # AdamW
    average: float = 0.995  # decay of the averaged weights
    score_every: int = 250  # rounds between held-out scores
    patience: int = 8  # scores without gain before stopping


@dataclass(frozen=True)
class TwinConfig(NetworkConfig):
    """A twin of the teacher: gates, trunk, embeddings of the arms and a decoder of the teacher's sizes."""

    embedding: int = 128  # width of one arm's embedding
    decoder: int = 64  # width of the light decoder
    gate: float = 0.5  # initial feature gate
    gate_penalty: float = 0.02  # L1 penalty on the gates
    clip: float = 0.05  # mlp_gated_ipw: propensities are clipped to [clip, 1 - clip]
    levels: int = 25  # quantile_mlp: quantile levels (j + 1/2) / levels
    bins: int = 8  # flow: bins of the spline


@dataclass(frozen=True)
class LiteratureConfig(NetworkConfig):
    """A baseline of the literature: trunk 3 x 200, two hidden layers of 100 an arm (Shalit et al. 2017, Shi et al. 2019). Their weak
    regularisation, 1e-4, stands in every grid and lost to a strong weight decay each time."""

    width: int = 200
    lr: float = 1e-3
    weight_decay: float = 1e-4
    score_every: int = 100
    patience: int = 20
    head: int = 100  # width of the two layers after the trunk, an arm
    balance: float = 1.0  # cfr: weight of the discrepancy between arms
    kernel: str = "linear"  # cfr: linear or rbf
    propensity: float = 1.0  # dragonnet: weight of the cross-entropy of the arm
    targeted: float = 1.0  # dragonnet: weight of the targeted regularisation
    clip: float = 0.01  # dragonnet: propensities g become (g + clip) / (1 + K clip)


OWN = {"clip": ("mlp_gated_ipw", "dragonnet"), "levels": ("quantile_mlp",), "bins": ("flow",), "balance": ("cfr",), "kernel": ("cfr",), "propensity": ("dragonnet",), "targeted": ("dragonnet",)}
# Three overrides a method, the first its default; `experiments.tuning` measures all three and chooses a benchmark.
GRID: dict[str, list[dict]] = {
    "tarnet": [{"weight_decay": 3.0}, {"weight_decay": 0.3}, {"weight_decay": 1e-4}],
    "cfr": [{"weight_decay": 3.0, "balance": 1.0}, {"weight_decay": 3.0, "balance": 0.1}, {"weight_decay": 1e-4, "balance": 1.0}],
    "dragonnet": [{"weight_decay": 3.0}, {"weight_decay": 0.3}, {"weight_decay": 1e-4}],
    "mlp_s": [{"weight_decay": 3.0}, {"weight_decay": 0.3}, {"weight_decay": 1e-4}],
} | {name: [{"weight_decay": 0.1, "gate_penalty": 0.02}, {"weight_decay": 1.0, "gate_penalty": 0.05}, {"weight_decay": 3.0, "gate_penalty": 0.05}] for name in TWINS}  # the teacher's own grid
DEFAULTS = {name: replace(TwinConfig() if name in TWINS else LiteratureConfig(), **GRID[name][0]) for name in NAMES}


def check(name: str, config: NetworkConfig | None) -> NetworkConfig:
    """`config`, or the default of the method `name`; an unknown name, another family's configuration, a value out of range or an option that the method does not read is refused."""
    checks.choice(name, "name", NAMES)
    default = DEFAULTS[name]
    config = default if config is None else config
    if type(config) is not type(default):
        raise checks.InputError(f"config of {name!r} must be a {type(default).__name__}, not {type(config).__name__}; start from networks.DEFAULTS[{name!r}].")
    for option, readers in OWN.items():
        if name not in readers and hasattr(config, option) and getattr(config, option) != getattr(default, option):
            raise checks.InputError(f"config.{option} is read by {' and '.join(readers)} only; leave it at {getattr(default, option)!r} for {name!r}.")
    for field in fields(config):
        value, label = getattr(config, field.name), f"config.{field.name}"
        if field.type in (int, "int"):
            checks.whole(value, label, 2 if field.name in ("levels", "bins") else 1)
        elif field.name in ("average", "clip"):
            checks.fraction(value, label)
        elif field.name in ("lr", "gate"):
            checks.positive(value, label)
        elif field.name == "kernel":
            checks.choice(value, label, ("linear", "rbf"))
        else:
            checks.non_negative(value, label)
    return config
