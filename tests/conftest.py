"""What every test shares: shapes checked at each call, a folder for a run, and real data where it is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Nets of a few thousand parameters lose more to waking many threads than they gain. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "2")
# On a busy machine, threads that spin at each barrier cost more than the work.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Every function and dataclass of the package is checked against its annotations, array shapes included, whenever a
# test calls it. It works on the source as it is imported, so it must come before the first import of the package;
# programs that tests start for themselves run without it.
install_import_hook("faultlight", "typechecking.checked")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A folder for one run, not there yet."""
    return tmp_path / "run"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets, given by FAULTLIGHT_DATA; without it the test is skipped."""
    folder = os.environ.get("FAULTLIGHT_DATA", "")
    if not folder:
        pytest.skip("FAULTLIGHT_DATA is not set, so there is no folder of real data sets to read")
    if not Path(folder).is_dir():
        pytest.fail(f"FAULTLIGHT_DATA names {folder}, which is not a folder")
    return Path(folder)
