"""Groups hidden from training: what a fold hides, what its inner fold hides for choosing, and that a choice is that of the hidden training groups."""

from dataclasses import replace

import numpy as np
import pytest

from gencausal import checks
from gencausal.cell_models import stack
from gencausal.experiments import unseen

CONFIG = stack.Config(rounds=3, batch=16, width=8, latent=4, embedding=8, warmup=1)


@pytest.fixture(scope="module")
def tables():
    return unseen.folds(unseen.MADE, (1200, 1, 12))


def kinds(table, rows):
    return set(zip(table.stratum[rows].tolist(), table.condition[rows].tolist()))


def test_a_fold_hides_one_treated_group(tables):
    for table in tables:
        (hidden,) = kinds(table, table.test)
        assert hidden[1] > 0 and hidden not in kinds(table, table.train) and len(table.train) + len(table.test) == table.n
    assert len({tuple(kinds(table, table.test)) for table in tables}) == len(tables)


def test_choosing_hides_another_group_and_never_sees_the_folds_own(tables):
    for table, inner in zip(tables, unseen.inner(tables), strict=True):
        (own,), (hidden,) = kinds(table, table.test), kinds(table, inner.test)
        assert hidden != own and hidden[1] > 0 and hidden not in kinds(table, inner.train)
        assert not {own} & (kinds(table, inner.train) | kinds(table, inner.test)) and set(inner.train) | set(inner.test) == set(table.train)
    two = replace(tables[0], train=tables[0].train[tables[0].stratum[tables[0].train] < 2])
    with pytest.raises(checks.InputError, match="three strata or more"):
        unseen.inner([two])


class Known:
    """Predicts the hidden group's own mean plus `error`."""

    def __init__(self, tables, error):
        self.means, self.error = [table.outcome[table.test].mean(0) for table in tables], error

    def predict(self, member, outcome, treatment, covariates, treatment_cf):
        return np.tile(self.means[member] + self.error * np.linspace(-1, 1, len(self.means[member])), (len(outcome), 1))


def test_the_choice_is_the_best_on_hidden_training_groups(tables, monkeypatch):
    """The setting whose networks are right on the inner groups is taken, whichever it is; rows say which group each was scored on."""
    for best in unseen.CANDIDATES["cvae"]:
        monkeypatch.setattr(unseen, "train", lambda arm, hidden, seed, config, value, folder, device="cpu", best=best: Known(hidden, 0.0 if value == unseen.CANDIDATES["cvae"][best] else 0.5))
        chosen, rows = unseen.choose(tables, ["cvae"], 0, CONFIG, None)
        assert chosen == {"cvae": best} and {row["method"] for row in rows} == {f"cvae {name}" for name in unseen.CANDIDATES["cvae"]}
        assert all("choosing on" in row["unit"] and row["experiment"] == "vci.E3.choice" for row in rows)


def test_rounds_are_chosen_alike(tables, monkeypatch):
    """Of 3 and 6 rounds that which is right on the inner groups; the borrowed arm trains under the weights of the reweighted one."""
    seen = []

    def train(arm, hidden, seed, config, value, folder, device="cpu"):
        seen.append((arm, config.rounds, value))
        return Known(hidden, 0.1 * abs(config.rounds - best))

    monkeypatch.setattr(unseen, "train", train)
    for best in (3, 6):
        rounds, rows = unseen.choose_rounds(tables, "vci_borrowed", (3, 6), 0, CONFIG, {"vci_reweighted": "w0.1"}, None)
        assert rounds == best and {row["method"] for row in rows} == {"vci_borrowed 3 rounds", "vci_borrowed 6 rounds"}
    assert set(seen) == {("vci_borrowed", r, unseen.CANDIDATES["vci_reweighted"]["w0.1"]) for r in (3, 6)}


def test_rows_of_networks_and_gaps(tables):
    """Every arm on every fold; the gap closed is (model - shift) / (ceiling - shift), worked by hand."""
    rows = unseen.network_rows(tables[:2], ["vci_borrowed", "adversarial"], [0], CONFIG, {}, None)
    assert {(row["method"], row["unit"]) for row in rows} == {(arm, row["unit"]) for arm in ("vci_borrowed", "adversarial") for row in rows} and len({row["unit"] for row in rows}) == 2
    made = [{"dataset": "d", "unit": "u", "method": name, "metric": "r2_de", "seed": seed, "value": value} for name, seed, value in (("mean_shift", 0, 0.4), ("ceiling", 0, 0.8), ("ceiling", 1, 1.0), ("vci", 0, 0.65))]
    (gap,) = unseen.gap_rows(made)
    assert gap["metric"] == "gap_closed" and gap["value"] == pytest.approx(0.5)
