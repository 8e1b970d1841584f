r"""SCMs on finite sets, computed exactly: the oracle of every test of do() and of counterfactuals (reading list #13: Jacobs, Kissinger, Zanasi 2018, causal inference by string diagram surgery).

A box is a stochastic tensor, one axis for each parent and one for the node, whose entries over the last axis sum to 1. A diagram is their contraction:

    P(x) = prod_j box_j(x_j given x_PA(j))                                                                             `Eq. diagram`
    do(x_j = a): box j is cut off its parents, which are discarded, and the state a is put in its place               `Eq. surgery`
    comb: P(c given do s) = sum_t P(t given s) sum_s' P(s') P(c given s', t)                                           `Eq. comb`   (S -> T -> C, S and C confounded, S and T not, S acts through T alone)
    twin: with x_j = f_j(x_PA(j), u_j), two copies of the diagram share the states of u; the first carries the evidence, the second the intervention                     `Eq. twin`

All by `einsum` over named axes; exact up to rounding. Values are numbered 0, 1, ....
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from gencausal import checks, graph

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Box:
    """Law of one node. parents: names, in the order of the axes of `table [*parents, values]`."""

    parents: tuple[str, ...]
    table: np.ndarray


@dataclass(frozen=True)
class FiniteSCM:
    """Boxes by name; checked where made: shapes agree, rows are probabilities, no cycle. hidden: nodes that `joint` sums out unless they are asked for."""

    boxes: Mapping[str, Box]
    hidden: tuple[str, ...] = ()

    def __post_init__(self):
        for name, box in self.boxes.items():
            table = np.asarray(box.table, float)
            if unknown := [p for p in box.parents if p not in self.boxes]:
                raise checks.InputError(f"{name} has a parent {unknown[0]!r} that has no box; add it.")
            shape = tuple(self.values(p) for p in box.parents)
            if table.ndim != len(shape) + 1 or table.shape[:-1] != shape:
                raise checks.InputError(f"The table of {name} has shape {table.shape} but its parents need {shape} before the last axis.")
            if (table < 0).any() or abs(table.sum(-1) - 1).max() > TOLERANCE:
                raise checks.InputError(f"The rows of the table of {name} must be probabilities that sum to 1.")
        graph.order(self.adjacency())

    @property
    def names(self) -> list[str]:
        return list(self.boxes)

    def values(self, name: str) -> int:
        """Number of values of a node."""
        return np.shape(self.boxes[name].table)[-1]

    def adjacency(self) -> np.ndarray:
        """[n, n] of 0 and 1 in the order of `names`."""
        return np.array([[int(cause in self.boxes[effect].parents) for effect in self.names] for cause in self.names])

    def joint(self, *of: str, given: Mapping[str, int] | None = None) -> np.ndarray:
        """P(of) or P(of, given) / P(given), one axis each (default: all nodes that are not hidden). Raises InputError where the evidence has probability 0."""
        of = of or tuple(name for name in self.names if name not in self.hidden)
        number, operands = {name: i for i, name in enumerate(self.names)}, []
        for name, box in self.boxes.items():
            operands += [np.asarray(box.table, float), [number[n] for n in (*box.parents, name)]]
        for name, value in (given or {}).items():
            operands += [np.eye(self.values(name))[value], [number[name]]]
        made = np.einsum(*operands, [number[n] for n in of], optimize=True)
        if given is None:
            return made
        if made.sum() < TOLERANCE**2:
            raise checks.InputError(f"The evidence {dict(given)} has probability 0; nothing follows from it.")
        return made / made.sum()

    def do(self, held: Mapping[str, int | np.ndarray]) -> "FiniteSCM":
        """`Eq. surgery`: the SCM with boxes replaced by values, or by laws over values."""
        made = dict(self.boxes)
        for name, value in held.items():
            checks.choice(name, "held", self.names)
            made[name] = Box((), np.eye(self.values(name))[value] if np.ndim(value) == 0 else np.asarray(value, float))
        return replace(self, boxes=made)


def front_door(omega: np.ndarray) -> np.ndarray:
    """`Eq. comb` from the observed joint `omega [S, T, C]`: P(C given do S), [S, C]. Raises InputError without full support, where the comb is not unique."""
    omega = np.asarray(omega, float)
    if omega.ndim != 3 or abs(omega.sum() - 1) > 1e-6 or (omega < 0).any():
        raise checks.InputError("omega must be a joint law over three variables: [S, T, C], no entry below 0, sum 1.")
    if (omega <= 0).any():
        s, t, c = np.argwhere(omega <= 0)[0]
        raise checks.InputError(f"omega has no mass at S={s}, T={t}, C={c}; without full support the effect is not a function of the joint law.")
    smoke, tar = omega.sum((1, 2)), omega.sum(2)
    return np.einsum("st,r,rtc->sc", tar / smoke[:, None], smoke, omega / tar[:, :, None])


@dataclass(frozen=True)
class FunctionalSCM:
    """x_j = f_j(x_PA(j), u_j) with u_j of finite law. parents; noise: {node: probabilities [K_j]}; functions: {node: whole numbers [*parents, K_j], the value for each}; values: {node: how many}."""

    parents: Mapping[str, tuple[str, ...]]
    noise: Mapping[str, np.ndarray]
    functions: Mapping[str, np.ndarray]
    values: Mapping[str, int]

    def _boxes(self, mark: str) -> dict[str, Box]:
        rename = lambda names: tuple(name + mark for name in names)  # noqa: E731
        return {name + mark: Box((*rename(self.parents[name]), f"u_{name}"), np.eye(self.values[name])[np.asarray(self.functions[name])]) for name in self.parents}

    def _noise(self) -> dict[str, Box]:
        return {f"u_{name}": Box((), np.asarray(law, float)) for name, law in self.noise.items()}

    def diagram(self) -> FiniteSCM:
        """Its boxes, noise hidden."""
        return FiniteSCM(self._noise() | self._boxes(""), tuple(self._noise()))

    def twin(self) -> FiniteSCM:
        """`Eq. twin`: nodes as they are and, marked with ', as they would be."""
        return FiniteSCM(self._noise() | self._boxes("") | self._boxes("'"), tuple(self._noise()))

    def counterfactual(self, of: str, held: Mapping[str, int], given: Mapping[str, int]) -> np.ndarray:
        """P(of had the nodes been held, given what was seen), [values]."""
        return self.twin().do({name + "'": value for name, value in held.items()}).joint(of + "'", given=given)


def random_front_door(rng: np.random.Generator, values: tuple[int, int, int, int] = (2, 2, 2, 2)) -> FiniteSCM:
    """H hidden, S <- H -> C, S -> T -> C, all tables Dirichlet(1): `values` of H, S, T, C."""
    h, s, t, c = values
    table = lambda *shape: rng.dirichlet(np.ones(shape[-1]), shape[:-1])  # noqa: E731
    return FiniteSCM({"H": Box((), table(h)), "S": Box(("H",), table(h, s)), "T": Box(("S",), table(s, t)), "C": Box(("H", "T"), table(h, t, c))}, ("H",))
