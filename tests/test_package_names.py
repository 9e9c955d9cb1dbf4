"""What the packages of networks that write, draw and restore hand out by name."""

from __future__ import annotations

import importlib
import pkgutil

import pytest


@pytest.mark.parametrize("name", ["text", "gan", "autoencoder"])
def test_no_name_that_a_package_hands_out_is_that_of_a_module_in_it(name: str) -> None:
    """Importing such a module would put it in the name's place."""
    package = importlib.import_module(f"faultlight.{name}")
    modules = {each.name for each in pkgutil.iter_modules(package.__path__)}
    for module in modules:
        importlib.import_module(f"faultlight.{name}.{module}")
    assert not modules & set(package.__all__)
    assert all(callable(getattr(package, each)) for each in package.__all__)
