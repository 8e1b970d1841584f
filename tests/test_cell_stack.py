"""Stacks of VCI networks: alone as in company, resumed as never stopped, the drawing of treatments and matches, borrowed matches, and what each option moves."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from gencausal import checks, training
from gencausal.cell_models import simple, stack
from gencausal.data.cell_table import CellTable
from gencausal.data.cell_worlds import cell_world
from gencausal.vci import objective

SMALL = stack.Config(rounds=8, batch=16, draws=2, matches=3, width=8, latent=4, embedding=8, warmup=2)
VCI = stack.WEIGHTS["vci"]


@pytest.fixture(scope="module")
def tables():
    return [cell_world(world, 0, 90, 10, 6) for world in (0, 1)]


@pytest.fixture(scope="module")
def wide():
    return cell_world(0, 0, 600, 10, 6)


def parameters(fitted, member=0):
    return {name: p for name, p in fitted.alone(member).named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_member_trains_alike_alone_or_in_company(tables):
    """A network's weights after training do not depend on the others of its stack, be they of another table, other weights (terms that it does not have: neither gradient nor running moments) or another seed; those others differ."""
    members = [stack.Member(0, VCI, 3), stack.Member(1, VCI, 3), stack.Member(0, stack.WEIGHTS["cvae"], 3), stack.Member(0, VCI, 4), stack.Member(0, stack.WEIGHTS["vci_no_divergence"], 3)]
    together = stack.train(tables, members, SMALL)
    for place in (0, 2, 4):
        alone = parameters(stack.train(tables[:1], [members[place]], SMALL))
        for name, found in parameters(together, place).items():
            torch.testing.assert_close(found, alone[name], rtol=1e-5, atol=1e-6)
    assert not any(same(parameters(together, 0), parameters(together, other)) for other in (1, 2, 3, 4))


def test_members_of_one_stream_start_alike_and_see_the_same_cells(tables):
    """Equal table and seed: equal first weights; another seed: others. Untrained decoders already predict the genes' training means and spreads (`informed_start`)."""
    made = stack.make(tables, [stack.Member(0, VCI, 3), stack.Member(0, (1.0, 0.0, 0.0, 0.0), 3), stack.Member(0, VCI, 4)], SMALL, torch.device("cpu"))
    assert torch.equal(made.embed.weight[0], made.embed.weight[1]) and not torch.equal(made.embed.weight[0], made.embed.weight[2])
    outcome = torch.as_tensor(tables[0].outcome[tables[0].train])
    torch.testing.assert_close(made.decoder_head.bias[0, 0, :6], outcome.mean(0))
    torch.testing.assert_close(torch.nn.functional.softplus(made.decoder_head.bias[0, 0, 6:]), outcome.std(0, correction=0))
    torch.testing.assert_close(made.embed(outcome[None].expand(3, -1, -1))[:2].mean(1), torch.zeros(2, 8), atol=1e-5, rtol=0)
    plain = stack.make(tables, [stack.Member(0, VCI, 3)], replace(SMALL, informed_start=False), torch.device("cpu"))
    assert (plain.decoder_head.bias == 0).all()


@pytest.mark.parametrize("refresh", [0, 3])
def test_a_killed_training_ends_in_the_same_bits(tables, tmp_path, monkeypatch, refresh):
    """Stopped after five rounds and started again from its checkpoint, with or without the frozen encoder, a training ends as one that never stopped; a finished one is only read."""
    config, members = replace(SMALL, refresh=refresh), [stack.Member(0, VCI, 0)]
    whole = parameters(stack.train(tables[:1], members, config))
    monkeypatch.setattr(stack, "fit", functools.partial(training.fit, checkpoint_seconds=-1.0))
    terms, calls = objective.terms, []

    def stops(*arguments, **options):
        calls.append(None)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return terms(*arguments, **options)

    monkeypatch.setattr(objective, "terms", stops)
    with pytest.raises(KeyboardInterrupt):
        stack.train(tables[:1], members, config, tmp_path)
    assert same(parameters(stack.train(tables[:1], members, config, tmp_path)), whole) and len(calls) == 6 + 3
    assert same(parameters(stack.train(tables[:1], members, config, tmp_path)), whole) and len(calls) == 9


def draws(table, config, times=1):
    """The cells of a table and what it draws, one batch a time."""
    cells = stack.Cells([table], [(0, 0)], config, torch.device("cpu"))
    return cells, [cells.draw(config.latent) for _ in range(times)]


def test_the_law_of_the_drawn_treatment(wide):
    """Oracle 11: t' is never the control, its frequencies are those of the treated training cells, free of x and t; with `control_cf` all training cells have their say."""
    table = wide
    frequency = np.bincount(table.condition[table.train], minlength=3) / len(table.train)
    for control_cf in (False, True):
        _, (b,) = draws(table, replace(SMALL, batch=20000, control_cf=control_cf))
        drawn = b.treatment_cf[0].argmax(-1)
        expected = frequency if control_cf else frequency * (np.arange(3) != 0) / frequency[1:].sum()
        np.testing.assert_allclose(torch.bincount(drawn, minlength=3) / len(drawn), expected, atol=0.015)
        for other in (b.treatment[0], b.covariates[0]):
            for level in other.argmax(-1).unique():
                rows = other.argmax(-1) == level
                np.testing.assert_allclose(torch.bincount(drawn[rows], minlength=3) / rows.sum(), expected, atol=0.03)
        assert control_cf or not (drawn == 0).any()


def test_only_training_cells_are_drawn(wide):
    """Cells outside `train` are neither drawn nor matched: nothing changes when they hold other values."""
    other = replace(wide, outcome=np.where(np.isin(np.arange(wide.n), wide.train)[:, None], wide.outcome, 1e6).astype(np.float32))
    for config in (SMALL, replace(SMALL, matches=stack.EVERY_MATCH), replace(SMALL, borrow=True)):
        one, two = (draws(t, config, 3)[1] for t in (wide, other))
        assert all(torch.equal(getattr(a, f), getattr(b, f)) for a, b in zip(one, two) for f in objective.Batch.__dataclass_fields__)
    assert same(parameters(stack.train([wide], [stack.Member(0, VCI, 0)], SMALL)), parameters(stack.train([other], [stack.Member(0, VCI, 0)], SMALL)))


def test_every_match_is_the_mean_over_drawn_matches(wide):
    """`EVERY_MATCH` gives the moments of a cell's whole group; m cells drawn with replacement, all of the cell's stratum under t', give them on average, and so the same L1. Both batches hold the same cells."""
    every, (a,) = draws(wide, replace(SMALL, batch=20000, matches=stack.EVERY_MATCH))
    _, (b,) = draws(wide, replace(SMALL, batch=20000, matches=3))
    x, t = a.covariates[0].argmax(-1), a.treatment_cf[0].argmax(-1)
    for stratum in range(3):
        for condition in (1, 2):
            rows = wide.rows(stratum, condition, wide.train)
            chosen = (x == stratum) & (t == condition)
            np.testing.assert_allclose(a.matched_mean[0, chosen][0], wide.outcome[rows].mean(0), rtol=1e-4, atol=1e-5)
            assert (a.matched_square[0, chosen] - np.square(wide.outcome[rows]).mean()).abs().max() < 1e-4
            own = (b.covariates[0].argmax(-1) == stratum) & (b.treatment_cf[0].argmax(-1) == condition)
            error = wide.outcome[rows].std(0) / np.sqrt(3 * int(own.sum()))
            assert ((b.matched_mean[0, own].mean(0) - a.matched_mean[0, chosen][0]).abs() < 5 * torch.as_tensor(error)).all()
            assert abs(float(b.matched_square[0, own].mean() - a.matched_square[0, chosen].mean())) < 0.1
            values = {tuple(np.round(v, 4)) for v in wide.outcome[rows]}
            _, (one,) = draws(wide, replace(SMALL, batch=300, matches=1))
            single = (one.covariates[0].argmax(-1) == stratum) & (one.treatment_cf[0].argmax(-1) == condition)
            assert {tuple(np.round(v, 4)) for v in one.matched_mean[0, single].numpy()} <= values
    y = torch.zeros_like(a.outcome)
    losses = [objective.match(y[:, :len(v.matched[0])], v.matched_mean, v.matched_square, v.matched).item() for v in (a, b)]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_a_group_with_fewer_cells_than_matches(wide):
    """A cell whose group has two training cells gets two draws with replacement, not `matches`: its mean is one of the three possible ones."""
    group = wide.rows(0, 1, wide.train)
    table = replace(wide, train=np.setdiff1d(wide.train, group[2:]))
    _, (b,) = draws(table, replace(SMALL, batch=2000, matches=20))
    chosen = (b.covariates[0].argmax(-1) == 0) & (b.treatment_cf[0].argmax(-1) == 1)
    first, second = wide.outcome[group[:2]]
    found = b.matched_mean[0, chosen]
    nearest = torch.stack([(found - torch.as_tensor(v)).abs().amax(-1) for v in (first, second, (first + second) / 2)]).amin(0)
    assert len(found) > 5 and nearest.max() < 1e-5


def made_table():
    """Three strata whose mean controls lie at squared distances 1 and 4 of the first, one treatment seen in the last two alone, and one seen nowhere."""
    controls, shift = np.array([[0.0, 0], [1, 0], [0, 2]]), np.array([[0.0, 0], [3, 1], [5, -1]])
    stratum, condition = np.array([0, 0, 1, 1, 2, 2, 1, 2, 1, 2]), np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2])
    outcome = controls[stratum] + shift[stratum] * (condition == 1)[:, None] + 0.3 * np.where(condition == 0, (-1) ** np.arange(10), 0)[:, None]
    one_hot = np.eye(3, dtype=np.float32)
    return controls, shift, CellTable("made", "all", outcome.astype(np.float32), ("a", "b"), one_hot[condition], ("c", "t", "u"), condition, ("c", "t", "u"), one_hot, 0, one_hot[stratum], (3,), stratum, ("x", "y", "z"), one_hot,
                                      np.arange(8), np.arange(8, 10))


def test_borrowed_groups_enter_as_like_strata_tell_them():
    """Eq. borrow: a group without training cells gets the mean that `simple.borrowed` tells and its square; groups with cells keep theirs, and what no stratum was treated with stays unknown."""
    controls, shift, table = made_table()
    plain, cells = (stack.Cells([table], [(0, 0)], replace(SMALL, borrow=borrow), torch.device("cpu")) for borrow in (False, True))
    told = simple.borrowed(simple._means(table), 0)
    means, known = cells.means[0].unflatten(0, (3, 3)), cells.known[0].unflatten(0, (3, 3))
    np.testing.assert_allclose(means[0, 1], told[0, 1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cells.squares[0].unflatten(0, (3, 3))[0, 1], means[0, 1].square().mean(), rtol=1e-5)
    assert known.tolist() == [[True, True, False]] * 3 and plain.known[0].unflatten(0, (3, 3)).tolist() == [[True, False, False], *[[True, True, False]] * 2]
    assert torch.equal(cells.means[0][plain.known[0]], plain.means[0][plain.known[0]]) and torch.equal(cells.squares[0][plain.known[0]], plain.squares[0][plain.known[0]])


def test_borrowing_fills_held_out_groups_alone(wide):
    """Without it a cell whose group has no training cell has no match; with it that cell has one, and all others what they had."""
    table = wide.hold_out([(0, 1)], "unit")
    config = replace(SMALL, batch=500, matches=stack.EVERY_MATCH)
    _, (without,) = draws(table, config)
    _, (found,) = draws(table, replace(config, borrow=True))
    empty = (without.covariates[0].argmax(-1) == 0) & (without.treatment_cf[0].argmax(-1) == 1)
    assert torch.equal(~without.matched[0], empty) and found.matched.all() and empty.any()
    assert torch.equal(without.matched_mean[0, ~empty], found.matched_mean[0, ~empty])


def test_what_each_option_moves(tables):
    """Each option changes the trained weights; the frozen encoder changes nothing where the divergence has no weight, `joint` nothing where the norm knows no other cells."""
    train = lambda weights=VCI, **options: parameters(stack.train(tables[:1], [stack.Member(0, weights, 0)], replace(SMALL, **options)))  # noqa: E731
    base = train()
    assert same(base, train()), "the same call gives other bits"
    for options in ({"refresh": 2}, {"joint": True}, {"divergence": "exact"}, {"control_cf": True}, {"matches": 0}, {"relu_heads": False}, {"draws": 3}, {"weight_decay": 0.1}, {"clip": 0.01}, {"informed_start": False},
                    {"norm": "layer"}, {"sees_treatment": False}, {"likelihood": "negative_binomial"}):
        if options.get("likelihood"):
            counts = replace(tables[0], outcome=np.round(np.exp(tables[0].outcome)).astype(np.float32))
            found = parameters(stack.train([counts], [stack.Member(0, VCI, 0)], replace(SMALL, **options)))
        else:
            found = train(**options)
        assert not same(base, found) and all(torch.isfinite(p).all() for p in found.values()), options
    assert same(train(stack.WEIGHTS["autoencoder"]), train(stack.WEIGHTS["autoencoder"], refresh=2))
    for a, b in zip(train(norm="none").values(), train(norm="none", joint=True).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for name, weights in stack.WEIGHTS.items():
        assert name == "vci" or not same(base, train(weights)), name


def test_the_frozen_encoder_is_renewed_when_due(tables):
    """Oracle 10: an `Evaluator` keeps its copy between refreshes and equals the live networks, running moments included, after one."""
    live = stack.make(tables, [stack.Member(0, VCI, 0)], SMALL, torch.device("cpu"))
    evaluator = stack.Evaluator(live, 2)
    states = []
    for _ in range(3):
        with torch.no_grad():
            for p in live.parameters():
                p += 1
        states.append([torch.equal(a, b) for a, b in zip(evaluator.renewed(live).parameters(), live.parameters())])
    assert all(states[0]) and not any(states[1]) and all(states[2]) and not any(p.requires_grad for p in evaluator.networks.parameters())


def test_predictions_do_not_depend_on_the_batch(tables):
    """`Fitted.predict` and `encode` of one cell are those of many; shapes are those of the table."""
    fitted, t = stack.train(tables[:1], [stack.Member(0, VCI, 0)], SMALL), tables[0]
    arguments = (t.outcome, t.treatment, t.covariates, t.condition_treatment[(t.condition + 1) % 3])
    many = fitted.predict(0, *arguments)
    assert many.shape == t.outcome.shape and fitted.encode(0, *arguments[:3])[1].shape == (t.n, 4)
    np.testing.assert_allclose(fitted.predict(0, *(a[5:6] for a in arguments))[0], many[5], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fitted._run("predict", 0, *arguments, size=7), many, rtol=1e-5, atol=1e-6)


def test_tables_that_do_not_fit_together(tables):
    """Tables of other shapes, or without a treated training cell, are refused before training."""
    with pytest.raises(checks.InputError, match="differ in shape"):
        stack.train([tables[0], cell_world(0, 0, 90, 10, 7)], [stack.Member(0, VCI, 0)], SMALL)
    with pytest.raises(checks.InputError, match="no treated training cell"):
        stack.train([replace(tables[0], train=np.flatnonzero(tables[0].condition == 0))], [stack.Member(0, VCI, 0)], SMALL)
