"""The script that the page prints, with which anyone can re-check the adversarial images without Faultlight."""

from __future__ import annotations

from faultlight.report.records import Verdict

_NORMS = {
    "linf": "delta.abs().amax(1)",
    "l2": "delta.norm(dim=1)",
    "l1": "delta.abs().sum(1)",
    "l0": "(twins - x[ids]).ne(0).any(1).flatten(1).sum(1)",
}
_SCRIPT = """\
import torch
from safetensors.torch import load_file

net, x, y = ...  # your net (pixels in, logits out), your images (n, c, h, w) in [0, 1] and labels, in file order
found = load_file("arrays/adversarial.safetensors")
ids, twins = found["ids"], found["x"]
delta = (twins.double() - x[ids].double()).flatten(1)
with torch.no_grad():
    fooled = net.eval()(twins).argmax(1) != y[ids]
allowed = ({size} <= {epsilon!r} + 1e-6) & (twins.flatten(1).amin(1) >= 0) & (twins.flatten(1).amax(1) <= 1)
print(f"{{int((fooled & allowed).sum())}} of {{len(ids)}} claimed breaks hold")
"""


def recheck_script(verdict: Verdict) -> str:
    """Return a script in plain torch that counts how many of the claimed breaks hold."""
    return _SCRIPT.format(size=_NORMS.get(verdict.norm, "delta.abs().amax(1)"), epsilon=verdict.epsilon)
