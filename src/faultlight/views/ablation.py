"""What is lost when a layer or a channel is taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from faultlight.data.images import Images
from faultlight.errors import InputError
from faultlight.models.subject import Subject
from faultlight.settings import check_settings
from faultlight.views._chart import Curve, Dots
from faultlight.views._input import check_finite, check_input, listing
from faultlight.views._result import Panel, Scale, ViewResult
from faultlight.views.listening import leaves_of, listen, module_named, modules_of, rows_at_once, uncalled

SHARE = Scale("unsigned", 0.0, 1.0)
# What a module was given and put out → what it shall put out instead; None where the shapes do not allow it.
Edit = Callable[[Tensor, Tensor], Tensor | None]


@dataclass(frozen=True)
class Ablation:
    """The accuracy that is left when a layer, or each channel of one layer, is replaced.

    The output of the module is replaced by zeros, by each channel's mean over the images and places, or by the
    module's own input where that has the same shape ("identity"), while the rest of the net stays. A module that is
    called again within a pass is replaced in one call at a time: "relu", "relu#2", …. Nothing is trained again, as in
    the paper's removal of maps and unlike its removal of layers.

    Arrays, with k layers or channels: `accuracy` and `probability` (k,), the share of images that are classified right
    and the mean probability of the true class, NaN where the shapes do not allow it; `class_accuracy` (k, classes), NaN
    for a class without images; `clean_accuracy`, `clean_probability` (), `clean_class_accuracy` (classes,); `counts`
    (classes,), the images of each class.

    Args:
        layer: replace each channel of this layer, or of a later call of it ("relu#2"), by itself; when left out, each
            layer as a whole.
        by: "zero", "mean" or "identity".

    Raises:
        InputError: the layer is unknown or never called, no layer can be replaced so, the net gives NaN without being
            changed, or there are no images.

    Source: Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 5.1 and table 3.
    Departure: the paper trains the net again without the layer; here the trained net does without it.
    """

    layer: str | None = None
    by: Literal["zero", "mean", "identity"] = "zero"

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, subject: Subject, images: Images) -> ViewResult:
        """Return what is left of the accuracy on images."""
        check_input(subject, images)
        edits = self._edits(_means(subject, images, self._modules(subject)))
        clean = _probabilities(subject, images)
        check_finite(clean, images.ids, "class probabilities")
        left = [_ablated(subject, images, call, edit) for _, call, edit in edits]
        if all(one is None for one in left):
            raise InputError(f"no layer of {subject.name!r} puts out what it takes in; choose by=zero or by=mean.")
        names = [name for name, _, _ in edits]
        arrays = _arrays(images, clean, left)
        facts = {"replaced": names, "by": self.by, "layer": self.layer, "images": len(images)}
        words = _words(images, arrays, names, self.by)
        return ViewResult("ablation", arrays, words, _drawing(images, arrays, names), 1, facts=facts)

    def _modules(self, subject: Subject) -> list[str]:
        return list(leaves_of(subject)) if self.layer is None else [module_named(subject, self.layer)]

    def _edits(self, means: dict[str, Tensor]) -> list[tuple[str, str, Edit]]:
        """Return what is replaced: its name, the call of a module, and how."""
        if self.layer is None:
            return [(name, name, partial(_replaced, self.by, mean, slice(None))) for name, mean in means.items()]
        if self.layer not in means:
            raise uncalled(self.layer, means)
        name, mean = self.layer, means[self.layer]
        channels = range(len(mean))
        return [(f"{name}[{c}]", name, partial(_replaced, self.by, mean, slice(c, c + 1))) for c in channels]


def _replaced(by: str, mean: Tensor, part: slice, given: Tensor, output: Tensor) -> Tensor | None:
    """Return an output with some of its channels replaced."""
    if by == "identity" and given.shape != output.shape:
        return None
    changed = output.clone()
    if by == "identity":
        changed[:, part] = given[:, part]
    elif by == "zero":
        changed[:, part] = 0
    else:
        changed[:, part] = mean[part].view(-1, *[1] * (output.ndim - 2))
    return changed


@torch.no_grad()
def _means(subject: Subject, images: Images, modules: list[str]) -> dict[str, Float32[Tensor, " channels"]]:
    """Return each call's mean over images and places, channel by channel, in the order of the calls."""
    sums, counts = dict[str, Tensor](), dict[str, int]()

    def take(name: str, output: Tensor) -> None:
        if output.ndim > 1:
            flat = output.detach().double().transpose(0, 1).flatten(1)
            sums[name] = sums.get(name, torch.zeros(1)) + flat.sum(1)
            counts[name] = counts.get(name, 0) + flat.shape[1]

    for x in torch.split(images.x, rows_at_once(images.x)):
        listen(subject, x.to(subject.device), modules, take)
    return {name: (total / counts[name]).float() for name, total in sums.items()}


@torch.no_grad()
def _probabilities(subject: Subject, images: Images) -> Float32[Tensor, "n classes"]:
    parts = torch.split(images.x, rows_at_once(images.x))
    return torch.cat([subject(x.to(subject.device)).softmax(1).cpu() for x in parts])


def _ablated(subject: Subject, images: Images, call: str, edit: Edit) -> Tensor | None:
    """Return the probabilities with the output of a call replaced, or None where its shapes do not allow it."""
    with _editing(subject, call, edit) as fits:
        found = _probabilities(subject, images)
    return found if all(fits) else None


@contextmanager
def _editing(subject: Subject, call: str, edit: Edit) -> Iterator[list[bool]]:
    """Replace what a call of a module puts out while the context lasts; the list says, pass by pass, if it could."""
    fits: list[bool] = []
    module, calls = module_named(subject, call), 0
    number = 1 if call == module else int(call.rpartition("#")[2])

    def begin(_net: Any, _given: Any) -> None:
        nonlocal calls
        calls = 0

    def change(_module: Any, given: tuple[Any, ...], output: Any) -> Tensor | None:
        nonlocal calls
        calls += 1
        if calls != number:
            return None
        changes = isinstance(output, Tensor) and bool(given) and isinstance(given[0], Tensor)
        changed = edit(given[0], output) if changes else None
        fits.append(changed is not None)
        return changed

    with ExitStack() as hooks:
        hooks.callback(subject.module.register_forward_pre_hook(begin).remove)
        hooks.callback(modules_of(subject)[module].register_forward_hook(change).remove)
        yield fits


def _arrays(images: Images, clean: Tensor, left: list[Tensor | None]) -> dict[str, NDArray[Any]]:
    lost = torch.full_like(clean, torch.nan)
    shares = [_shares(images, lost if one is None else one) for one in left]
    whole = _shares(images, clean)
    arrays = {name: np.stack([share[name] for share in shares]) for name in whole}
    arrays |= {f"clean_{name}": values for name, values in whole.items()}
    return arrays | {"counts": np.bincount(images.y.cpu().numpy(), minlength=len(images.classes))}


def _shares(images: Images, probabilities: Tensor) -> dict[str, NDArray[Any]]:
    """Return accuracy, mean probability of the true class, and accuracy class by class; NaN where there is none."""
    y = images.y.cpu()
    right = (probabilities.argmax(1) == y).double().where(probabilities.isfinite().all(1), torch.nan)
    sums = torch.zeros(len(images.classes), dtype=torch.float64).index_add(0, y, right)
    own = probabilities.gather(1, y[:, None])[:, 0].double().mean()
    return {
        "accuracy": right.mean().float().numpy(),
        "probability": own.float().numpy(),
        "class_accuracy": (sums / torch.bincount(y, minlength=len(images.classes))).float().numpy(),
    }


def _words(images: Images, arrays: dict[str, NDArray[Any]], names: list[str], by: str) -> str:
    clean = float(arrays["clean_accuracy"])
    instead = {"zero": "zeros", "mean": "the channels' means", "identity": "the layer's input"}[by]
    lines = [f"Accuracy on {len(images)} images {100 * clean:.1f} %; with one replaced by {instead}, the worst first:"]
    order = np.argsort(np.nan_to_num(arrays["accuracy"], nan=2.0), kind="stable")
    rows = [
        f"{names[row]}: {100 * arrays['accuracy'][row]:.1f} %, probability {arrays['probability'][row]:.3f}"
        for row in order
        if np.isfinite(arrays["accuracy"][row])
    ]
    lines.append(listing(rows, 40))
    none = [name for row, name in enumerate(names) if np.isnan(arrays["accuracy"][row])]
    if none:
        lines.append(f"Left alone, for the shapes or the numbers do not allow it: {', '.join(none[:20])}.")
    empty = [images.classes[label] for label in np.flatnonzero(arrays["counts"] == 0)]
    if empty:
        lines.append(f"Classes without images: {', '.join(empty)}.")
    return "\n".join(lines)


def _drawing(images: Images, arrays: dict[str, NDArray[Any]], names: list[str]) -> tuple[Panel | Dots, ...]:
    clean = float(arrays["clean_accuracy"])
    dots = Dots(
        "accuracy without it",
        tuple(names),
        (Curve("accuracy without it", arrays["accuracy"]),),
        levels=((f"{clean:.3f} with everything", clean),),
    )
    shares, absent = arrays["class_accuracy"].T, "no images of the class, or it cannot be replaced"
    return dots, Panel("of each class", shares, SHARE, images.classes, tuple(names), absent, wide=True)
