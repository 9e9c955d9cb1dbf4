"""Which page a run has: every kind of network has one of its own, and `report` writes whichever is due."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def kind_of_run(folder: Path) -> str:
    """Return "gan", "text" or "autoencoder" for what was trained in a folder, and "" for whatever else it holds."""
    from faultlight.train.folder import read_asked

    if (folder / "study.json").is_file():
        return "gan"
    kind = ((read_asked(folder) or {}).get("recipe") or {}).get("kind", "") if folder.is_dir() else ""
    return kind if kind in _PAGES else ""


def write_page_of(folder: Path) -> Path | None:
    """Write the page of a generator, a text model or an autoencoder, as their own verbs do when told nothing else.

    Returns:
        The page, or None for a folder that holds none of these.
    """
    kind = kind_of_run(folder)
    return _PAGES[kind](folder) if kind else None


def check_classifier(folder: Path) -> None:
    """Raise an InputError that names the right verb where a folder holds a network that is no classifier."""
    from faultlight.models.saved import no_classifier

    if kind := kind_of_run(folder):
        raise no_classifier(folder, kind)


def _gan(folder: Path) -> Path:
    from faultlight.report.gan_page import write_gan_page

    return write_gan_page(folder)


def _text(folder: Path) -> Path:
    from faultlight.cli.text import write_view

    return write_view(folder)[0]


def _autoencoder(folder: Path) -> Path:
    from faultlight.cli.autoencoder import write_view

    return write_view(folder)[0]


_PAGES: dict[str, Callable[[Path], Path]] = {"gan": _gan, "text": _text, "autoencoder": _autoencoder}
