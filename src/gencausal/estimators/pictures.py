"""A reader's images and factor tables as the estimators compute with them: [N, C, H, W] in [0, 1], padded to a side that the networks divide."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from gencausal.checks import InputError

STEP = 16  # sides are padded to a multiple
LAYOUTS = {"gray": "[N, H, W]", "last": "[N, H, W, C]", "first": "[N, C, H, W]"}


def as_table(factors, names: list) -> pd.DataFrame:
    """`factors` as a DataFrame with the columns `names`, in that order; an array [N, n] is taken to be in that order."""
    if not isinstance(factors, pd.DataFrame):
        array = np.asarray(factors)
        if array.ndim != 2 or array.shape[1] != len(names):
            raise InputError(f"factors must be a DataFrame with the columns {', '.join(map(str, names))}, or an array [N, {len(names)}], not of shape {array.shape}.")
        return pd.DataFrame(array, columns=names)
    if missing := [name for name in names if name not in factors.columns]:
        raise InputError(f"factors has no column {missing[0]!r}; the graph's nodes are {', '.join(map(str, names))}.")
    return factors[names]


def as_images(images, index) -> tuple[torch.Tensor, str]:
    """(images [N, C, H, W] float32 in [0, 1], their layout) from an array, a tensor, or a folder whose files are named by `index`."""
    if isinstance(images, str | Path):
        return as_images(from_folder(Path(images), index), None)
    array = images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise InputError(f"images must be [N, H, W], [N, H, W, C] or [N, C, H, W] with at least one image, not of shape {array.shape}.")
    layout = "gray" if array.ndim == 3 else "last" if array.shape[3] in (1, 3) else "first"
    if layout == "first" and array.shape[1] not in (1, 3):
        raise InputError(f"images of shape {array.shape} have neither 1 nor 3 channels, first or last; drop an alpha channel with images[..., :3].")
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 255
    try:
        array = array.astype(np.float32)
    except (TypeError, ValueError):
        raise InputError("images must hold numbers; load the files as arrays, or pass the folder's path.") from None
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise InputError(f"images must be bytes (uint8) or numbers in [0, 1], not from {np.nanmin(array):.3g} to {np.nanmax(array):.3g}{' with NaN' if np.isnan(array).any() else ''}; divide by their maximum.")
    array = array[:, None] if layout == "gray" else array.transpose(0, 3, 1, 2) if layout == "last" else array
    return torch.from_numpy(np.ascontiguousarray(array)), layout


def from_folder(folder: Path, index) -> np.ndarray:
    """Images of the files `index` (names, with or without a suffix; None for all files in order) of `folder`, bytes [N, H, W] or [N, H, W, 3]."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder.name}; pass the path of a folder of image files, or an array.")
    files = {file.name: file for file in sorted(folder.iterdir()) if file.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp")}
    stems = {Path(name).stem: name for name in files}
    wanted = list(files) if index is None else [str(name) for name in index]
    absent = [name for name in wanted if name not in files and name not in stems]
    if absent or not wanted:
        raise InputError(f"{folder.name} has no image {absent[0] if absent else 'file'!r}; the index of factors must hold the files' names, of .png, .jpg or .bmp.")
    made = []
    for name in wanted:
        with Image.open(files.get(name, files.get(stems.get(name, "")))) as image:
            made.append(np.asarray(image.convert("L" if image.mode in ("L", "1", "I;16", "P") else "RGB")))
    if len({image.shape for image in made}) > 1:
        raise InputError(f"the images of {folder.name} have different sizes or channels; resize them to one.")
    return np.stack(made)


def pad(x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int, int, int]]:
    """Images padded at the right and below with their edge to a square of a multiple of `STEP`, and (C, H, W, side)."""
    _, C, H, W = x.shape
    side = -(-max(H, W) // STEP) * STEP
    return torch.nn.functional.pad(x, (0, side - W, 0, side - H), mode="replicate"), (C, H, W, side)


def back(x: torch.Tensor, shape: tuple[int, int, int, int], layout: str) -> np.ndarray:
    """Images [N, C, S, S] cropped to `shape` and in `layout`, float32 in [0, 1]."""
    array = x[:, :, :shape[1], :shape[2]].float().cpu().numpy()
    return array[:, 0] if layout == "gray" else array.transpose(0, 2, 3, 1) if layout == "last" else array
