"""Checkpoints come back as they went, and refuse what is damaged or foreign."""

import pytest
import torch

from gencausal.checkpoints import code_hash, config_hash, load_state, remember, save_state, tensor_hash


def test_round_trip(tmp_path):
    tensors = {"a": torch.randn(3, 2), "rng": torch.get_rng_state(), "n": torch.tensor(7)}
    save_state(tmp_path / "c.safetensors", tensors, {"config": "abc", "round": 3})
    found, meta = load_state(tmp_path / "c.safetensors", "abc")
    assert meta["round"] == 3 and found.keys() == tensors.keys()
    assert all(torch.equal(found[k], tensors[k]) and found[k].dtype == tensors[k].dtype for k in tensors)


def test_absent_is_none(tmp_path):
    assert load_state(tmp_path / "none.safetensors", "abc") is None


def test_foreign_and_damaged_are_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    save_state(path, {"a": torch.zeros(400)}, {"config": "abc"})
    with pytest.raises(ValueError, match="c.safetensors belongs to another configuration"):
        load_state(path, "other")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="c.safetensors is damaged"):
        load_state(path, "abc")
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="damaged"):
        load_state(path, "abc")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    save_state(path, {"a": torch.zeros(2)}, {"config": "abc", "round": 1})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError):
        save_state(path, {"a": torch.ones(2)}, {"config": "abc", "round": 2})
    monkeypatch.undo()
    assert load_state(path, "abc")[1]["round"] == 1 and [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_hashes_see_every_change():
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1}) != config_hash({"a": 1, "b": 3})
    x = torch.arange(6.0)
    assert tensor_hash(x) == tensor_hash(x.clone()) != tensor_hash(x.view(2, 3))
    assert tensor_hash(x) != tensor_hash(x.double())


def test_remember_computes_once_for_each_config(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"a": torch.tensor([float(len(calls))])}

    first = remember(tmp_path, "stage", {"n": 1}, compute)
    assert remember(tmp_path, "stage", {"n": 1}, compute)["a"].item() == first["a"].item() == 1.0
    assert remember(tmp_path, "stage", {"n": 2}, compute)["a"].item() == 2.0
    assert remember(None, "stage", {"n": 1}, compute)["a"].item() == 3.0


def test_code_hash_sees_code_and_not_comments(tmp_path):
    """Another constant is other code; a docstring, a comment or white space is not."""
    from types import ModuleType

    def of(name, text):
        module = ModuleType(name)
        module.__file__ = str(tmp_path / f"{name}.py")
        (tmp_path / f"{name}.py").write_text(text)
        return code_hash(module)

    base = of("a", '"""Doc."""\ndef f():\n    """Doc."""\n    return 1\n')
    assert of("b", '"""Other."""\n# comment\ndef f():\n\n    """Other."""\n    return 1  # one\n') == base
    assert of("c", '"""Doc."""\ndef f():\n    """Doc."""\n    return 2\n') != base
    assert of("d", "def f():\n    return 1\n") == base
