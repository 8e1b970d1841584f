r"""Image networks in fewer bits: the grids of `quantize` (Eq. quantise, Eq. search) for convolutions and linear layers, which stand alone and not in a stack."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from gencausal import checks
from gencausal.quantize import MEASURED, Grid, search


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    return {name: part for name, part in module.named_modules() if isinstance(part, (nn.Conv2d, nn.Linear))}


def quantise_layers(module: nn.Module, show: Callable[[nn.Module], object], weight_bits: int, activation_bits: int | None = None) -> nn.Module:
    """A copy of `module` whose convolutions and linear layers have quantised weights, one step an output channel, and quantised inputs, one grid a layer; `module` stays as it is.

    show: runs the copy, weights quantised, on inputs that show it its activations. activation_bits: default weight_bits; 32 leaves weights or activations float. The gradient passes a
    quantised input as if it were float (straight through): rounding has none, and guidance would die.
    """
    made = copy.deepcopy(module).requires_grad_(False)
    activation_bits = weight_bits if activation_bits is None else activation_bits
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in _layers(made)}
    grids: dict[str, Grid] = {}

    def activation(name: str, x: torch.Tensor) -> torch.Tensor:
        if name in grids:
            return x + (grids[name](x.detach()) - x).detach()
        values = x.detach().reshape(1, -1)
        seen[name].append(torch.cat([values[:, ::-(-values.shape[1] // MEASURED)], values.amin(1, keepdim=True), values.amax(1, keepdim=True)], 1))
        return x

    for name, layer in _layers(made).items():
        if weight_bits < 32:
            rows = layer.weight.data.flatten(1)
            layer.weight.data = search(rows, weight_bits, symmetric=True)(rows).view_as(layer.weight).contiguous(memory_format=torch.channels_last if layer.weight.dim() == 4 else torch.contiguous_format)
        if activation_bits < 32:
            layer.register_forward_pre_hook(lambda _, inputs, name=name: (activation(name, inputs[0]),))
    if activation_bits < 32:
        with torch.no_grad():
            show(made)
        if silent := [name for name, values in seen.items() if not values]:
            raise checks.InputError(f"show never ran the layer {silent[0]}, so its activations have no range; let it run the whole network.")
        grids |= {name: search(torch.cat(values, 1), activation_bits) for name, values in seen.items()}
    return made


def layer_bytes(module: nn.Module, weight_bits: int = 32) -> int:
    """Storage of an image network: weights of its layers at `weight_bits` with one 4-byte step an output channel, all else at 4 bytes."""
    layers = _layers(module).values()
    weights, everything = sum(part.weight.numel() for part in layers), sum(p.numel() for p in module.parameters())
    if weight_bits >= 32:
        return 4 * everything
    return -(-weights * weight_bits // 8) + 4 * (everything - weights + sum(len(part.weight) for part in layers))
