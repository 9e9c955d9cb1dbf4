"""A trained autoencoder as one HTML page: what its kernels answer to, what its code is worth, what it loses."""

from __future__ import annotations

import base64
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup

from faultlight import files
from faultlight.autoencoder import analysis
from faultlight.autoencoder.look import before_after, first_of_class, kernels, maps, stacked
from faultlight.autoencoder.measure import decibels, errors, restore
from faultlight.autoencoder.nets import Net, parameters_of
from faultlight.autoencoder.saved import facts_of, load_autoencoder
from faultlight.autoencoder.sentences import sentences
from faultlight.autoencoder.tampering import tamper
from faultlight.data.images import Images
from faultlight.report import assets
from faultlight.report.environment import templates
from faultlight.views._result import ViewResult

SCHEMA = 1
PAGE, RECORD = "page.html", "analysis.json"
_SHOWN = 8
_SCRIPTS = ("theme.js",)
# What is shown of an image when nobody names a class: CIFAR-10's first.
_SAMPLE = "airplane"


def write_page(
    run: Path, images: Images, learnt: Images, out: Path, *, sample: str = "", seed: int = 0
) -> dict[str, Any]:
    """Analyse a trained network and write page.html, analysis.json, and every figure with its arrays.

    Args:
        run: the folder that training wrote.
        images: clean test images, which everything is measured on.
        learnt: training images, for the linear code that the network is held against.
        out: where to; kernels, activations and before-after come as npz, JSON, PNG and SVG.
        sample: the class whose first image is followed through the layers; "" for the airplane, or the first class.
        seed: of the noise in the pictures.

    Returns:
        What analysis.json holds.

    Raises:
        InputError: the folder holds no autoencoder, the images do not fit it, or there is no such class.
    """
    net, facts = load_autoencoder(run), facts_of(run)
    restored = restore(net, images.x)
    chosen = first_of_class(images, sample or _usual_sample(images))
    views = {"before-after": _pictures(net, images, facts, seed), "kernels": kernels(net), "maps": maps(net, chosen)}
    record = {
        "schema": SCHEMA,
        "kind": "autoencoder page",
        "run": run.name,
        "recipe": facts["recipe"],
        "data": images.name,
        "sample": {"class": images.classes[int(chosen.y[0])], "id": int(chosen.ids[0])},
        **_measured(net, images, restored, learnt),
    }
    said = sentences(record)
    record["sentences"] = [sentence for section in said.values() for sentence in section]
    figures = {name: _png(view.save(out)) for name, view in views.items()}
    files.write_json(out / RECORD, record)
    files.write_text(out / PAGE, _render(record, said, figures, views["maps"].text()))
    return record


def _measured(net: Net, images: Images, restored: torch.Tensor, learnt: Images) -> dict[str, Any]:
    x, channels = images.x, images.shape[0]
    mse = float(errors(restored, x).mean())
    code = analysis.code_of(net, x[:1])
    numbers = code[0].numel()
    deep = net.blueprint.family == "encoder-decoder"
    skips, residual = deep and net.blueprint.skips, deep and net.blueprint.residual
    return {
        "n": len(images),
        "learnt": len(learnt),
        "parameters": parameters_of(net),
        "mse": mse,
        "psnr": decibels(mse),
        "variance": _variance(x),
        "code_numbers": numbers,
        "pixels": x[0].numel(),
        "skips": skips,
        "residual": residual,
        "principal_mse": None if skips or residual else analysis.principal_error(learnt.x, x, numbers),
        "ends": [
            {
                "name": name,
                "reads": place == 0,
                "kernels": [asdict(each) | {"kind": each.kind} for each in analysis.kernel_facts(weight)],
            }
            for place, (name, weight) in enumerate(analysis.ends(net, channels).items())
        ],
        "code": [asdict(each) for each in analysis.code_facts(net, x)],
        "classes": analysis.by_class(images, restored),
        "frequencies": analysis.by_frequency(x, restored),
    }


def _variance(x: torch.Tensor) -> float:
    """Return the mean squared distance of images from their mean, which in float64 is 0 where all are alike."""
    return float((x.double() - x.double().mean(0)).square().mean())


def _pictures(net: Net, images: Images, facts: dict[str, Any], seed: int) -> ViewResult:
    """Return before and after: of clean images where nothing else was learnt, else a few rows for each noise."""
    learnt = [(each["kind"], each["high"]) for each in facts["tamper"] if each["kind"] != "adversarial"]
    if not learnt:
        shown = images.first(_SHOWN)
        words = f"{len(shown)} test images, what the network makes of them, and the difference."
        return before_after(shown, None, restore(net, shown.x), "before-after", words)
    parts = []
    for kind, strength in learnt:
        shown = images.first(_SHOWN // 2)
        given = tamper(shown, kind, strength, seed).x
        words = f"{len(shown)} test images with {kind} {strength:.3g}: clean, given, restored, difference."
        title = f"{kind} {strength:.3g}"
        parts.append(before_after(shown, given, restore(net, given), kind, words, title))
    return stacked(parts, "before-after")


def _usual_sample(images: Images) -> str:
    return _SAMPLE if _SAMPLE in images.classes else images.classes[int(images.y[0])]


def _render(record: dict[str, Any], said: dict[str, list[str]], figures: dict[str, str], maps: str) -> str:
    own = assets.own_script(_SCRIPTS)
    return (
        templates()
        .get_template("autoencoder.html")
        .render(
            record=record,
            said=said,
            figures=figures,
            maps=maps,
            parts=analysis.PARTS,
            most={
                "code": max(each["mse"] for each in record["code"]) or 1.0,
                "classes": max(each["mse"] for each in record["classes"]) or 1.0,
            },
            style=Markup(assets.style()),
            own_script=Markup(own),
            policy=assets.policy(own),
        )
    )


def _png(paths: list[Path]) -> str:
    """Return the picture among a view's files as text that a page can hold."""
    (drawn,) = (path for path in paths if path.suffix == ".png")
    return "data:image/png;base64," + base64.b64encode(drawn.read_bytes()).decode()
