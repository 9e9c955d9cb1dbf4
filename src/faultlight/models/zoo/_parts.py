"""What several families need."""

from __future__ import annotations

from faultlight.errors import InputError


def after_pooling(name: str, shape: tuple[int, int, int], times: int) -> int:
    """Return how many positions are left of an image after halving its sides a number of times, rounding down.

    Raises:
        InputError: nothing is left; the message says how large an image must be.
    """
    positions = (shape[1] >> times) * (shape[2] >> times)
    if positions == 0:
        least = 2**times
        raise InputError(
            f"the network {name!r} needs images of at least {least}×{least} pixels, not {shape[1]}×{shape[2]}."
        )
    return positions
