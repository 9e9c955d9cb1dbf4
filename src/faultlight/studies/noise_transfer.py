"""The noise of one image on all others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from faultlight import rng
from faultlight.data.images import Images
from faultlight.evaluation.verdict import percent
from faultlight.studies._case import Bench, Case
from faultlight.studies._search import named, to_the_end
from faultlight.studies._words import array, study_result, table
from faultlight.views._result import Panel, Scale, ViewResult, scale_of


@dataclass(frozen=True)
class NoiseTransfer:
    """The noise that an attack finds for each image, compared with and added to all others: is it universal?

    δᵢ = x'ᵢ − xᵢ; cosine(i, j) = ⟨δᵢ, δⱼ⟩ / ‖δᵢ‖‖δⱼ‖; transfer(i, j) = 1 where clip(xⱼ + δᵢ) is misclassified. The
    control adds the noise with its pixels in random places. Only images that are right without noise take part.

    Source: Moosavi-Dezfooli et al. 2017, "Universal adversarial perturbations", §2 and fig. 7
    (against random noise); Goodfellow et al. 2015, §8, on why noises of one class are alike.

    Args:
        attack: an attack by name, with its default settings; its first run, to the end.
        samples: noises drawn.
    """

    attack: str = "fgsm"
    samples: int = 6

    def __call__(self, case: Case) -> ViewResult:
        """Return the cosines, the transfer matrix, the control and the noises.

        Raises:
            InputError: several models, no image that is classified correctly, an attack not made for the norm.
        """
        bench = case.bench(case.only("noise-transfer"))
        images = bench.standing("noise-transfer")
        noise = to_the_end(bench, images, named(self.attack), case.threat, case.seed).strongest - images.x
        control = shuffled(noise, images.ids, case.seed)
        transfer, by_chance = (added(bench, images, one, case) for one in (noise, control))
        cosine = cosines(noise)
        facts = summary(cosine, transfer, by_chance, images.y)
        return study_result(
            "noise-transfer",
            {
                "ids": images.ids,
                "label": images.y,
                "noise": noise,
                "cosine": cosine,
                "transfer": transfer,
                "control": by_chance,
            },
            _words(self.attack, str(case.threat), len(images), facts),
            [*_matrices(cosine, transfer, by_chance), *self._drawn(images, noise)],
            {"attack": self.attack, "threat": str(case.threat), "n": len(images), **facts},
            columns=3,
            side=2.0,
        )

    def _drawn(self, images: Images, noise: Tensor) -> list[Panel]:
        scale = scale_of(*(array(one) for one in noise[: self.samples].mean(1)))
        shown = zip(images.ids.tolist(), images.y.tolist(), noise[: self.samples], strict=False)
        return [Panel(f"noise of image {image} ({label})", array(one.mean(0)), scale) for image, label, one in shown]


def _matrices(cosine: Tensor, transfer: Tensor, control: Tensor) -> list[Panel]:
    found = Scale("unsigned", 0, 1)
    return [
        Panel("cosine of the noises of images i, j", array(cosine), Scale("signed", -1, 1)),
        Panel("noise of i (row) on image j (column): 1 is misled", array(transfer.float()), found),
        Panel("the same for noise with its pixels shuffled", array(control.float()), found),
    ]


def cosines(noise: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n n"]:
    """Return the cosine of each pair of noises; that with a noise that is zero is 0."""
    flat = noise.flatten(1).double()
    unit = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-300)
    found: Tensor = (unit @ unit.T).float()
    return found


def shuffled(noise: Float32[Tensor, "n c h w"], ids: Int64[Tensor, " n"], seed: int) -> Float32[Tensor, "n c h w"]:
    """Return each noise with its pixels in random places: as long in every norm, but without its drawing."""
    size = noise[0, 0].numel()
    order = rng.bits(rng.key(seed, "control"), ids, torch.zeros_like(ids), size).argsort(1)
    return noise.flatten(2).gather(2, order[:, None].expand(-1, noise.shape[1], -1)).reshape(noise.shape)


def added(bench: Bench, images: Images, noise: Float32[Tensor, "k c h w"], case: Case) -> Bool[Tensor, "k n"]:
    """Return where each noise, added to each image, misleads the judge."""
    return torch.stack([bench.rule(images.x + one, images, case.threat).accepted for one in noise])


def summary(cosine: Tensor, transfer: Tensor, control: Tensor, y: Tensor) -> dict[str, float]:
    """Return the means over pairs of different images, and of the same class."""
    n = len(y)
    other = ~torch.eye(n, dtype=torch.bool, device=y.device)
    alike = (y[:, None] == y[None, :]) & other
    return {
        "own": float(transfer.diagonal().double().mean()),
        "others": _mean(transfer, other),
        "control": _mean(control, other),
        "best": float((transfer & other).double().sum(1).max() / max(1, n - 1)),
        "cosine": _mean(cosine, other),
        "cosine_within_class": _mean(cosine, alike),
        "cosine_between_classes": _mean(cosine, other & ~alike),
    }


def _mean(values: Tensor, where: Tensor) -> float:
    return float(values[where].double().mean()) if where.any() else 0.0


def _words(attack: str, threat: str, n: int, facts: dict[str, float]) -> list[str]:
    rows = [
        ("own image", [percent(facts["own"])]),
        ("other images, mean over noises", [percent(facts["others"])]),
        ("other images, best noise", [percent(facts["best"])]),
        ("other images, its pixels shuffled", [percent(facts["control"])]),
    ]
    angles = (
        f"Cosine of two noises: {facts['cosine']:.3f} on average, {facts['cosine_within_class']:.3f} within a class, "
        f"{facts['cosine_between_classes']:.3f} between classes."
    )
    # Twice the control, so that it is the noise that does it and not its length.
    universal = facts["best"] >= 0.5 and facts["best"] >= 2 * facts["control"]
    verdict = "some are universal" if universal else "none is universal (half of the others, twice the control)"
    return [
        f"The noise of {attack} within {threat} for each of {n} images, added to all others: {verdict}.",
        angles,
        *table("misleads", ["share"], rows),
    ]
