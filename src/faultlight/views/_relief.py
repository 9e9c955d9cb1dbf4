"""Signed pixels as a picture: grey is zero, and all that is compared shares one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from faultlight.views._mosaic import mosaic
from faultlight.views._result import IMAGE, Panel, Scale


def relief(title: str, values: NDArray[Any], largest: float) -> Panel:
    """Return signed pixels (c, h, w) as a panel.

    Three channels are drawn as colours about grey, which the title then says with the scale; of any other number, the
    one of greatest magnitude at each pixel, on the diverging map. NaN is paper.

    Args:
        title: what is seen.
        values: the numbers.
        largest: the magnitude from which on colours are full, shared by all that is compared.
    """
    if len(values) == 3:
        colours = (0.5 + values.transpose(1, 2, 0) / (2 * largest or 1.0)).clip(0, 1)
        return Panel(f"{title} (grey 0, full colour ±{largest:.3g})", np.nan_to_num(colours, nan=1.0), IMAGE)
    strongest = np.nan_to_num(np.abs(values), nan=-1.0).argmax(0)[None]
    return Panel(title, np.take_along_axis(values, strongest, axis=0)[0], Scale("signed", -largest, largest))


def sheet(pictures: NDArray[Any], columns: int) -> NDArray[Any]:
    """Return pictures (k, c, h, w) side by side as one (c, p, q), `columns` to a row, lines of NaN between them."""
    return np.stack([mosaic(pictures[:, channel], columns) for channel in range(pictures.shape[1])])
