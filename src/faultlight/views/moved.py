"""The feature maps that differ most between an image and its adversarial twin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float32
from torch import Tensor, nn

from faultlight.models.subject import Subject
from faultlight.views.listening import leaves_of, outputs

# Feature maps kept of each pair, and the side beyond which they are thinned: enough for a picture on a page.
MOVED, LARGEST_MAP = 6, 32
# Pixels of the images whose layers are all kept at once: 32 colour images of 32 × 32.
PIXELS_AT_ONCE = 32 * 3 * 32 * 32

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
NORMALISATIONS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)
ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Softplus,
    nn.Tanh,
    nn.Sigmoid,
)


def moved_maps(
    subject: Subject, x: Float32[Tensor, "k c h w"], twins: Float32[Tensor, "k c h w"], m: int = MOVED
) -> tuple[list[list[dict[str, Any]]], dict[str, Tensor]]:
    """Return for each pair the m feature maps that moved most, and the maps themselves, clean and twin."""
    rows = max(1, PIXELS_AT_ONCE // max(1, x[0].numel())) if len(x) else 1
    layers = watched_layers(subject, x[:1])
    moved: list[list[dict[str, Any]]] = []
    maps: list[Tensor] = []
    for some, others in zip(torch.split(x, rows), torch.split(twins, rows), strict=True):
        heard = _hear(subject, torch.cat([some, others]), layers)
        names, kept = _most_moved(heard, len(some), m)
        moved += names
        maps.append(kept)
    whole = torch.cat(maps, dim=1) if maps else torch.zeros(2, 0, 0, 0, 0)
    return moved, {"moved_clean": whole[0], "moved_twin": whole[1]}


def change_of(clean: Float32[Tensor, "n c h w"], twin: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n c"]:
    """Return how far each feature map moved, measured by the size of the layer's maps.

    change_c = ‖a_c(x') − a_c(x)‖₂ / √(mean over the layer's channels of ‖a_c(x)‖₂²): 1 means that the map moved by as
    much as a map of that layer ordinarily measures on that image. Dividing by the map's own norm instead would crown
    maps that are almost silent; not dividing at all would crown whichever layer has the largest numbers.

    Args:
        clean: the layer's maps for the images.
        twin: its maps for their twins.

    Returns:
        One number a map; 0 throughout a layer that is silent on both.
    """
    difference = (twin - clean).flatten(2).norm(dim=2)
    ordinary = clean.flatten(2).norm(dim=2).square().mean(1, keepdim=True).sqrt()
    return torch.nan_to_num(difference / ordinary.clamp_min(1e-12))


def watched_layers(subject: Subject, x: Float32[Tensor, "n c h w"]) -> list[str]:
    """Return the layers among whose maps the most moved are sought, in the order of their calls.

    They are the convolutions and activation functions whose output is a stack of maps. A convolution that an activation
    follows, with or without a normalisation between, is left out: its maps would stand beside their own image.
    """
    leaves = leaves_of(subject)
    heard = outputs(subject, x.to(subject.device), leaves) if len(x) else {}
    kinds = {name: _kind(leaves[name.rpartition("#")[0] or name]) for name in heard}
    calls = [name for name in heard if kinds[name] != "normalisation"]
    watched = []
    for name, following in zip(calls, [*calls, ""][1:], strict=True):
        repeated = following and kinds[following] == "activation" and heard[following].shape == heard[name].shape
        maps = heard[name].ndim == 4 and heard[name][0, 0].numel() > 1
        if maps and (kinds[name] == "activation" or (kinds[name] == "convolution" and not repeated)):
            watched.append(name)
    return watched


def _kind(module: nn.Module) -> str:
    if isinstance(module, CONVOLUTIONS):
        return "convolution"
    if isinstance(module, NORMALISATIONS):
        return "normalisation"
    return "activation" if isinstance(module, ACTIVATIONS) else "other"


def _hear(subject: Subject, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    modules = dict.fromkeys(name.rpartition("#")[0] or name for name in layers)
    heard = outputs(subject, x.to(subject.device), modules)
    return {name: heard[name].cpu() for name in layers}


def _most_moved(heard: dict[str, Tensor], pairs: int, m: int) -> tuple[list[list[dict[str, Any]]], Tensor]:
    places = [(name, channel) for name, maps in heard.items() for channel in range(maps.shape[1])]
    if not places:
        return [[] for _ in range(pairs)], torch.zeros(2, pairs, 0, 1, 1)
    change = torch.cat([change_of(maps[:pairs], maps[pairs:]) for maps in heard.values()], dim=1)
    # A stable sort: equal changes keep the order of the layers.
    order = change.sort(dim=1, descending=True, stable=True).indices[:, :m]
    size = _common_size(heard)
    moved, kept = [], []
    for row, best in enumerate(order.tolist()):
        own = [places[place] for place in best]
        moved.append(
            [_entry(name, channel, change[row, place]) for (name, channel), place in zip(own, best, strict=True)]
        )
        kept.append(torch.stack([_resized(heard[name][[row, pairs + row], channel], size) for name, channel in own], 1))
    return moved, torch.stack(kept, 1)


def _entry(layer: str, channel: int, change: Tensor) -> dict[str, Any]:
    return {"layer": layer, "channel": channel, "change": float(change)}


def _common_size(heard: dict[str, Tensor]) -> tuple[int, int]:
    height = max(maps.shape[2] for maps in heard.values())
    width = max(maps.shape[3] for maps in heard.values())
    return min(height, LARGEST_MAP), min(width, LARGEST_MAP)


def _resized(pair: Float32[Tensor, "two h w"], size: tuple[int, int]) -> Float32[Tensor, "two p q"]:
    return F.interpolate(pair[:, None], size=size, mode="nearest")[:, 0]
