"""How feature maps come about: their strongest image and its projection, epoch by epoch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.models.weights import load_weights
from faultlight.settings import check_settings
from faultlight.views._input import check_input, listing
from faultlight.views._mine import Top, mine
from faultlight.views._project import Backward, Others, Units, project
from faultlight.views._rectify import Rule
from faultlight.views._relief import relief
from faultlight.views._result import Panel, ViewResult
from faultlight.views.occlusion import last_map_layer
from faultlight.views.projection import caption

SCALED = (
    "A row is one feature map, and its projections share one scale, uncut: what is pale is weak. Colours grow with the "
    "cube root of the value, so that the weak beginnings are seen. The number above each is its own greatest magnitude."
)


class Stage(NamedTuple):
    """What one checkpoint shows: of each chosen channel the strongest image and its projection."""

    value: Tensor
    image: Tensor
    projection: Tensor


@dataclass(frozen=True)
class Evolution:
    """The strongest image of chosen feature maps at every kept checkpoint of a training, projected to the pixels.

    A map whose projections jump from one epoch to the next has found another strongest image; lower layers settle
    early, upper ones late.

    `faultlight train RECIPE --keep-epochs 0,1,2,5,10` keeps the checkpoints.

    Arrays (e checkpoints, k channels): `projection` (e, k, c, h, w), signed; `activation` (e, k), the greatest of the
    data set; `id` (e, k), the image that gave it; `x` (e, k, c, h, w), its pixels; `channel` (k,). In the drawing a row
    is a channel, a column a checkpoint; the projections of a row share one scale, that of the strongest of them,
    whose colours grow with the cube root of the value, and each title says how far its own go.

    Source: Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 4, figure 4.
    Departure: the paper stretches the contrast of each picture, which makes the noise of the start as strong as what is
    learnt.

    Args:
        checkpoints: the run's folder, or one with weights of the model as .safetensors, in the order of their names.
        layer: the layer's name; when left out the last one with maps of more than one position.
        channels: how many channels: those of the greatest activation at the last checkpoint.
        rule: what a ReLU does to the signal, "deconvnet", "guided" or "gradient".
        others: bends other than ReLU on the way: "refuse" them, or pass their "gradient".

    Raises:
        InputError: no checkpoints, weights that do not fit the model, an unknown layer, a net that bends by more than
            ReLU, activations that are not finite, or no images.
    """

    checkpoints: str | Path
    layer: str | None = None
    channels: int = 6
    rule: Rule = "deconvnet"
    others: Others = "refuse"

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, subject: Subject, images: Images) -> ViewResult:
        """Return the strongest images of the chosen channels at every checkpoint."""
        check_input(subject, images)
        if self.channels < 1:
            raise InputError(f"channels must be 1 or more, not {self.channels}.")
        paths = _paths(Path(self.checkpoints).expanduser())
        layer = self.layer if self.layer is not None else last_map_layer(subject, images.x[:1])
        if layer is None:
            raise InputError(f"the model {subject.name!r} has no layer with maps; name a layer.")
        subjects = [_at(subject, path) for path in paths]
        tops = [mine(stage, images, [layer], k=1)[layer] for stage in subjects]
        channel = tops[-1].value[:, 0].argsort(descending=True, stable=True)[: self.channels]
        backward = Backward(self.rule, self.others)
        stages = [
            _stage(stage, images, layer, top, channel, backward) for stage, top in zip(subjects, tops, strict=True)
        ]
        names = [path.stem for path in paths]
        arrays = _arrays(images, channel, stages)
        facts = {"layer": layer, "rule": self.rule, "others": self.others, "checkpoints": names}
        words = _words(layer, names, backward, arrays)
        panels = _drawing(layer, names, arrays)
        return ViewResult("evolution", arrays, words, panels, len(names), facts=facts, caption=SCALED)


def _paths(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, or of the run in it.

    Raises:
        InputError: there is none.
    """
    inner = folder / "epochs"
    found = sorted((inner if inner.is_dir() else folder).glob("*.safetensors"))
    if not found:
        raise InputError(
            f"there are no checkpoints (.safetensors) in {folder}; train with --keep-epochs 0,1,2,5 to keep some."
        )
    return found


def _at(subject: Subject, path: Path) -> Subject:
    """Return the subject with a checkpoint's weights."""
    module = copy.deepcopy(subject.module)
    load_weights(module, path)
    return Subject(module, subject.classes, subject.name, subject.device)


def _stage(subject: Subject, images: Images, layer: str, top: Top, channel: Tensor, backward: Backward) -> Stage:
    image = top.image[channel, 0]
    projection = project(subject, images, layer, Units(image, channel, top.position[channel, 0]), backward)
    return Stage(top.value[channel, 0], image, projection)


def _arrays(images: Images, channel: Tensor, stages: Sequence[Stage]) -> dict[str, NDArray[Any]]:
    image = torch.stack([stage.image for stage in stages])
    tensors = {
        "projection": torch.stack([stage.projection for stage in stages]),
        "activation": torch.stack([stage.value for stage in stages]),
        "id": images.ids[image],
        "x": images.x[image],
        "channel": channel,
    }
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _words(layer: str, names: Sequence[str], backward: Backward, arrays: dict[str, NDArray[Any]]) -> str:
    ids, activation = arrays["id"], arrays["activation"]
    lines = [caption(backward.rule, layer, backward.others), f"Checkpoints: {', '.join(names)}."]
    changes = (ids[1:] != ids[:-1]).sum(0)
    rows = [
        f"{layer}[{channel}]: activation {activation[0, k]:.4g} at first, {activation[-1, k]:.4g} at last; strongest "
        f"image changed {changes[k]} times in {len(names) - 1}"
        for k, channel in enumerate(arrays["channel"])
    ]
    return "\n".join([*lines, listing(rows)])


def _drawing(layer: str, names: Sequence[str], arrays: dict[str, NDArray[Any]]) -> tuple[Panel, ...]:
    projection = arrays["projection"]
    reach = abs(projection).max((2, 3, 4))
    full = reach.max(0).tolist()
    return tuple(
        relief(f"{layer}[{channel}], {name}: to ±{reach[e, k]:.3g}", _lifted(projection[e, k], full[k]), full[k])
        for k, channel in enumerate(arrays["channel"])
        for e, name in enumerate(names)
    )


def _lifted(values: NDArray[Any], full: float) -> NDArray[Any]:
    """Return full·∛(value / full): signs, 0 and ±full stay, and what is a thousandth of full becomes a tenth."""
    return values if full == 0 else full * np.cbrt(values / full)
