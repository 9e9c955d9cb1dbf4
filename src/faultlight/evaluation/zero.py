"""How many images give the attacker no gradient at all."""

from __future__ import annotations

import torch
from torch import Tensor

from faultlight import losses
from faultlight.data.images import Images
from faultlight.evaluation.ledger import ImageRow
from faultlight.evaluation.oracle import RecordingOracle, piece_rows
from faultlight.models.subject import Subject

_SAMPLE = 256


def zero_gradients(subject: Subject, images: Images, rows: list[ImageRow]) -> tuple[int, int]:
    """Return (images whose gradient of the margin is zero everywhere, images looked at).

    Looked at are the first 256 that are classified correctly; the gradient is the untouched model's, in float32.
    """
    correct = [i for i, row in enumerate(rows) if row.clean_margin is not None and row.prediction == row.label]
    chosen = torch.tensor(correct[:_SAMPLE], dtype=torch.int64, device=images.x.device)
    if not len(chosen):
        return 0, 0
    x, y = images.x[chosen], images.y[chosen]

    def margin(logits: Tensor, part: slice) -> Tensor:
        return losses.margin(logits, y[part])

    oracle = RecordingOracle(subject, piece_rows(tuple(x.shape[1:]), subject.device))
    _, _, gradient = oracle.differentiate(x, margin)
    return int((gradient == 0).flatten(1).all(1).sum()), len(chosen)
