"""Joining the processes that `torchrun` started, and leaving with one word about why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from faultlight.errors import ExitCode

if TYPE_CHECKING:
    from faultlight.train.ranks import Ranks

_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_MEETING = ("MASTER_ADDR", "MASTER_PORT")
# The first process validates and tests while the others wait; torchrun ends them if it dies.
_PATIENCE = timedelta(days=2)
_SPOKEN = "faultlight/spoken"


def is_launched() -> bool:
    """Return whether torchrun started this process as one of several."""
    return all(name in os.environ for name in (*_PLACE, *_MEETING)) and os.environ["WORLD_SIZE"] != "1"


@contextmanager
def launched(device: str) -> Iterator[Ranks | None]:
    """Join the processes that torchrun started, over gloo and, for GPUs, NCCL; None where it started none.

    When an error, or Ctrl-C, ends them, the first that meets it says so, and the others leave without a word: whatever
    they would say is the same, or that the first is gone.
    """
    if not is_launched():
        yield None
        return
    ranks = _join(device)
    from torch import distributed

    try:
        yield ranks
    except BaseException as error:
        if _has_spoken():
            raise SystemExit(_code(error)) from None
        raise
    distributed.destroy_process_group()


def _join(device: str) -> Ranks:
    import torch  # a typo in the command is answered before this has been loaded

    from faultlight.train.ranks import Ranks

    rank, count, local = (int(os.environ[name]) for name in _PLACE)
    gpu = device.startswith("cuda")
    if gpu and local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_PATIENCE)
    return Ranks(rank, count, local)


def _has_spoken() -> bool:
    from torch.distributed import distributed_c10d

    try:
        return bool(distributed_c10d._get_default_store().add(_SPOKEN, 1) > 1)
    except (RuntimeError, ValueError):
        return False  # nobody can be asked, and an error told twice is better than one that is lost


def _code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return int(ExitCode.INTERRUPTED)
    return int(getattr(error, "exit_code", ExitCode.INTERNAL))
