r"""`CondFiP`: the mechanisms of a table's causal model from one trained network, without training on the table.

    model = CondFiP.from_checkpoint().infer(data, graph)          # seconds at most
    model.noise(data), model.sample(n), model.intervene({"dose": 2.0}, n), model.counterfactual(rows, {"dose": 2.0}), model.mechanism("effect", rows)

x_j = F_j(x_PA(j)) + n_j with independent noise, no hidden common cause and the right graph are assumed, as the network was trained on such tables alone (`amortised`). What it gives away from tables like those it has seen
is an extrapolation: a warning says by how much its error grew where that was measured.
"""

import warnings
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import torch

from gencausal import amortised, checks, graph as graphs
from gencausal.checks import InputError
from gencausal.cond_fip import REFLECTIONS, CondFiP as Network, SignAveraged, levels, sweep
from gencausal.estimators.overlap import ExtrapolationWarning

FEWEST_ROWS = 10
PART = 4096  # query rows that pass through the network at once


class CondFiP:
    """A trained network that infers causal models. meta: recipe and log of its training (`amortised.save`)."""

    def __init__(self, network: Network, meta: dict):
        self.network, self.meta = network, meta

    @classmethod
    def from_checkpoint(cls, path: str | Path | None = None, device: str = "cpu") -> "CondFiP":
        """The network of `path`, by default the published one."""
        return cls(*amortised.load(amortised.published() if path is None else Path(path), device))

    def infer(self, data: pd.DataFrame, graph: nx.DiGraph, signs: int = REFLECTIONS) -> "InferredSCM":
        """The causal model behind the rows of `data` (numbers, one column a node) and `graph` (acyclic, edges cause -> effect, nodes the columns).

        signs: reflections that the network is averaged over (`Eq. signs`), a power of two; 1 is the network as the paper uses it, four times faster than the default and somewhat less accurate.
        Raises InputError, naming the argument and the fix, for a cycle, a missing node, a constant column, a cell that is no finite number, or fewer than 10 rows. Warns where the table is wider, narrower, longer or shorter
        than those of the training.
        """
        if not isinstance(data, pd.DataFrame):
            raise InputError(f"data must be a pandas DataFrame with one column a node, not {type(data).__name__}; name the columns with pandas.DataFrame(array, columns=[...]).")
        if data.columns.has_duplicates:
            raise InputError(f"data has two columns named {data.columns[data.columns.duplicated()][0]!r}; rename one.")
        names = list(data.columns)
        adjacency = graphs.adjacency(graph, names)
        values = checks.matrix(data, "data")
        if len(values) < FEWEST_ROWS:
            raise InputError(f"data has {len(values)} rows; at least {FEWEST_ROWS} are needed.")
        if (constant := np.ptp(values, 0) == 0).any():
            raise InputError(f"data has a constant column, {names[int(constant.argmax())]!r}; drop it from table and graph.")
        if len(names) < 2:
            raise InputError("data has one column; a causal model needs two nodes or more.")
        averaged = SignAveraged(self.network, checks.whole(signs, "signs"), [sorted(names, key=str).index(name) for name in names])
        self._warn(len(names), len(values))
        return InferredSCM(averaged, names, adjacency, values)

    def _warn(self, d: int, n: int) -> None:
        recipe = self.meta["recipe"]["recipe"]
        told = [f"{what} is {value}, {'above' if value > seen[-1] else 'below'} the {low} to {high} of the training" for what, value, seen in (("the number of columns", d, sorted(recipe["nodes"])), ("the number of rows", n, sorted(recipe["rows"])))
                for low, high in [(seen[0], seen[-1])] if not low <= value <= high]
        if told:
            measured = self.meta.get("measured", {})
            near = [f"{name} {value:.3f}" for name, value in measured.items()]
            warnings.warn(f"For this table {' and '.join(told)}; noise errors (in sd of a column) measured there: {', '.join(near) if near else 'none'}.", ExtrapolationWarning, stacklevel=3)


class InferredSCM:
    """Mechanisms of one table. names: columns; adjacency [d, d]; mean, sd of the table's columns; residuals [n, d]: noise of its rows. Everything goes in and comes out in the table's units."""

    def __init__(self, network: SignAveraged, names: list[str], adjacency: np.ndarray, values: np.ndarray):
        self.network, self.names, self.adjacency = network, names, adjacency
        self.mean, self.sd = values.mean(0), values.std(0, ddof=1)
        self._device = next(network.parameters()).device
        self._graph = torch.as_tensor(adjacency != 0, device=self._device)[None]
        self._levels = levels(self._graph)
        with torch.no_grad():
            self._condition = network.condition(self._into(values)[None], self._graph)
        self.residuals = self._noise(values)

    # --- asking --------------------------------------------------------------------------------------------------------------------------

    def noise(self, x: pd.DataFrame) -> pd.DataFrame:
        """Noise of the rows of `x`: x - F(x)."""
        return pd.DataFrame(self._noise(self._rows(x)), columns=self.names, index=x.index)

    def sample(self, n: int, random_state: int = 0) -> pd.DataFrame:
        """n fresh rows: noise drawn, node by node, from the quantiles of the residuals, then each node once, parents first (`cond_fip.sweep`)."""
        return self.intervene({}, n, random_state)

    def intervene(self, do: dict, n: int, random_state: int = 0) -> pd.DataFrame:
        """n fresh rows under `do` (column to the value that it is held at)."""
        checks.whole(n, "n")
        rng = np.random.default_rng(checks.whole(random_state, "random_state", 0))
        uniform = rng.random((n, len(self.names)))
        noise_u = np.stack([np.quantile(column, u) for column, u in zip(self.residuals.T, uniform.T)], 1)
        return pd.DataFrame(self._generate(noise_u, self._held(do, n)), columns=self.names)

    def counterfactual(self, x: pd.DataFrame, do: dict) -> pd.DataFrame:
        """The rows of `x` had the columns in `do` been other than they were (a value, or one for each row): their own noise, abducted, under the intervention. What does not descend from a held column stays as it is."""
        rows = self._rows(x)
        return pd.DataFrame(self._generate(self._noise(rows), self._held(do, len(rows))), columns=self.names, index=x.index)

    def mechanism(self, node: str, x: pd.DataFrame) -> pd.Series:
        """F of `node` at the parents' values in `x`, one column for each parent at least; a root has one value throughout."""
        j = self._number(node, "node")
        parents = [name for i, name in enumerate(self.names) if self.adjacency[i, j]]
        if missing := [p for p in parents if p not in x]:
            raise InputError(f"x lacks {missing[0]!r}, a parent of {node!r}; pass a column for each parent.")
        rows = np.tile(self.mean, (len(x), 1))
        rows[:, [self.names.index(p) for p in parents]] = checks.matrix(x[parents], "x") if parents else rows[:, :0]
        return pd.Series(self._mechanisms(rows)[:, j], index=x.index, name=node)

    def curves(self, node: str, points: int = 101) -> pd.DataFrame:
        """What to draw: F of `node` along each of its parents over the table's range, the other parents at their mean. Columns parent, value, mechanism."""
        j, made = self._number(node, "node"), []
        for i in np.flatnonzero(self.adjacency[:, j]):
            rows = np.tile(self.mean, (points, 1))
            rows[:, i] = np.linspace(*(self.mean[i] + self.sd[i] * np.array([-2.0, 2.0])), points)
            made.append(pd.DataFrame({"parent": self.names[i], "value": rows[:, i], "mechanism": self._mechanisms(rows)[:, j]}))
        return pd.concat(made, ignore_index=True) if made else pd.DataFrame(columns=["parent", "value", "mechanism"])

    def plot(self, node: str, axes=None):
        """`curves` drawn on matplotlib `axes` (new ones by default); returns them."""
        import matplotlib.pyplot as plt

        axes = axes if axes is not None else plt.subplots()[1]
        for parent, part in self.curves(node).groupby("parent", sort=False):
            axes.plot(part["value"], part["mechanism"], label=parent)
        axes.set(xlabel="parent", ylabel=f"F of {node}")
        axes.legend()
        return axes

    def to_dowhy(self, data: pd.DataFrame):
        """A fitted `dowhy.gcm.InvertibleStructuralCausalModel` with these mechanisms and the empirical noise of `data`; see `gcm_export`."""
        from gencausal.estimators.gcm_export import export

        return export(self, data[self.names])

    # --- inside --------------------------------------------------------------------------------------------------------------------------

    def _into(self, values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor((values - self.mean) / self.sd, dtype=torch.float32, device=self._device)

    @torch.no_grad()
    def _mechanisms(self, values: np.ndarray) -> np.ndarray:
        """F at rows [m, d], in the table's units."""
        parts = [self.network.mechanism(part[None], self._condition)[0] for part in self._into(values).split(PART)]
        return torch.cat(parts).double().cpu().numpy() * self.sd + self.mean

    def _noise(self, values: np.ndarray) -> np.ndarray:
        return values - self._mechanisms(values)

    @torch.no_grad()
    def _generate(self, noise_u: np.ndarray, held: np.ndarray) -> np.ndarray:
        # Standardised F is (F - mean) / sd, so noise in units of sd is added to it; float64 at the end keeps held values exact.
        u = torch.as_tensor(noise_u / self.sd, dtype=torch.float32, device=self._device)
        parts = [sweep(lambda z, nodes: self.network.mechanism(z, self._condition, nodes), a[None], self._levels, b[None])[0] for a, b in zip(u.split(PART), self._into(held).split(PART))]
        made = torch.cat(parts).double().cpu().numpy() * self.sd + self.mean
        return np.where(np.isnan(held), made, held)

    def _rows(self, x: pd.DataFrame) -> np.ndarray:
        if not isinstance(x, pd.DataFrame):
            raise InputError(f"x must be a pandas DataFrame with the columns {', '.join(map(str, self.names))}, not {type(x).__name__}.")
        if missing := [name for name in self.names if name not in x]:
            raise InputError(f"x lacks the column {missing[0]!r}; pass the columns that were inferred from.")
        return checks.matrix(x[self.names], "x", len(self.names))

    def _number(self, node: str, argument: str) -> int:
        return self.names.index(checks.choice(node, argument, self.names))

    def _held(self, do: dict, rows: int) -> np.ndarray:
        """Values [rows, d], NaN where left alone."""
        held = np.full((rows, len(self.names)), np.nan)
        for node, value in do.items():
            value = np.asarray(value, float)
            if not np.isfinite(value).all() or value.ndim > 1 or (value.ndim == 1 and len(value) != rows):
                raise InputError(f"do[{node!r}] must be a finite number, or {rows} of them, one for each row.")
            held[:, self._number(node, "do")] = value
        return held
