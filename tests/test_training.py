"""The training loop: stacks, clipping, averaging, early stopping, divergence, and a resume that equals never stopping."""

import math

import pytest
import torch
from torch import nn

from gencausal import training
from gencausal.seeding import generator, stacked
from gencausal.training import Player, TrainingDiverged, fit, learning_rate

TARGETS = {"a": 1.0, "b": -2.0, "c": 5.0}


class Stack(nn.Module):
    """S small maps; leading axis S."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, 1, 4))
        self.gate = nn.Parameter(torch.ones(size, 1, 1))


def game(units, **player):
    """Noisy regressions, one a unit, each with its own random stream and target."""
    streams = [generator(3, "toy", unit) for unit in units]
    module, target = Stack(len(units)), torch.tensor([TARGETS[u] for u in units])

    def loss():
        x = stacked(torch.randn, streams, 16, 4)
        y = x.sum(2) * target[:, None] + stacked(torch.randn, streams, 16)
        return {"fit": ((x * module.weight * module.gate).sum(2) - y).square().mean(1)}

    return {"toy": Player(module, loss, lr=0.05, **player)}, streams


def train(units=("a", "b", "c"), rounds=60, player=None, **options):
    players, streams = game(units, **(player or {}))
    trained = fit(players, rounds, streams, config={"units": units}, warmup=5, **options)
    return trained, players["toy"].module


def weights(module):
    return torch.cat([p.flatten(1) for p in module.parameters()], 1)


def test_a_network_trains_alike_alone_and_in_company():
    """Streams, Adam, clipping and averaging work slice by slice."""
    together, last = train()
    for s, unit in enumerate(TARGETS):
        alone, alone_last = train((unit,))
        assert torch.allclose(weights(last)[s], weights(alone_last)[0], rtol=1e-5, atol=1e-6)
        assert torch.allclose(weights(together.modules["toy"])[s], weights(alone.modules["toy"])[0], rtol=1e-5, atol=1e-6)
    assert weights(last).std(0).min() > 0.1  # the targets differ, so the slices must


class Killed(BaseException):
    """Stands for kill -9: no handler of the loop may see it."""


def kill_after(players, calls):
    loss, count = players["toy"].loss, [0]

    def killing():
        count[0] += 1
        if count[0] > calls:
            raise Killed
        return loss()

    players["toy"].loss = killing


@pytest.mark.parametrize("killed_at", [1, 23, 59])
def test_resume_equals_straight(tmp_path, killed_at):
    """Killed in any round and started again, the run ends in the same bits: last, averaged and best weights, history, scores."""
    score = lambda m: {"norm": m["toy"].weight.flatten(1).square().sum(1)}  # noqa: E731
    options = dict(config={"k": 1}, warmup=5, score=score, score_every=10, log_every=10)
    players, streams = game(tuple(TARGETS))
    straight = fit(players, 60, streams, **options)
    last = weights(players["toy"].module)

    path = tmp_path / "toy.safetensors"
    players, streams = game(tuple(TARGETS))
    kill_after(players, killed_at)
    with pytest.raises(Killed):
        fit(players, 60, streams, checkpoint=path, checkpoint_seconds=0, **options)
    assert path.exists() is (killed_at > 0)
    players, streams = game(tuple(TARGETS))
    calls = []
    loss = players["toy"].loss
    players["toy"].loss = lambda: calls.append(1) or loss()
    resumed = fit(players, 60, streams, checkpoint=path, checkpoint_seconds=0, **options)
    assert len(calls) == 60 - killed_at
    assert torch.equal(weights(players["toy"].module), last)
    assert torch.equal(weights(resumed.modules["toy"]), weights(straight.modules["toy"]))
    assert resumed.history == straight.history and torch.equal(resumed.best_score, straight.best_score)
    assert torch.equal(resumed.best_round, straight.best_round) and resumed.scores == straight.scores and len(straight.scores) == 6


def test_resume_needs_the_generator_state(tmp_path):
    """The same resume with reset random streams gives other weights: the states in the checkpoint matter."""
    players, streams = game(("a",))
    straight = fit(players, 20, streams, config={}, warmup=5)
    path = tmp_path / "toy.safetensors"
    players, streams = game(("a",))
    kill_after(players, 10)
    with pytest.raises(Killed):
        fit(players, 20, streams, config={}, warmup=5, checkpoint=path, checkpoint_seconds=0)
    players, _ = game(("a",))
    reset = fit(players, 20, [generator(99, "spare")], config={}, warmup=5, checkpoint=path)
    assert not torch.equal(weights(reset.modules["toy"]), weights(straight.modules["toy"]))


def test_a_finished_run_is_not_trained_again(tmp_path):
    path = tmp_path / "toy.safetensors"
    first, _ = train(checkpoint=path)
    players, streams = game(tuple(TARGETS))
    players["toy"].loss = lambda: pytest.fail("trained again")
    again = fit(players, 60, streams, config={"units": tuple(TARGETS)}, warmup=5, checkpoint=path)
    assert torch.equal(weights(again.modules["toy"]), weights(first.modules["toy"])) and again.seconds == first.seconds


def test_a_checkpoint_of_another_config_is_refused(tmp_path):
    train(checkpoint=tmp_path / "toy.safetensors")
    players, streams = game(tuple(TARGETS))
    with pytest.raises(ValueError, match="belongs to another configuration"):
        fit(players, 60, streams, config={"units": "other"}, checkpoint=tmp_path / "toy.safetensors")


def test_best_weights_are_kept_network_by_network():
    """A score that worsens for one network and improves for another keeps the early weights of the first only."""
    sign = torch.tensor([1.0, -1.0])
    trained, _ = train(("a", "c"), rounds=40, score=lambda m: {"signed": sign * m["toy"].weight.flatten(1).sum(1)}, score_every=10)
    assert trained.best_round.tolist() == [10, 40]
    assert trained.modules["toy"].weight[0].sum() < trained.modules["toy"].weight[1].sum()


def test_patience_stops(tmp_path):
    """Stopped early is finished: the same call again trains nothing."""
    options = dict(rounds=200, score=lambda m: {"flat": torch.arange(1.0, 4.0)}, score_every=10, patience=2, checkpoint=tmp_path / "toy.safetensors")
    trained, module = train(**options)
    assert trained.rounds == 30 and trained.best_round.tolist() == [10, 10, 10]
    again, same = train(**options)
    assert again.rounds == 30 and again.seconds == trained.seconds and torch.equal(weights(module), weights(same))


def test_patience_is_by_network():
    """A network whose score stalls keeps its early weights even where a companion lets the run go on and it would improve later."""
    later = iter([[1.0, 5.0], [2.0, 4.0], [2.0, 3.0], [2.0, 2.0], [0.5, 1.0]])
    trained, _ = train(("a", "c"), rounds=50, score=lambda m: {"s": torch.tensor(next(later))}, score_every=10, patience=2)
    assert trained.best_round.tolist() == [10, 50] and trained.best_score.tolist() == [1.0, 1.0]


def test_divergence_names_round_term_network_and_seed():
    players, streams = game(tuple(TARGETS))
    loss, count = players["toy"].loss, [0]

    def poisoned():
        count[0] += 1
        terms = loss()
        return {"fit": terms["fit"], "extra": torch.tensor([0.0, math.nan if count[0] == 8 else 0.0, 0.0])}

    players["toy"].loss = poisoned
    with pytest.raises(TrainingDiverged, match=r"toy\.extra of network 1 is nan in round 7 \(seed 5\)"):
        fit(players, 60, streams, config={}, seed=5)


def test_a_loss_summed_over_networks_is_refused():
    players, streams = game(tuple(TARGETS))
    loss = players["toy"].loss
    players["toy"].loss = lambda: {"fit": loss()["fit"].sum()}
    with pytest.raises(ValueError, match=r"toy\.fit must be \[S\]"):
        fit(players, 5, streams, config={})


def test_clipping_is_by_network():
    """With SGD-like Adam (betas 0) a step has the size of the learning rate; the clip bounds the gradient of the large network alone."""
    module = Stack(2)
    seen = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([p.grad.clone() for g in self.param_groups for p in g["params"]])

    player = Player(module, lambda: {"l": torch.stack([0.1 * module.weight[0].sum(), 100 * module.weight[1].sum()])}, lr=0.1, clip=1.0)
    player.optimiser = lambda: Spy(player.parameters(), lr=0.1)
    fit({"p": player}, 1, [], config={})
    norms = torch.stack([g.flatten(1).square().sum(1) for g in seen[0]]).sum(0).sqrt()
    assert norms.tolist() == pytest.approx([0.2, 1.0], rel=1e-5)


def test_average_is_the_recursion():
    """averaged <- d averaged + (1 - d) weights with d = min(average, (1 + round) / (10 + round))."""
    module = Stack(1)
    path = []

    def loss():
        path.append(module.weight.detach().clone())
        return {"l": module.weight.sum((1, 2))}

    trained = fit({"p": Player(module, loss, lr=0.1, average=0.3)}, 5, [], config={}, warmup=1)
    expected, steps = path[0], [*path[1:], module.weight.detach()]
    for i, weight in enumerate(steps):
        d = min(0.3, (1 + i) / (10 + i))
        expected = d * expected + (1 - d) * weight
    assert torch.allclose(trained.modules["p"].weight, expected)


def test_weight_decay_spares_the_named():
    module = Stack(1)
    with torch.no_grad():
        module.weight.fill_(1.0)
    zero = lambda: {"l": 0 * (module.weight.sum((1, 2)) + module.gate.sum((1, 2)))}  # noqa: E731
    fit({"p": Player(module, zero, lr=0.1, weight_decay=0.5, undecayed=("gate",))}, 3, [], config={}, warmup=1)
    assert module.gate.item() == 1.0 and module.weight.max().item() < 1.0


def test_players_alternate_and_leave_each_other():
    """Each call changes its own player; `updates` counts steps a round."""
    one, two, order = Stack(1), Stack(1), []
    both = lambda: (one.weight * two.weight).sum((1, 2)) + one.weight.sum((1, 2)) + two.weight.sum((1, 2))  # noqa: E731
    seen = []

    def loss(name):
        def call():
            order.append(name)
            seen.append((one.weight.sum().item(), two.weight.sum().item()))
            return {"l": both()}
        return call

    fit({"one": Player(one, loss("one"), lr=0.1), "two": Player(two, loss("two"), lr=0.1, updates=2)}, 2, [], config={}, warmup=1)
    assert order == ["one", "two", "two"] * 2
    assert seen[1][0] != seen[0][0] and seen[1][1] == seen[0][1]
    assert seen[2][1] != seen[1][1] and seen[2][0] == seen[1][0]


def test_learning_rate_warms_up_and_falls():
    rates = [learning_rate(i, 100, 10, 0.1) for i in range(101)]
    assert rates[0] < rates[5] < rates[9] and rates[100] == pytest.approx(0.1) and max(rates) <= 1


def test_no_progress_bar_off_a_terminal(capfd):
    train(rounds=5)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


class Plain(nn.Module):
    """One small network whose parameters have no leading axis S."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(4, 3)), nn.Parameter(torch.zeros(3))


def test_one_network_is_clipped_as_a_whole():
    """`stacked=False`: the norm runs over all parameters, whatever their first axes."""
    module = Plain()
    player = Player(module, lambda: {"loss": (3 * module.first.sum() + 4 * module.second.sum())[None]}, lr=0.1, clip=1.0, stacked=False)
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    training._update("plain", player, optimiser, 1.0, 0, 0)
    norm = (12 * 9 + 3 * 16) ** 0.5
    torch.testing.assert_close(module.first.grad, torch.full((4, 3), 3 / norm))
    torch.testing.assert_close(module.second.grad, torch.full((3,), 4 / norm))


def test_one_network_keeps_its_best_weights(tmp_path):
    module, scores = Plain(), iter([2.0, 1.0, 3.0])
    kept = []

    def score(modules):
        kept.append(modules["plain"].first.clone())
        return {"held": torch.tensor([next(scores)])}

    player = Player(module, lambda: {"loss": (module.first.sum() + module.second.sum())[None]}, lr=0.1, stacked=False)
    trained = fit({"plain": player}, 30, [], config={}, score=score, score_every=10, checkpoint=tmp_path / "plain.safetensors")
    assert trained.best_round.tolist() == [20] and torch.equal(trained.modules["plain"].first, kept[1]) and not torch.equal(kept[1], kept[2])
