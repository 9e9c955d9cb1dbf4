"""How many images give the attacker no usable gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from faultlight import losses
from faultlight.data.images import Images
from faultlight.evaluation.ledger import ImageRow
from faultlight.evaluation.oracle import Model, RecordingOracle, piece_rows

_SAMPLE = 256


def useless_gradients(model: Model, images: Images, rows: list[ImageRow]) -> tuple[int, int]:
    """Return (images whose gradient of the margin is zero or not a number everywhere, images looked at).

    Looked at are the first 256 that are classified correctly.

    Args:
        model: what attacks differentiate, in float32.
        images: the audited images.
        rows: their rows in the ledger, in the same order.
    """
    correct = [i for i, row in enumerate(rows) if row.clean_margin is not None and row.prediction == row.label]
    chosen = torch.tensor(correct[:_SAMPLE], dtype=torch.int64, device=images.x.device)
    if not len(chosen):
        return 0, 0
    x, y = images.x[chosen], images.y[chosen]

    def margin(logits: Tensor, part: slice) -> Tensor:
        return losses.margin(logits, y[part])

    # The oracle hands out 0 where a gradient is not a number, so that one test finds both.
    _, _, gradient = RecordingOracle(model, piece_rows(images.shape, x.device)).differentiate(x, margin)
    return int((gradient == 0).flatten(1).all(1).sum()), len(chosen)
