"""Decoding picture files to pixels in [0, 1]."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image, UnidentifiedImageError

from faultlight.errors import InputError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Named, so that no file can wake a decoder that runs other programs.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MOST_PIXELS = 2**26  # 8,192 × 8,192
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_GREY = ("1", "L", "LA", "I", *_SIXTEEN_BITS)


@dataclass(frozen=True)
class Header:
    """What a picture says of itself before it is decoded: height and width in pixels, and whether it is grey."""

    height: int
    width: int
    grey: bool


def read_header(path: Path) -> Header:
    """Read a picture's header.

    Raises:
        InputError: no picture, or one of more than 67 million pixels (an image bomb).
    """
    with _open(path) as picture:
        return Header(picture.height, picture.width, picture.mode in _GREY)


def read_picture(path: Path, channels: int, resize: tuple[int, int] | None = None) -> Float32[np.ndarray, "c h w"]:
    """Decode a picture to pixels in [0, 1].

    Grey of 16 bits keeps all of them (v / 65535); Pillow reads colour of 16 bits as its upper 8. CMYK, YCbCr and
    palettes become RGB. What is transparent is laid on white: α · v + (1 - α). Only the first frame counts, and a
    note of orientation is not followed.

    Args:
        path: the file.
        channels: 1 for grey (of grey pictures only), 3 for colour.
        resize: height and width to bring it to, by area-aware bilinear interpolation; None to leave it.

    Returns:
        Pixels in [0, 1], float32, shape (channels, h, w).

    Raises:
        InputError: no picture, a truncated one, an image bomb, or pixels of a kind with no agreed range.
    """
    with _open(path) as picture:
        try:
            pixels = _decode(picture)
        except Exception as error:  # decoders fail on damaged files in many ways
            raise InputError(f"{str(path)!r} cannot be decoded: {error}") from error
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if pixels.shape[2] != channels:
        pixels = pixels[..., :1] if channels == 1 else np.repeat(pixels, channels, axis=2)
    return np.ascontiguousarray(_resized(pixels.transpose(2, 0, 1), resize))


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(path, formats=_FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{str(path)!r} has more than the cap of {_MOST_PIXELS:,} pixels (an image bomb)") from error
    except Exception as error:  # Pillow's openers fail on damaged files in many ways
        reason = "is no picture" if isinstance(error, UnidentifiedImageError) else f"cannot be opened: {error}"
        raise InputError(f"{str(path)!r} {reason}") from error
    if picture.width * picture.height > _MOST_PIXELS:
        size = f"{picture.width:,} × {picture.height:,} pixels"
        picture.close()
        raise InputError(f"{str(path)!r} has {size}, more than the cap of {_MOST_PIXELS:,} (an image bomb)")
    return picture


def _decode(picture: Image.Image) -> np.ndarray:
    transparent = "transparency" in picture.info
    if picture.mode in _SIXTEEN_BITS or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        if transparent:
            raise ValueError("grey of 16 bits with a transparent value; save it with 8 bits")
        return _unit(picture, 65535)
    if picture.mode in ("I", "F"):
        raise ValueError(f"its pixels ({picture.mode}, 32 bits) have no agreed range; save it with 8 or 16 bits")
    if transparent or picture.mode in ("LA", "PA", "RGBA", "RGBa"):
        return _on_white(_unit(picture.convert("RGBA"), 255))
    return _unit(picture.convert("L" if picture.mode in _GREY else "RGB"), 255)


def _unit(picture: Image.Image, top: int) -> np.ndarray:
    unit: np.ndarray = np.asarray(picture).astype(np.float32) / np.float32(top)
    return unit


def _on_white(pixels: np.ndarray) -> np.ndarray:
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    laid: np.ndarray = np.clip(alpha * colour + (1 - alpha), 0, 1)
    return laid


def _resized(pixels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or pixels.shape[1:] == size:
        return pixels
    height, width = size
    # Pillow's bilinear widens its support when it shrinks, so nothing aliases; on floats it loses no bits.
    layers = [Image.fromarray(layer).resize((width, height), Image.Resampling.BILINEAR) for layer in pixels]
    whole: np.ndarray = np.clip(np.stack([np.asarray(layer) for layer in layers]), 0, 1)
    return whole
