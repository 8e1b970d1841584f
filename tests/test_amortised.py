"""Training on streams of fresh SCMs: what a batch holds, that a killed training ends in the same bits, that weights survive their file, that a network learns at all."""

import hashlib
from dataclasses import replace

import pytest
import torch

from gencausal import amortised, checks, seeding
from gencausal.amortised import PRESETS, Paused, Stream
from gencausal.cond_fip import CondFiP, losses
from gencausal.data import scm_cells
from gencausal.data.scms import Scale
from gencausal.training import Player, fit

TINY = PRESETS["tiny"]


def weights(trained):
    return torch.cat([p.flatten() for p in trained.modules["condfip"].parameters()])


def test_a_batch_is_fresh_standardised_and_half_of_each_family():
    """Rows of context and query together have mean 0 and sd 1; a root's target is constant, LIN targets are linear in the parents; two calls differ, two streams of a seed agree."""
    stream = Stream(replace(TINY, batch=6, nodes=(5,), rows=(30,), query=(40,)), seeding.generator(0, "s"))
    batch = stream()
    both = torch.cat([batch.context, batch.query], 1)
    torch.testing.assert_close(Scale.of(both).sd, torch.ones(6, 1, 5), atol=1e-4, rtol=0)
    assert batch.context.shape == batch.context_target.shape == (6, 30, 5) and batch.query.shape == (6, 40, 5)
    target = torch.cat([batch.context_target, batch.query_target], 1)
    for s in range(6):
        for j in range(5):
            parents = batch.adjacency[s, :, j]
            design = torch.cat([torch.ones(70, 1), both[s][:, parents]], 1).double()
            rest = target[s, :, j].double() - design @ torch.linalg.lstsq(design, target[s, :, j].double()).solution
            assert not (s < 3 or not parents.any()) or rest.abs().max() < 1e-3
    assert not torch.equal(stream().context, batch.context)
    again = Stream(stream.recipe, seeding.generator(0, "s"))
    assert torch.equal(again().context, batch.context) and again.seconds > 0
    with pytest.raises(checks.InputError, match="multiple"):
        Stream(replace(TINY, batch=5), seeding.generator(0, "s"))


def test_a_paused_training_ends_in_the_same_bits(tmp_path, monkeypatch):
    """Stopped in the middle and called again: the weights, the scores and the steps are those of a training that never stopped."""
    whole, share = amortised.train(TINY, 3, score_every=10)
    assert 0 < share < 1 and whole.rounds == 20 and len(whole.scores) == 2
    path, calls = tmp_path / "state.safetensors", []
    monkeypatch.setattr(amortised, "fit", lambda *a, **k: fit(*a, **k | {"checkpoint_seconds": 0.0}))
    real = Stream.__call__

    def broken(self):
        calls.append(1)
        if len(calls) == 12:
            raise Paused("stop")
        return real(self)

    monkeypatch.setattr(Stream, "__call__", broken)
    with pytest.raises(Paused):
        amortised.train(TINY, 3, checkpoint=path, score_every=10)
    again, _ = amortised.train(TINY, 3, checkpoint=path, score_every=10)
    assert len(calls) == 12 + 20 - 11 and torch.equal(weights(again), weights(whole)) and again.scores == whole.scores
    assert not torch.equal(weights(amortised.train(TINY, 4)[0]), weights(whole))
    with pytest.raises(ValueError, match="another configuration"):
        amortised.train(replace(TINY, lr=1e-4), 3, checkpoint=path)


def test_time_is_kept(tmp_path):
    with pytest.raises(Paused, match="0 minutes"):
        amortised.train(TINY, minutes=0)
    assert amortised.main(["--preset", "tiny", "--steps", "2", "--checkpoint", str(tmp_path / "a" / "s.safetensors"), "--publish", str(tmp_path / "w.safetensors")]) == 0
    assert (tmp_path / "w.safetensors").exists()


def test_two_stages(tmp_path):
    """The encoder alone, then the decoder on the frozen encoder: its weights do not move, the decoder's do."""
    first = amortised.train(replace(TINY, stage="encoder", steps=4))[0].modules["condfip"]
    second = amortised.train(replace(TINY, stage="decoder", steps=4), encoder=first)[0].modules["condfip"]
    start = amortised.make(TINY, 0)
    assert all(torch.equal(a, b) for a, b in zip(first.encoder.parameters(), second.encoder.parameters()))
    assert not torch.equal(second.decoder.out.weight, start.decoder.out.weight) and torch.equal(first.decoder.out.weight, start.decoder.out.weight)
    with pytest.raises(checks.InputError, match="no encoder"):
        amortised.train(replace(TINY, stage="decoder"))


def test_weights_survive_their_file(tmp_path):
    """Half precision in the file: the same answers to three digits, with recipe and log; another's file is refused."""
    trained, _ = amortised.train(replace(TINY, steps=3))
    model = trained.modules["condfip"]
    path = amortised.save(tmp_path / "w.safetensors", model, replace(TINY, steps=3), trained, "a test")
    loaded, meta = amortised.load(path)
    batch = Stream(TINY, seeding.generator(1, "s"))()
    with torch.no_grad():
        torch.testing.assert_close(loaded.encoder_mechanism(batch.context, batch.adjacency), model.encoder_mechanism(batch.context, batch.adjacency), atol=5e-3, rtol=5e-3)
    assert meta["recipe"]["recipe"]["steps"] == 3 and meta["scores"] == trained.scores and not any(p.requires_grad for p in loaded.parameters())
    with pytest.raises(checks.InputError, match="no weights"):
        amortised.load(tmp_path / "none.safetensors")
    from gencausal.checkpoints import save_state

    save_state(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {"config": "x"})
    with pytest.raises(checks.InputError, match="no Cond-FiP"):
        amortised.load(tmp_path / "other.safetensors")


def test_trainings_add_up(tmp_path):
    """A training that starts from the weights of another begins where that ended (a rate of zero gives the same weights), learns on, and counts what both have seen; another network's weights are refused."""
    recipe = replace(TINY, steps=3)
    first, _ = amortised.train(recipe, 5)
    one = amortised.save(tmp_path / "one.safetensors", first.modules["condfip"], recipe, first, "a test", 5)
    still, _ = amortised.train(replace(recipe, steps=1, lr=0.0), 5, start=one)
    torch.testing.assert_close(weights(still), weights(first), atol=1e-3, rtol=1e-3)
    again, _ = amortised.train(recipe, 5, start=one)
    assert (weights(again) - weights(first)).abs().max() > 1e-4
    two = amortised.save(tmp_path / "two.safetensors", again.modules["condfip"], recipe, again, "a test", 5, start=one)
    meta, three = amortised.load(two)[1], amortised.save(tmp_path / "three.safetensors", again.modules["condfip"], recipe, again, "a test", 5, start=two)
    assert amortised.scms_seen(amortised.load(one)[1]) == 12 and amortised.scms_seen(meta) == 24 and amortised.scms_seen(amortised.load(three)[1]) == 36
    assert [entry["scms"] for entry in amortised.scores_by_scms(amortised.load(three)[1])] == [12, 24, 36]
    assert amortised.seconds_spent(meta) == pytest.approx(first.seconds + again.seconds, abs=0.2) and meta["recipe"]["start"] == hashlib.sha256(one.read_bytes()).hexdigest()
    with pytest.raises(checks.InputError, match="other sizes"):
        amortised.train(PRESETS["cpu_recall"], start=one)


def test_the_card_tells_what_was_trained_and_what_lies_beyond(tmp_path):
    """Errors beyond the training's sizes, linear and nonlinear, go into the file and its card with the SHA-256 of the file; they are those of cells made by hand."""
    recipe = replace(TINY, steps=2)
    trained, _ = amortised.train(recipe)
    model = trained.modules["condfip"]
    measured = amortised.beyond(model, 2, ((6, 30),))
    assert set(measured) == {"6 columns, 30 rows, linear", "6 columns, 30 rows, nonlinear"}
    cell = scm_cells.cell("rff_in", 6, 30, 2, seeding.derive(0, "validation") >> 32, interventions=1, rows=1)
    with torch.no_grad():
        by_hand = (cell.query - model.mechanism(cell.query, model.condition(cell.context, cell.adjacency)) - cell.query_noise).square().mean(2).sqrt().mean()
    assert measured["6 columns, 30 rows, nonlinear"] == pytest.approx(by_hand.item(), abs=1e-3)
    path = amortised.save(tmp_path / "w.safetensors", model, recipe, trained, "a test", 0, measured)
    card = amortised.readme(tmp_path)
    assert "## w.safetensors" in card and f"nonlinear {by_hand.item():.3f}" in card and hashlib.sha256(path.read_bytes()).hexdigest() in card and amortised.load(path)[1]["measured"] == measured


def test_one_batch_can_be_learned(device):
    """Both heads overfit four SCMs: losses fall below a third of where they began (oracle 18)."""
    batch = Stream(TINY, seeding.generator(0, "one", device=device))()
    model = CondFiP(TINY.sizes, seeding.generator(0, "net")).to(device)
    loss = lambda: losses(model, batch.context, batch.context_target, batch.query, batch.query_target, batch.adjacency)  # noqa: E731
    begin = {name: value.item() for name, value in loss().items()}
    trained = fit({"m": Player(model, loss, 1e-2, stacked=False)}, 250, [], config={}, warmup=10)
    end = trained.history[-1]
    assert end["m.encoder"][0] < begin["encoder"] / 3 and end["m.decoder"][0] < begin["decoder"] / 3, (begin, end)


def test_the_papers_sizes_take_a_step():
    """The `paper` preset runs on a CPU: one step of its networks on two small SCMs, recomputing activations, in half precision."""
    recipe = replace(PRESETS["paper"], batch=2, nodes=(4,), rows=(12,), query=(12,))
    model, batch = amortised.make(recipe, 0), Stream(recipe, seeding.generator(0, "s"))()
    made = losses(model, batch.context, batch.context_target, batch.query, batch.query_target, batch.adjacency)
    sum(made.values()).sum().backward()
    assert all(value.isfinite().all() for value in made.values()) and model.encoder.embed.weight.grad.isfinite().all()


def test_held_out_errors_are_those_of_full_precision():
    """Validation SCMs are of a stream of their own; `noise_errors` of F = 0 would be that of the data, here it is finite and of its size."""
    cells = amortised.validation_cells(TINY, count=3)
    assert set(cells) == {"lin_in", "rff_in"} and len(cells["lin_in"]) == 3
    errors = amortised.noise_errors(amortised.make(TINY, 0), cells["rff_in"])
    assert set(errors) == {"decoder", "encoder"} and all(value.shape == (3,) and (value < 5).all() for value in errors.values())
