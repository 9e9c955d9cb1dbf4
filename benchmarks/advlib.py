"""adv-lib, module by module: its package imports torchvision and visdom, which its attacks have no need of."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

_PACKAGES = ("adv_lib", "adv_lib.attacks", "adv_lib.attacks.carlini_wagner", "adv_lib.utils")


def load(module: str) -> ModuleType:
    """Return `adv_lib.attacks.<module>`, its packages' own `__init__` left out and visdom's name left empty.

    Raises:
        ImportError: adv-lib is not installed.
    """
    _lay_out()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it compares versions by distutils
        return importlib.import_module(f"adv_lib.attacks.{module}")


@cache
def _lay_out() -> None:
    """Put packages without their own contents in place, once."""
    spec = importlib.util.find_spec("adv_lib")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("adv-lib is not installed; `make bench` installs it")
    root = Path(spec.submodule_search_locations[0]).parent
    for name in _PACKAGES:
        bare = ModuleType(name)
        bare.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules.setdefault(name, bare)
    sys.modules.setdefault("visdom", ModuleType("visdom"))
