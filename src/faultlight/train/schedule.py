"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from faultlight.train.recipe import Schedule

# A one-cycle run starts at peak / 25 and ends at the start / 10⁴, as in PyTorch's own schedule.
_START = 1 / 25
_END = _START / 1e4


def learning_rate(schedule: Schedule, peak: float, step: int, steps: int) -> float:
    """Return the learning rate of one step.

    The peak stands at step p = max(warmup·steps − 1, 0). Before it, peak·(step + 1)/(p + 1), or a half-cosine from
    peak/25 for "onecycle". From it on, with u = (step − p)/(steps − p): "constant" peak, "linear" peak·(1 − u),
    "cosine" peak·(1 + cos πu)/2, "step" peak, peak/10 from u = ½ and peak/100 from u = ¾, and "onecycle" a half-cosine
    down to peak/250,000 at the last step.

    Args:
        schedule: the shape and its warm-up.
        peak: the largest learning rate.
        step: in [0, steps).
        steps: of the whole run.

    Paper: Smith & Topin 2018, "Super-convergence", section 3, for "onecycle". Departure: momentum stays as it is.
    """
    top = max(schedule.warmup * steps - 1, 0.0)
    if step < top:
        return _rise(schedule, peak, step, top)
    if schedule.name == "onecycle":
        return _cosine(peak, peak * _END, (step - top) / max(steps - 1 - top, 1))
    return _fall(schedule, peak, (step - top) / (steps - top))


def _rise(schedule: Schedule, peak: float, step: int, top: float) -> float:
    if schedule.name == "onecycle":
        return _cosine(peak * _START, peak, step / top)
    return peak * (step + 1) / (top + 1)


def _fall(schedule: Schedule, peak: float, part: float) -> float:
    match schedule.name:
        case "linear":
            return peak * (1 - part)
        case "cosine":
            return _cosine(peak, 0.0, part)
        case "step":
            return peak * 0.1 ** ((part >= 0.5) + (part >= 0.75))
        case _:
            return peak


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
