"""The script that the page prints, with which anyone can re-check the adversarial images without Faultlight."""

from __future__ import annotations

from faultlight.report.records import Verdict

_NORMS = {
    "linf": "delta.abs().amax(1)",
    "l2": "delta.norm(dim=1)",
    "l1": "delta.abs().sum(1)",
    "l0": "(twins - clean).ne(0).any(1).flatten(1).sum(1)",
}
_SCRIPT = """\
import torch
from safetensors.torch import load_file

net = ...  # your net: pixels (n, c, h, w) in [0, 1] in, logits out
found = load_file("arrays/adversarial.safetensors")
twins, clean, y = found["x"], found["clean"], found["y"]  # found["ids"]: their places in the data set's file
delta = (twins.double() - clean.double()).flatten(1)
with torch.no_grad():
    fooled = net.eval()(twins).argmax(1) != y
allowed = ({size} <= {epsilon!r} + 1e-6) & (twins.flatten(1).amin(1) >= 0) & (twins.flatten(1).amax(1) <= 1)
print(f"{{int((fooled & allowed).sum())}} of {{len(y)}} claimed breaks hold")
"""


def recheck_script(verdict: Verdict) -> str:
    """Return a script in plain torch that counts how many of the claimed breaks hold."""
    return _SCRIPT.format(size=_NORMS.get(verdict.norm, "delta.abs().amax(1)"), epsilon=verdict.epsilon)
