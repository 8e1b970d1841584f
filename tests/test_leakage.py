"""E4's driver on encoders whose leakage is known by construction (spec vci, oracle 19; null of reading list #18)."""

import numpy as np
import pandas as pd
import pytest

from gencausal import checks
from gencausal.data.cell_worlds import cell_world
from gencausal.experiments import leakage
from gencausal.experiments.leakage import Variant


@pytest.fixture(scope="module")
def table():
    return cell_world(1, 0, 700, 500)


@pytest.fixture(scope="module")
def found(table):
    """Rows of three variants: the true latent looked up (`clean`), the same with t added (`leaky`), and a linear code of y and t with an untrained null."""
    place = {row.tobytes(): i for i, row in enumerate(table.outcome)}

    def clean(y, t, x):
        z = table.latent[[place[np.ascontiguousarray(row).tobytes()] for row in y]]
        return z, 0.1 * np.ones_like(z)

    def leaky(y, t, x):
        mean, sd = clean(y, t, x)
        return np.concatenate([mean, 3 * t], 1), np.concatenate([sd, sd[:, :3]], 1)

    def make(seed):
        rng = np.random.default_rng(seed)
        weights = rng.standard_normal((table.outcome.shape[1], 4))
        return lambda y, t, x: (y @ weights + rng.standard_normal((1, 4)), None)

    copy = lambda y, t, x, cf: y  # noqa: E731
    variants = {"clean": Variant(clean, copy), "leaky": Variant(leaky), "linear": Variant(lambda y, t, x: (np.concatenate([y[:, :3], 50 * t], 1), None), None, make)}
    frame = pd.DataFrame(leakage.rows(table, variants, 0, permutations=60, n_max=400, networks=9))
    assert not frame.duplicated(["experiment", "dataset", "unit", "method", "metric", "seed"]).any() and np.isfinite(frame["value"]).all() and (frame["experiment"] == "vci.E4").all()
    assert set(frame["metric"]) <= set(leakage.METRICS)
    return frame.set_index(["method", "metric"])["value"]


def test_leak_and_no_leak_are_told_apart(found):
    """Oracle 19: no measure fires on the true latent or its sample, by Holm; all fire on the leaky variant and on `appended`, in mean and sample; the clean latent still tells X."""
    for name in leakage.LEAKS:
        assert min(found[method, f"leak_{name}_holm"] for method in ("clean", "clean_sample", "true_latent")) > 0.05, name
        assert max(found[method, f"leak_{name}_p"] for method in ("leaky", "leaky_sample", "appended")) < 0.02, name
    assert found["leaky", "leak_probe_linear"] > 0.95 > 0.45 > found["clean", "leak_probe_linear"] and found["clean", "probe_x_linear"] > 0.6 and found["clean", "probe_x_linear_p"] < 0.02


def test_controls(found):
    """The collapsed latent: p 1, chance, reconstruction 0 and no X; the outcome itself: rebuilt by 20 components, as the world has 20 hidden units, and T and X readable."""
    assert found["collapsed", "leak_hsic_p"] == 1 and found["collapsed", "leak_probe_hidden"] == pytest.approx(1 / 3) == found["collapsed", "probe_x_linear"]
    assert found["collapsed", "reconstruction_r2"] == pytest.approx(0, abs=0.02) and found["outcome", "reconstruction_r2"] > 0.98
    assert found["outcome", "leak_probe_linear"] > 0.8 and found["outcome", "probe_x_linear"] > 0.6


def test_predictions_are_judged(found):
    """A model that copies composes and reverses without error and rebuilds all; its counterfactual has the latent of its cell here. A variant without predict has no such row."""
    assert found["clean", "composition"] == found["clean", "reversibility"] == found["clean", "round_trip"] == 0 and found["clean", "reconstruction_r2"] == 1
    assert ("leaky", "composition") not in found.index


def test_untrained_networks(found):
    """#18: a code that states t beats each of 9 untrained ones, p = 1/10 above and 1 below; the null's mean is between chance and it; variants without make have none."""
    assert found["linear", "leak_probe_linear_network_p"] == pytest.approx(0.1) and found["linear", "leak_probe_linear_network_p_below"] == pytest.approx(1.0)
    assert 1 / 3 < found["linear_untrained", "leak_probe_linear"] < found["linear", "leak_probe_linear"] and ("clean", "leak_hsic_network_p") not in found.index


def test_other_conditions(table):
    """The counterfactual condition is never a cell's own, and is one that training cells had; each is used."""
    other = leakage._other_condition(table, table.test, np.random.default_rng(0))
    assert (other != table.condition[table.test]).all() and set(other) == {0, 1, 2}
    held = table.hold_out([(x, 2) for x in range(3)], "no treatment 2")
    other = leakage._other_condition(held, np.arange(table.n), np.random.default_rng(0))
    assert set(other) == {0, 1} and (other != table.condition).all()


def test_strata_and_bad_input(table):
    """`each_stratum` adds a unit a stratum; without variants it refuses."""
    made = pd.DataFrame(leakage.rows(table, {"one": Variant(lambda y, t, x: (y[:, :2], None))}, 3, permutations=9, n_max=200, networks=0, each_stratum=True))
    assert set(made["unit"]) == {"world 1", *(f"world 1, X = {x}" for x in range(3))}
    with pytest.raises(checks.InputError, match="variants"):
        leakage.rows(table, {}, 0)
