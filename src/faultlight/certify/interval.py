"""Interval bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from faultlight.certify._ball import Ball
from faultlight.certify._margins import Asked, Labels, Margins, margins_from
from faultlight.certify._network import Network
from faultlight.certify._ranges import interval_ranges


@dataclass(frozen=True)
class Interval:
    """Interval arithmetic from the pixels to the last bent layer, and each margin through the linear layers behind it.

    For x in c ± r, z = W·x + b lies in W·c + b ± |W|·r; a ReLU takes ends to ends. The margin z_y − z_j is bounded as
    one linear function of the last hidden layer, which is tighter than the difference of two ranges.

    Source: Gowal et al. 2018, "On the effectiveness of interval bound propagation for training verifiably robust
    models", §3.

    Departures: the ball is cut off at [0, 1]; ranges are widened for the rounding of float32.
    """

    reach: ClassVar[float] = 1e4

    def margins(self, network: Network, ball: Ball, y: Labels, asked: Asked) -> Margins:
        """Return lower bounds of z_y − z_j where asked, (n, classes), in float64; −∞ elsewhere."""
        return margins_from(network, ball, interval_ranges(network, ball), y, asked, {})
