"""Networks of the library timm, as families of the zoo."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from faultlight.errors import InputError, nearest

PREFIX = "timm/"


@dataclass(frozen=True)
class Timm:
    """A network of timm by its name there, with initial weights; pixels in [0, 1] go in as they are.

    Args:
        classes: the number of logits.
        shape: channels, height and width of the pixels; networks that take one size alone refuse any other.
        architecture: timm's own name, such as "resnet26".
    """

    classes: int = 10
    shape: tuple[int, int, int] = (3, 32, 32)
    architecture: str = ""
    recipe: ClassVar[str] = ""

    def module(self) -> nn.Module:
        """Build the network.

        Raises:
            InputError: timm is not installed, or has no network of that name.
        """
        timm = _timm(self.architecture)
        if not timm.is_model(self.architecture):
            hint = nearest(self.architecture, timm.list_models()).partition("known: ")[0].rstrip(" ;")
            raise InputError(f"timm has no network named {self.architecture!r}; {hint or 'see timm.list_models()'}.")
        found: nn.Module = timm.create_model(
            self.architecture, pretrained=False, num_classes=self.classes, in_chans=self.shape[0]
        )
        return found


def _timm(architecture: str) -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise InputError(
            f"the network '{PREFIX}{architecture}' needs the library timm, which cannot be imported ({error}); install "
            f"it with: pip install 'faultlight[timm]'."
        ) from error
