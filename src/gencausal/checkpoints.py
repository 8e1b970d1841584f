"""Training states on disk: safetensors for tensors, JSON in their header for everything else. Nothing is pickled.

A checkpoint holds what its run needs to continue as if it had never stopped: weights, averaged and best weights, optimiser
moments, step, generator states and the hash of the configuration it belongs to, which names data and code too.
"""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from gencausal.paths import write_whole
from gencausal.source_code import bare


def config_hash(config: dict) -> str:
    """First 16 hex digits of SHA-256 of the configuration as sorted JSON."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def tensor_hash(*tensors: torch.Tensor) -> str:
    """First 16 hex digits of SHA-256 of the tensors' shapes, types and bytes; names data in a configuration."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@cache
def code_hash(*modules: ModuleType) -> str:
    """First 16 hex digits of SHA-256 of the modules' code, comments and docstrings left out; names the code behind a checkpoint."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(bare(Path(module.__file__)))
    return digest.hexdigest()[:16]


def save_state(path: Path, tensors: dict[str, torch.Tensor], meta: dict) -> None:
    """Write `tensors` and the JSON-able `meta` to `path`, whole or not at all."""
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(flat, metadata={"meta": json.dumps(meta)}))


def load_state(path: Path, config: str, device: torch.device | str = "cpu") -> tuple[dict[str, torch.Tensor], dict] | None:
    """Tensors and meta of `path`, or None where there is no file.

    Raises ValueError, naming the file and the fix, if the file is damaged or belongs to another configuration than `config`.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            meta = json.loads(file.metadata()["meta"])
            if meta["config"] == config:
                return {name: file.get_tensor(name) for name in file.keys()}, meta
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"Checkpoint {path.name} is damaged ({type(error).__name__}); delete it to train again.") from error
    raise ValueError(f"Checkpoint {path.name} belongs to another configuration ({meta['config']}, not {config}); delete it or name another file.")


def remember(folder: Path | None, label: str, config: dict, compute: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """`compute()`, or what it gave before for the same `config`: kept in `folder/label-<hash>.safetensors`, not kept if folder is None."""
    if folder is None:
        return compute()
    key = config_hash(config)
    path = folder / f"{label}-{key}.safetensors"
    if found := load_state(path, key):
        return found[0]
    tensors = compute()
    save_state(path, tensors, {"config": key})
    return tensors
