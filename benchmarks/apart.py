"""A contender in a process of its own: the allocator's setting, the threads and what an import does belong to it all.

A module of the benchmarks that is given `--order JSON` carries the order out and prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_ALLOCATOR = ("MALLOC_", "LD_PRELOAD")


def run_apart(module: str, order: Any, threads: int) -> Any:
    """Return what a module of the benchmarks makes of an order, with glibc's own allocator settings.

    Args:
        module: its name, such as "minimal".
        order: what it is to do, of what JSON can hold.
        threads: of the new process.
    """
    plain = {key: value for key, value in os.environ.items() if not key.startswith(_ALLOCATOR)}
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--order", json.dumps(order)],
        env=plain | {"OMP_NUM_THREADS": str(threads)},
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
