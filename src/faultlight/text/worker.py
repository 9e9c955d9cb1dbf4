"""A process of its own that computes the gradient of a share of each batch.

Not a thread: what is done character by character is short, and Python runs one thread at a time. Not a forked copy
either, for a process that has used several threads cannot safely be copied. Jobs and answers go over the worker's
standard input and output, pickled; it ends when its input does, so none outlives a parent that was killed.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import faultlight
from faultlight.errors import FaultlightError
from faultlight.runtime import keep_allocator
from faultlight.text.alphabet import Alphabet
from faultlight.text.model import CharModel
from faultlight.text.shape import Shape
from faultlight.text.share import Found, Share, share_gradient

_SERVE = "from faultlight.text.worker import serve; serve()"


class Worker:
    """The parent's end of such a process.

    Args:
        alphabet: of the model.
        shape: of the model; its weights are sent with each share.
    """

    def __init__(self, alphabet: Alphabet, shape: Shape):
        packages = str(Path(faultlight.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
        # A session of its own, since Ctrl-C is for the parent, which finishes the step.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self._send((alphabet, shape))

    def ask(self, model: CharModel, share: Share) -> None:
        """Hand over the weights as they stand and a share of the batch; the answer is fetched by `answer`."""
        self._send((parameters_to_vector(model.parameters()).detach(), model.training, share))

    def answer(self) -> Found:
        """Return what was computed for the share handed over last."""
        try:
            found: Found | str = pickle.load(self._stream("stdout"))
        except (EOFError, pickle.UnpicklingError):  # nothing came, or the beginning of an answer
            raise self._lost() from None
        if isinstance(found, str):
            raise RuntimeError(f"the gradient of a share of the batch could not be computed:\n{found}")
        return found

    def close(self) -> None:
        """End the process."""
        for name in ("stdin", "stdout"):
            with suppress(BrokenPipeError):
                self._stream(name).close()
        self._process.wait()

    def _send(self, content: Any) -> None:
        stream = self._stream("stdin")
        try:
            pickle.dump(content, stream, protocol=pickle.HIGHEST_PROTOCOL)
            stream.flush()
        except BrokenPipeError:
            raise self._lost() from None

    def _stream(self, name: str) -> Any:
        return getattr(self._process, name)

    def _lost(self) -> FaultlightError:
        code = self._process.wait()
        why = f"was killed by signal {-code}, perhaps for want of memory" if code < 0 else f"ended with code {code}"
        return FaultlightError(
            f"a process that computed a share of each batch {why}; --resume goes on from the state kept last."
        )


def serve() -> None:
    """Answer one job after the other until there is no more input."""
    # Answers alone may go to standard output: whatever else is printed goes to standard error.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    keep_allocator()
    try:
        model = CharModel(*pickle.load(sys.stdin.buffer))
        while True:
            pickle.dump(_answer(model, *pickle.load(sys.stdin.buffer)), answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):  # the parent has ended, perhaps in mid-sentence
        return


def _answer(model: CharModel, weights: Tensor, training: bool, share: Share) -> Found | str:
    try:
        vector_to_parameters(weights, model.parameters())
        return share_gradient(model.train(training), share)
    except Exception:  # whatever it is, it is the parent that must say it
        return traceback.format_exc()
