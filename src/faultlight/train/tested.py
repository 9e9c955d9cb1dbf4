"""What the kept network said of the test images: looked at once, and written down image by image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32, Int64
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from faultlight import files
from faultlight.data.images import Images
from faultlight.models.subject import Subject
from faultlight.views.layers import layer_table

RECORD, ARRAYS, LAYERS = "records/test.json", "arrays/test.safetensors", "records/model.json"
SCHEMA = 1
_BATCH = 500
_WORST = 24


@dataclass(frozen=True)
class Tested:
    """The network's answers, a row an image.

    Args:
        prediction: the class of the largest logit.
        confidence: its softmax probability, in [0, 1].
        loss: cross-entropy, −log of the true class's probability, ≥ 0.
        confusion: how many images of each class (rows) were taken for each class (columns).
    """

    prediction: Int64[Tensor, " n"]
    confidence: Float32[Tensor, " n"]
    loss: Float32[Tensor, " n"]
    confusion: Int64[Tensor, "classes classes"]


def look(subject: Subject, images: Images) -> Tested:
    """Ask the network about each image once, in float32, as an audit would."""
    with torch.no_grad():
        logits = torch.cat([subject(x.to(subject.device)).cpu() for x in torch.split(images.x, _BATCH)])
    classes, prediction, y = len(images.classes), logits.argmax(1), images.y.cpu()
    return Tested(
        prediction=prediction,
        confidence=logits.softmax(1).amax(1),
        loss=functional.cross_entropy(logits, y, reduction="none"),
        confusion=torch.bincount(y * classes + prediction, minlength=classes**2).view(classes, classes),
    )


def write_tested(folder: Path, tested: Tested, subject: Subject, images: Images, validation_count: int) -> None:
    """Write records/test.json, arrays/test.safetensors and the layer table, records/model.json.

    The arrays hold `ids`, `labels`, `predictions`, `confidence` and `loss` of every test image in the file's order,
    and of the 24 with the highest loss, that one first, their rows (`worst`) and pixels (`worst_x`).
    """
    worst = tested.loss.argsort(descending=True, stable=True)[:_WORST]
    arrays = {
        "ids": images.ids,
        "labels": images.y,
        "predictions": tested.prediction,
        "confidence": tested.confidence,
        "loss": tested.loss,
        "worst": worst,
        "worst_x": images.x[worst.to(images.x.device)],
    }
    files.write_bytes(folder / ARRAYS, save({name: each.cpu().contiguous() for name, each in arrays.items()}))
    record = {
        "schema": SCHEMA,
        "name": images.name,
        "split": images.split,
        "classes": list(images.classes),
        "n": len(images),
        "validation_count": validation_count,
    }
    files.write_json(folder / RECORD, record)
    files.write_json(folder / LAYERS, layer_table(subject, images.shape).record())
