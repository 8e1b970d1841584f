"""Published weights: `data/checkpoints/<kind>-<hash>.safetensors`, the averaged weights of one training and its log, found by the hash of everything that decided them.

A training whose configuration, images, factors and seed are those of a published file is not done again. Every finished training leaves its weights in the folder `weights` of its checkpoints;

    python -m gencausal.image_models.store build/full/checkpoints/weights/*.safetensors

publishes those files, rounded to half precision, and writes `data/checkpoints/README.md`, which lists what is there with its recipe, log and checksum.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from gencausal import paths
from gencausal.checkpoints import config_hash, load_state, save_state
from gencausal.training import Trained


def folder() -> Path:
    return paths.root() / "data" / "checkpoints"


def file_of(kind: str, identity: dict) -> Path:
    """Where the weights of this training are, or would be."""
    return folder() / f"{kind}-{config_hash(identity)}.safetensors"


def read(kind: str, identity: dict, modules: dict[str, nn.Module]) -> Trained | None:
    """The published training of `identity` with its weights in `modules`, or None where there is none."""
    key = config_hash(identity)
    device = next(next(iter(modules.values())).parameters()).device
    found = load_state(file_of(kind, identity), key, device)
    if found is None:
        return None
    tensors, meta = found
    with torch.no_grad():
        for name, module in modules.items():
            for parameter_name, parameter in module.named_parameters():
                parameter.copy_(tensors[f"{name}.{parameter_name}"])
    return Trained({name: module.eval() for name, module in modules.items()}, [], meta["scores"], torch.tensor(meta["best_score"]), torch.tensor(meta["best_round"]), meta["rounds"], meta["seconds"])


def write(kind: str, identity: dict, trained: Trained, about: str, place: Path | None = None) -> Path:
    """Weights of `trained`, its recipe (`identity`), log and one line `about` what it is, to `place` (default: published); returns the file."""
    tensors = {f"{name}.{key}": value for name, module in trained.modules.items() for key, value in module.named_parameters()}
    meta = {"config": config_hash(identity), "kind": kind, "about": about, "recipe": identity, "scores": trained.scores, "best_score": trained.best_score.tolist(), "best_round": trained.best_round.tolist(),
            "rounds": trained.rounds, "seconds": round(trained.seconds, 1)}
    save_state(path := (place or folder()) / file_of(kind, identity).name, tensors, meta)
    return path


def publish(files: list[Path]) -> None:
    """Copy weights that `write` left elsewhere to the published ones, rounded to half precision, and list them all in README.md."""
    for file in files:
        with safe_open(file, "pt") as opened:
            meta, tensors = json.loads(opened.metadata()["meta"]), {name: opened.get_tensor(name).half() for name in opened.keys()}
        save_state(folder() / file.name, tensors, meta | {"precision": "half"})
    paths.write_whole(folder() / "README.md", readme())


CARD = """# Published weights

Written by `python -m gencausal.image_models.store`. Weights are safetensors, nothing is pickled; each file also holds its recipe and log in its header. `scratch=True` in the
notebooks trains anew.

- **What.** Diffusion models of images, the guides that read factors from noisy images, and their rivals (diffusion autoencoders, variational autoencoders, predictors). `pendulum` and `flow` are whole estimators,
  `GuidedCounterfactuals.from_checkpoint("pendulum")`.
- **Data.** Pendulum and Flow are drawn by `gencausal.data` from closed forms, MorphoMNIST is rebuilt from 5,000 MNIST digits (`data/README.md`). Only training images were seen; a twentieth of them was held out to score each round.
- **Use.** To rerun notebooks 01b and 03a-03c without training, and to try the estimator. They are small (two CPU cores, minutes to half an hour each), not the best that the methods can do.
- **Limits.** They know these images and no others. What they get right and wrong is measured in `reports/03a_counterfactual_images.html`: an effect that is set against its causes is far from its goal, digits break.
- **Licence.** MIT, as the code.
"""


def cards(place: Path | None = None) -> list[dict]:
    """Kind, what it is, recipe, log, bytes and SHA-256 of every published file, sorted by name; kind "estimator" for a whole one."""
    found = []
    for path in sorted((place or folder()).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            meta = json.loads(file.metadata()["meta"])
        found.append({"kind": "estimator", "about": f"GuidedCounterfactuals over {', '.join(meta.get('names', []))}"} | meta | {"file": path.name, "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    return found


def readme(place: Path | None = None) -> str:
    """The model cards as Markdown: what `data/checkpoints/README.md` holds."""
    text = [CARD]
    for card in cards(place):
        text += [f"## {card['file']}\n", f"{card['about']}\n"]
        if "recipe" in card:
            recipe = {key: value for key, value in card["recipe"].items() if key not in ("kind", "images", "factors")}
            text += [f"- Kind: {card['kind']}; {card['rounds']} rounds, {card['seconds'] / 60:.0f} minutes; held-out score {card['best_score'][0]:.4g} at round {card['best_round'][0]}", f"- Recipe: `{json.dumps(recipe)}`"]
        text.append(f"- Bytes {card['bytes']}, SHA-256 `{card['sha256']}`\n")
    return "\n".join(text)


if __name__ == "__main__":
    publish([Path(name) for name in sys.argv[1:]])
