"""A museum of broken defences, each around one small classifier of the embedded digits.

None of them makes the classifier harder to fool: they hide its gradient, or add luck. An audit must see through each,
or say that it cannot be trusted.

    faultlight audit examples/museum.py:rounded_input --trust --n 100
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from faultlight.data.load import load_data

CLASSES = 10
_LEVELS = torch.arange(1, 16).view(1, 1, -1, 1, 1) / 16


class Defended(nn.Module):
    """A classifier with something done before it, after it, or around it."""

    def __init__(self, classifier: nn.Module, answer: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.classifier, self.answer = classifier, answer
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return what the defence makes of pixels (n, 1, 8, 8)."""
        return self.answer(self.classifier, x)


def undefended() -> nn.Module:
    """The classifier itself."""
    return _trained()


def saturated() -> nn.Module:
    """Sigmoids so steep, around the middle of the two largest logits, that float32 knows only 0 and 1."""
    return Defended(_trained(), _squashed)


def cold_softmax() -> nn.Module:
    """Probabilities at a temperature of 1/100, all 0 or 1 (Carlini & Wagner 2017)."""
    return Defended(_trained(), lambda net, x: functional.softmax(100 * net(x), 1))


def distilled() -> nn.Module:
    """Defensive distillation at a temperature of 100 (Papernot et al. 2016; broken by Carlini & Wagner 2017)."""
    return _trained(temperature=100.0)


def rounded_input() -> nn.Module:
    """Pixels rounded to nine levels (Xu et al. 2018; broken by He et al. 2017)."""
    return Defended(_trained(), lambda net, x: net((x * 8).round() / 8))


def compressed() -> nn.Module:
    """Pixels through JPEG, by PIL (Das et al. 2017; broken by Athalye et al. 2018)."""
    return Defended(_trained(), lambda net, x: net(_jpeg(x)))


def thermometer() -> nn.Module:
    """Pixels as the number of thresholds they exceed (Buckman et al. 2018; broken by Athalye et al. 2018)."""
    return Defended(_trained(), lambda net, x: net((x.unsqueeze(2) > _LEVELS).float().mean(2)))


def noisy() -> nn.Module:
    """Noise added to the pixels, anew at each call (Liu et al. 2018; broken by Athalye et al. 2018)."""
    return Defended(_trained(), lambda net, x: net(x + 0.1 * torch.randn_like(x)))


def randomly_shifted() -> nn.Module:
    """Images enlarged by a little and cut at random (Xie et al. 2018; broken by Athalye et al. 2018)."""
    return Defended(_trained(), _shifted)


def random_ensemble() -> nn.Module:
    """One of three classifiers, by lot, for each call (broken by averaging; He et al. 2017)."""
    return Lot()


def detached() -> nn.Module:
    """A classifier that cuts its own gradient: the plainest masking of all."""
    return Defended(_trained(), lambda net, x: net(x.detach()))


def relu_logits() -> nn.Module:
    """Logits behind a ReLU that holds nearly all of them at 0."""
    return Defended(_trained(), lambda net, x: functional.relu(net(x) - 1))


def k_winners() -> nn.Module:
    """Only the strongest tenth of hidden activations is kept (Xiao et al. 2020; broken by Tramèr et al. 2020)."""
    return _trained(winners=0.1)


def quantised_activations() -> nn.Module:
    """Hidden activations rounded to whole numbers (Rakin et al. 2018)."""
    return _trained(quantised=True)


def huge_logits() -> nn.Module:
    """Logits a million times as large: softmax and its gradient round to 0 and 1."""
    return Defended(_trained(), lambda net, x: 1e6 * net(x))


def abstaining() -> nn.Module:
    """A detector that answers nothing, with equal logits, where the image is not smooth or the net not sure."""
    return Defended(_trained(), _guarded)


EXHIBITS: dict[str, Callable[[], nn.Module]] = {
    found.__name__: found
    for found in (
        saturated,
        cold_softmax,
        distilled,
        rounded_input,
        compressed,
        thermometer,
        noisy,
        randomly_shifted,
        random_ensemble,
        detached,
        relu_logits,
        k_winners,
        quantised_activations,
        huge_logits,
        abstaining,
    )
}


class Lot(nn.Module):
    """One of several classifiers, drawn for each call."""

    def __init__(self) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList([_trained(seed=seed) for seed in range(3)])
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of one of them."""
        logits: Tensor = random.choice(list(self.classifiers))(x)
        return logits


class Winners(nn.Module):
    """Keeps the largest share of the activations of each image, and drops the rest."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Return activations of the same shape."""
        flat = x.flatten(1)
        last = flat.topk(max(1, int(self.share * flat.shape[1])), dim=1).values[:, -1:]
        return (flat * (flat >= last)).view_as(x)


class Whole(nn.Module):
    """Rounds activations to a grid; in training their gradient passes."""

    def forward(self, x: Tensor) -> Tensor:
        """Return activations of the same shape."""
        rounded = (x * 4).round() / 4
        return x + (rounded - x).detach() if self.training else rounded


@cache
def _trained(seed: int = 0, temperature: float = 1.0, winners: float = 0.0, quantised: bool = False) -> nn.Module:
    """Return the classifier, trained in a second or two on the embedded digits; the same each time."""
    images = load_data("digits", split="train")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = _network(winners, quantised)
        if temperature == 1:
            return _fitted(net, images.x, functional.one_hot(images.y, CLASSES).float(), 1.0)
        teacher = _fitted(
            _network(winners, quantised), images.x, functional.one_hot(images.y, CLASSES).float(), temperature
        )
        with torch.no_grad():
            soft = functional.softmax(teacher(images.x) / temperature, 1)
        return _fitted(net, images.x, soft, temperature)


def _network(winners: float, quantised: bool) -> nn.Sequential:
    def activation() -> nn.Module:
        if winners:
            return Winners(winners)
        return nn.Sequential(nn.ReLU(), Whole()) if quantised else nn.ReLU()

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        activation(),
        nn.Conv2d(16, 16, 3, padding=1, stride=2),
        activation(),
        nn.Flatten(),
        nn.Linear(256, 64),
        activation(),
        nn.Linear(64, CLASSES),
    )


def _fitted(net: nn.Module, x: Tensor, y: Tensor, temperature: float) -> nn.Module:
    """Fit class probabilities y with Adam, 30 epochs of batches of 128."""
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(30):
        for rows in torch.randperm(len(x)).split(128):
            loss = functional.cross_entropy(net(x[rows]) / temperature, y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval().requires_grad_(False)


def _jpeg(x: Tensor) -> Tensor:
    pictures = []
    for image in x:
        file = io.BytesIO()
        pixels = (image[0] * 255).round().byte().cpu().numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=75)
        pictures.append(torch.from_numpy(np.asarray(Image.open(file)).copy()).float()[None] / 255)
    return torch.stack(pictures).to(x.device)


def _shifted(net: nn.Module, x: Tensor) -> Tensor:
    larger = functional.interpolate(x, size=random.choice((8, 9)), mode="bilinear", align_corners=False)
    room = functional.pad(larger, (1, 1, 1, 1))
    top, left = random.randint(0, room.shape[2] - 8), random.randint(0, room.shape[3] - 8)
    return net(room[:, :, top : top + 8, left : left + 8]) if random.random() < 0.5 else net(x)


def _squashed(net: nn.Module, x: Tensor) -> Tensor:
    logits = net(x)
    return torch.sigmoid(50 * (logits - logits.topk(2, dim=1).values.mean(1, keepdim=True)))


def _guarded(net: nn.Module, x: Tensor) -> Tensor:
    logits = net(x)
    best = logits.topk(2, dim=1).values
    unsure = (best[:, 0] - best[:, 1]) < 1.0
    return torch.where(unsure[:, None], torch.zeros_like(logits), logits)
