"""The provably robust MNIST network of Wong and Kolter (2018), for the weights that its authors published.

    faultlight audit examples/wong_kolter.py:mnist_eps01 --weights FILE.pth --data mnist --threat linf:0.1 --trust

Eric Wong and J. Zico Kolter, "Provable defenses against adversarial examples via the convex outer adversarial
polytope", ICML 2018. Pixels in [0, 1], without normalisation; trained for ε = 0.1 in L∞.
"""

from __future__ import annotations

from torch import nn


def mnist_eps01() -> nn.Module:
    """Return the network, without its weights: two convolutions of stride 2 and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    ).eval()
