"""What the numbers of an autoencoder say, in words; every sentence is made from the record that stands beside it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from faultlight.autoencoder.analysis import PARTS

Record = dict[str, Any]
# A band counts as lost where so large a share of its power is gone.
_LOST = 0.5


def sentences(record: Record) -> dict[str, list[str]]:
    """Return the sentences of each section of the page."""
    return {
        "error": [_error(record), *_baselines(record)],
        "kernels": [each for layer in record["ends"] for each in _kernels(layer)],
        "code": _code(record),
        "classes": _classes(record),
        "frequencies": _frequencies(record),
    }


def _error(record: Record) -> str:
    psnr = f", a PSNR of {record['psnr']:.2f} dB" if record["psnr"] is not None else ""
    images = "test image" + "s" * (record["n"] != 1)
    share = ""
    # Of images that are all alike the error is no share of anything.
    if record["variance"] > 0:
        share = f": {100 * record['mse'] / record['variance']:.1f} % of the images' variance about their mean image"
    return f"On {record['n']:,} {images} the mean squared error is {record['mse']:.5f}{psnr}{share}."


def _baselines(record: Record) -> list[str]:
    numbers, pixels = record["code_numbers"], record["pixels"]
    found = f"The code holds {numbers:,} numbers for the {pixels:,} of an image ({100 * numbers / pixels:.1f} %)."
    return [found, *(_bypassed(record) or _linear(record))]


def _bypassed(record: Record) -> list[str]:
    """Return what reaches the network's output beside the code."""
    ways = []
    if record["skips"]:
        ways.append("maps of the encoder reach the decoder beside the code")
    if record["residual"]:
        ways.append("the image itself bypasses the code, for the network predicts the noise and takes it away")
    said = ", and ".join(ways)
    return [f"{said[0].upper()}{said[1:]}, so the code is not all that it has."] if ways else []


def _linear(record: Record) -> list[str]:
    linear = record["principal_mse"]
    if linear is None:
        return []
    left = f"As many principal components of {record['learnt']:,} training images leave {linear:.5f}"
    if linear == 0:
        return [f"{left}."]
    ratio = record["mse"] / linear
    relation = "less than" if ratio < 1 else "more than"
    return [f"{left}; the network's error is {ratio:.2f} times that, {relation} the best linear code."]


def _kernels(layer: Record) -> list[str]:
    kinds = Counter(kernel["kind"] for kernel in layer["kernels"])
    counts = ", ".join(f"{kinds[part]} {part}" for part in PARTS if kinds[part])
    total = sum(kernel["energy"] for kernel in layer["kernels"])
    parts = {
        part: sum(kernel["energy"] * kernel["shares"][part] for kernel in layer["kernels"]) / total
        for part in PARTS
        if total
    }
    shares = ", ".join(f"{part} {100 * value:.0f} %" for part, value in parts.items())
    verb = "read the image" if layer["reads"] else "draw the image"
    found = [f"The {len(layer['kernels'])} kernels of {layer['name']}, which {verb}, by their largest share: {counts}."]
    if parts:
        found.append(f"Of all their energy: {shares}.")
    edges = [kernel for kernel in layer["kernels"] if kernel["kind"] == "edge"]
    if edges:
        best = max(edges, key=lambda kernel: kernel["shares"]["edge"])
        found.append(
            f"The plainest edge is kernel {best['index']}: {100 * best['shares']['edge']:.0f} % of it is a ramp that "
            f"grows brighter at {_signed(best['angle'])}° (0° is to the right, 90° downwards)."
        )
    return found


def _signed(number: float) -> str:
    return f"{number:.0f}".replace("-", "−")


def _code(record: Record) -> list[str]:
    channels = sorted(record["code"], key=lambda channel: -float(channel["mse"]))
    first, last, whole = channels[0], channels[-1], record["mse"]
    most = f", {first['mse'] / whole:.1f} times that of the whole" if whole else ""
    least = f", {last['mse'] / whole:.2f} times" if whole else ""
    found = [
        f"Without channel {first['index']} of the code the error is {first['mse']:.5f}{most}; "
        f"without channel {last['index']}, which is missed least, {last['mse']:.5f}{least}."
    ]
    dead = [str(channel["index"]) for channel in record["code"] if channel["active"] == 0]
    if dead:
        plural = "s" * (len(dead) > 1)
        found.append(f"Zero on every image measured, and so without use: channel{plural} {', '.join(dead)}.")
    return found


def _classes(record: Record) -> list[str]:
    classes = sorted(record["classes"], key=lambda each: float(each["mse"]))
    best, worst = classes[0], classes[-1]
    if len(classes) < 2:
        return []
    ratio = f", {worst['mse'] / best['mse']:.1f} times as far" if best["mse"] else ""
    return [
        f"Nearest to the image comes {best['name']} ({best['mse']:.5f}), farthest {worst['name']} "
        f"({worst['mse']:.5f}){ratio}."
    ]


def _frequencies(record: Record) -> list[str]:
    bands = record["frequencies"]
    lowest = bands[0]
    found = [
        f"Below {lowest['up_to']:.3f} cycles a pixel the error has {_percent(lowest['ratio'])} of the images' power, "
        f"in the highest band {_percent(bands[-1]['ratio'])}."
    ]
    gone = next((place for place, band in enumerate(bands) if band["ratio"] > _LOST), None)
    if gone:
        starts = bands[gone - 1]["up_to"]
        found.append(
            f"From {starts:.3f} cycles a pixel on, where a wave is {1 / starts:.1f} pixels long, it has more than half "
            f"of it."
        )
    heaviest = max(bands, key=lambda band: float(band["lost"]))
    share = heaviest["lost"] / (sum(band["lost"] for band in bands) or 1.0)
    found.append(
        f"The band up to {heaviest['up_to']:.3f} holds {100 * share:.0f} % of the whole error, the most of all."
    )
    return found


def _percent(share: float) -> str:
    """Return a share in per cent: two digits of it below 10 %, whole numbers from there on."""
    value = 100 * share
    if 0 < value < 1e-4:
        return "less than 0.0001 %"
    return f"{value:,.0f} %" if value >= 10 else f"{value:.2g} %"
