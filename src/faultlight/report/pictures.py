"""Arrays to PNG pictures, as data URIs: signed arrays diverge about 0, unsigned ones run through a sequential map."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache

import matplotlib
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

SEQUENTIAL = "viridis"
DIVERGING = "PuOr"
# The share of a map left out at each end: the last colours of a diverging map are nearly black.
_LEFT_OUT = {DIVERGING: 0.1}


@dataclass(frozen=True)
class Scale:
    """The numbers that a map's first and last colour stand for; signed scales are symmetric about 0."""

    low: float
    high: float
    signed: bool


@dataclass(frozen=True)
class Picture:
    """A drawn array: its address in the page, its size in pixels, and whether every number in it is 0."""

    uri: str
    width: int
    height: int
    zero: bool = False


def shared_scale(*arrays: Float32[np.ndarray, "*_shape"]) -> Scale:
    """Return the one scale for arrays that are compared: symmetric about 0 where any number is negative."""
    largest = max((float(np.abs(array).max(initial=0.0)) for array in arrays), default=0.0)
    signed = any(bool((array < 0).any()) for array in arrays)
    return Scale(-largest if signed else 0.0, largest, signed)


def photo(x: Float32[np.ndarray, "c h w"]) -> Picture:
    """Draw pixels in [0, 1], rounded to 8 bits: three channels in colour, any other number as their mean in grey."""
    return _picture(_bytes(_colours(x)), zero=False)


def noise(delta: Float32[np.ndarray, "c h w"], largest: float) -> Picture:
    """Draw δ amplified so that ±`largest` fills the range: in colour about mid-grey, or one channel as a signed map."""
    if len(delta) == 1:
        return heat(delta[0], Scale(-largest, largest, signed=True))
    return _picture(_bytes(_colours(0.5 + delta * (amplification(largest)))), zero=not delta.any())


def amplification(largest: float) -> float:
    """Return the factor by which a drawn δ is enlarged: 0.5 / largest, so that ±largest becomes ±½ of the range."""
    return 0.5 / largest if largest > 0 else 1.0


def heat(values: Float32[np.ndarray, "h w"], scale: Scale) -> Picture:
    """Draw an array as a map on the given scale; numbers beyond it take its end colours."""
    span = (scale.high - scale.low) or 1.0
    levels = _bytes((np.nan_to_num(values) - scale.low) / span)
    used, places = np.unique(levels, return_inverse=True)
    # Only the colours that occur are carried: in a small map the whole palette would outweigh the pixels.
    image = Image.fromarray(places.reshape(levels.shape).astype(np.uint8))
    image.putpalette(_palette(DIVERGING if scale.signed else SEQUENTIAL)[used].tobytes())
    return Picture(_uri(image), image.width, image.height, zero=not values.any())


def gradient(name: str, stops: int = 9) -> str:
    """Return a colour map as a CSS gradient, for the bar printed beside the maps."""
    colours = _palette(name)[np.linspace(0, 255, stops).astype(int)]
    return f"linear-gradient(90deg, {', '.join(f'#{bytes(colour).hex()}' for colour in colours)})"


@cache
def _palette(name: str) -> UInt8[np.ndarray, "256 3"]:
    margin = _LEFT_OUT.get(name, 0.0)
    return np.array(matplotlib.colormaps[name](np.linspace(margin, 1 - margin, 256), bytes=True))[:, :3]


def _colours(x: Float32[np.ndarray, "c h w"]) -> Float32[np.ndarray, "h w k"]:
    return np.moveaxis(x, 0, -1) if len(x) == 3 else x.mean(axis=0)[..., None]


def _bytes(values: Float32[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    levels: UInt8[np.ndarray, "*shape"] = (np.clip(np.nan_to_num(values), 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
    return levels


def _picture(pixels: UInt8[np.ndarray, "h w k"], zero: bool) -> Picture:
    image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    return Picture(_uri(image), image.width, image.height, zero)


def _uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
