"""What a run was made with: enough to repeat it, and to see why a repetition differs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

# What decides which kernels run, and so the last bits of a logit.
_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")


def collect(*, seed: int, device: str, hashes: dict[str, str], timings: dict[str, float]) -> dict[str, Any]:
    """Return what `stamp.json` holds.

    Args:
        seed: the seed of every random choice of the run.
        device: "cpu", "cuda" or "cuda:1", as asked.
        hashes: fingerprints by name, such as {"model": …, "data": …}.
        timings: seconds by stage.
    """
    packages = installed()
    return {
        "schema": 1,
        "faultlight": packages.get("faultlight", ""),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "command": list(sys.argv),
        "versions": {"python": platform.python_version()}
        | {name: packages.get(name, "") for name in ("faultlight", "torch", "numpy")},
        "packages": packages,
        "git": git_state(Path.cwd()),
        "device": {"asked": device, "name": device_name(device)},
        "cpu": cpu(),
        "platform": platform.platform(),
        "hashes": hashes,
        "timings": timings,
    }


def installed() -> dict[str, str]:
    """Return the version of every installed package by its lower-case name, read from metadata without importing."""
    found = {str(each.metadata["Name"]).lower(): each.version for each in distributions() if each.metadata["Name"]}
    return dict(sorted(found.items()))


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return {"commit", "dirty"} of the work tree that `folder` stands in, or None where there is none, or no git."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    status = _git(folder, "status", "--porcelain")
    return {"commit": commit, "dirty": status != ""}


def cpu() -> dict[str, Any]:
    """Return the processor's name, the cores this process may use, and the vector extensions that matter."""
    facts = _cpuinfo()
    flags = facts.get("flags", "").split()
    return {
        "name": facts.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "features": [feature for feature in _CPU_FEATURES if feature in flags],
    }


def device_name(device: str) -> str:
    """Return the name of the chip behind a device: the processor's, or the graphics card's."""
    if not device.startswith("cuda"):
        return str(cpu()["name"])
    # Not imported here: a run on a card has torch loaded, and a stamp must never be what loads it.
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name(device)) if torch else device


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpuinfo() -> dict[str, str]:
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
