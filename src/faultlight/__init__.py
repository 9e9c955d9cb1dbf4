"""Faultlight finds where an image classifier breaks, shows why, and mends it.

    import faultlight as fl
    subject = fl.load_model("zoo:mnist-cnn", weights="net.safetensors")
    images = fl.load_data("mnist", split="test", n=1000)
    run = fl.audit(subject, images, threat="linf:0.3", out="runs/a")

Everything is imported on first use, so `import faultlight` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Subject": "faultlight.models.subject",
    "Images": "faultlight.data.images",
    "Threat": "faultlight.threat",
    "load_model": "faultlight.models.load",
    "load_data": "faultlight.data.load",
    "attack": "faultlight.api",
    "audit": "faultlight.api",
}
_PACKAGES = ("attacks", "certify", "data", "evaluation", "models", "report", "studies", "train", "views")

__all__ = ["__version__", *_HOMES, *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"faultlight.{name}")
    raise AttributeError(f"module 'faultlight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
