"""Random small networks of every kind that certificates know, and points of a ball."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from faultlight import geometry
from faultlight.threat import Threat

SHAPE = (2, 7, 6)
CLASSES = 4


class Residual(nn.Module):
    """Convolutions with batch norm around a shortcut, as functions: relu(b(conv(relu(a(conv(x))))) + shortcut(x))."""

    def __init__(self, stride: int = 2):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, stride, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(2, 4, 1, stride)
        self.a, self.b = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.last = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.b(self.second(functional.relu(self.a(self.first(x)))))
        x = torch.relu(inner + self.shortcut(x))
        logits: Tensor = self.last(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class Normalising(nn.Module):
    """Normalises, pools the largest of overlapping windows, subtracts a branch, and spells everything its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.6]).view(1, 2, 1, 1))
        self.conv = nn.Conv2d(2, 4, 3, padding="same", groups=2)
        self.hidden, self.last = nn.Linear(4 * 4 * 3, 12), nn.Linear(12, CLASSES)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / 0.3
        x = functional.max_pool2d(self.conv(x), 3, stride=2, padding=1)
        x = functional.leaky_relu(x, 0.1) - 0.5 * x.relu()
        x = self.drop(x.view(x.size(0), -1))
        logits: Tensor = self.last(1 - functional.relu(self.hidden(x)))
        return -logits


def dense() -> nn.Module:
    size = SHAPE[0] * SHAPE[1] * SHAPE[2]
    layers = [nn.Flatten(), nn.Linear(size, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 9), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, CLASSES))


def pooled() -> nn.Module:
    first = [nn.Conv2d(2, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(5, 6, 3, padding=2, dilation=2), nn.ReLU(), nn.AvgPool2d(2, stride=1, padding=1)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, CLASSES))


def strided() -> nn.Module:
    layers = [nn.Conv2d(2, 4, 4, stride=3, padding=2), nn.ReLU(), nn.Conv2d(4, 5, (2, 3), padding=(0, 1)), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(5, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Padded(nn.Module):
    """Cuts a column off and adds rows of zeros, as a module and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.conv = nn.ZeroPad2d((-1, 0, 2, 0)), nn.Conv2d(2, 4, 3)
        self.frame = nn.ConstantPad2d(1, 0.0)
        self.hidden, self.last = nn.Linear(4 * 8 * 2, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.constant_pad_nd(
            functional.relu(self.conv(functional.pad(self.frame(self.pad(x)), (-1, -1, -1, -1)))), (0, -1, -1, 2)
        )
        logits: Tensor = self.last(functional.relu(self.hidden(x.flatten(1))))
        return logits


KINDS = {
    "dense": dense,
    "padded": Padded,
    "pooled": pooled,
    "strided": strided,
    "residual": Residual,
    "normalising": Normalising,
}


class Centred(nn.Module):
    """A net less its mean answer: untrained nets answer the same for every image."""

    def __init__(self, inner: nn.Module, x: Tensor):
        super().__init__()
        self.inner = inner
        self.register_buffer("shift", inner(x).mean(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) - self.shift


def net(kind: str, seed: int = 0) -> nn.Module:
    """A net of a kind with random weights and running statistics, whose answers differ between images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = KINDS[kind]().eval()
        with torch.no_grad():
            module(torch.rand(2, *SHAPE))  # lazy layers find their size
            for child in module.modules():
                if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                    child.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
                    child.running_var.uniform_(0.2, 2)  # type: ignore[union-attr]
                    child.weight.normal_()
                    child.bias.normal_(0, 0.3)
                if isinstance(child, nn.Conv2d | nn.Linear):
                    child.weight *= 2
            return Centred(module, torch.rand(64, *SHAPE)).eval().requires_grad_(False)


def pixels(n: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Images some of whose pixels are 0 or 1, where the box cuts a ball off."""
    generator = torch.Generator().manual_seed(seed)
    return (1.4 * torch.rand(n, *shape, generator=generator) - 0.2).clamp(0, 1)


def points(x: Tensor, threat: Threat, count: int, seed: int = 0) -> Tensor:
    """Random points of the balls, (count, n, c, h, w): inside, on the border, and in their corners."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *x.shape, generator=generator)
    noise[::2] = noise[::2].sign()
    noise[::3] *= 10 * (torch.rand(noise[::3].shape, generator=generator) < 0.1)
    scale = threat.epsilon if threat.norm == "linf" else 1.0
    return torch.stack([geometry.project(x + scale * each, x, threat) for each in noise])
