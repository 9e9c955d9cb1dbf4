"""What an audit proves before it attacks: certificates for the images that are classified correctly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from faultlight.certify._calls import NoCertificate
from faultlight.certify._network import Network
from faultlight.certify._reading import read_network
from faultlight.certify.certificate import CASCADE, OPEN, certify_images
from faultlight.data.images import Images
from faultlight.evaluation.judge import ROUNDING
from faultlight.evaluation.ledger import Ledger
from faultlight.evaluation.rows import Finding, ImageRow, Proof
from faultlight.evaluation.verdict import CONTRADICTED
from faultlight.models.subject import Subject
from faultlight.progress import Progress
from faultlight.threat import Threat, parse_threat

# The images that are classified with the largest margin, which are tried first: where none of them can be certified,
# none is, and a large net costs seconds.
_SUREST = 3
_MOST_AT_ONCE = 64
# Numbers whose ranges are held at once: 64 MiB of float32.
_HELD = 1 << 24
_NOTE = "certificates"


def certify_audited(subject: Subject, images: Images, threat: Threat, effort: str, ledger: Ledger, quiet: bool) -> None:
    """Certify the images that are classified correctly, as far as certificates reach, into the ledger.

    The surest images are tried first, with every bound. Cheap bounds that prove nothing there are left out for the
    rest; where nothing is proved, the rest is not tried. The choice is written down, and images are taken in groups
    that depend on nothing else, so that a run that was killed goes on to the same ledger.

    Args:
        subject: the model.
        images: the audited images.
        threat: the ball.
        effort: of the audit; a quick one does without certificates.
        ledger: where the clean look is, and the proofs go.
        quiet: show no progress.
    """
    if effort == "quick" or _state(ledger).get("done"):
        return
    try:
        network = read_network(subject.module, images.shape)
    except NoCertificate as error:
        _note(ledger, done=True, why=str(error))
        return
    rows = ledger.images()
    correct = [i for i, row in enumerate(rows) if row.clean_margin is not None and row.prediction == row.label]
    surest = sorted(correct, key=lambda i: (rows[i].clean_margin, rows[i].id))[:_SUREST]
    with Progress(f"certificates at {threat}", len(correct), quiet) as progress:
        _prove(network, images, threat, surest, list(CASCADE), ledger, progress)
        bounds = _useful(ledger, [rows[i] for i in surest])
        if bounds:
            rest = [i for i in correct if i not in set(surest)]
            _prove(network, images, threat, rest, bounds, ledger, progress)
    why = f"none of the {len(surest)} surest images could be certified within {threat.words()}; no other was tried"
    _note(ledger, done=True, why="" if bounds or not correct else why)


def proofs(ledger: Ledger) -> list[Proof]:
    """Return what was proved, where certificates were tried on every image that they could hold for."""
    state = _state(ledger)
    return ledger.proofs() if state.get("done") and not state.get("why") else []


def why_none(ledger: Ledger) -> str:
    """Return why there is no certificate, or "" where there is one or none was asked for."""
    return str(_state(ledger).get("why", ""))


def proven(ledger: Ledger) -> frozenset[int]:
    """Return the ids of the images that are certified."""
    return frozenset(proof.id for proof in ledger.proofs() if proof.holds)


def contradicted(ledger: Ledger, threat: Threat) -> list[int]:
    """Return the ids of certified images that any attempt broke within the ball all the same."""
    covered = proven(ledger)
    broke = [attempt for attempt in ledger.attempts() if attempt.broke and attempt.id in covered]
    same = {text for text in {attempt.threat for attempt in broke} if parse_threat(text).norm == threat.norm}
    near = threat.epsilon * (1 + ROUNDING)
    return sorted({a.id for a in broke if a.threat in same and a.distance is not None and a.distance <= near})


def findings(ledger: Ledger, threat: Threat) -> list[Finding]:
    """Return what the reader must know: an attack that contradicts a proof (fatal), or why there is no certificate."""
    broken, found = contradicted(ledger, threat), []
    if broken:
        count, ids = len(broken), ", ".join(map(str, broken[:10]))
        text = f"{count} images (ids {ids}) were broken within a ball that a certificate says holds no break"
        found.append(Finding(CONTRADICTED, "fatal", text))
    if why_none(ledger):
        found.append(Finding("no-certificate", "info", why_none(ledger)))
    return found


def certificate_record(ledger: Ledger) -> dict[str, Any]:
    """Return the content of records/certificates.json: how many images each bound proved."""
    tried = ledger.proofs()
    counts = Counter(proof.bound for proof in tried if proof.holds)
    bounds = [{"bound": name, "settings": str(CASCADE[name]), "proved": counts[name]} for name in CASCADE]
    return {"schema": 1, "tried": len(tried), "why_none": why_none(ledger), "bounds": bounds}


def _prove(
    network: Network,
    images: Images,
    threat: Threat,
    rows: Sequence[int],
    bounds: Sequence[str],
    ledger: Ledger,
    progress: Progress,
) -> None:
    """Try bounds on rows of the images, a group at a time, each recorded at once."""
    size, held = _at_once(network), {proof.id for proof in ledger.proofs()}
    for start in range(0, len(rows), size):
        chosen = torch.tensor(rows[start : start + size], dtype=torch.int64, device=images.x.device)
        group = images.take(chosen)
        ids = group.ids.tolist()
        if not held.issuperset(ids):
            found = certify_images(network, group.x, group.y, threat, [CASCADE[name] for name in bounds])
            names = ["" if place == OPEN else bounds[place] for place in found.bound.tolist()]
            margins = [margin if abs(margin) < float("inf") else None for margin in found.margin.tolist()]
            ledger.record_proofs(Proof(*fact) for fact in zip(ids, names, margins, strict=True))
        done = ledger.proofs()
        progress.update(len(done), f"{sum(proof.holds for proof in done)} certified")


def _useful(ledger: Ledger, surest: Sequence[ImageRow]) -> list[str]:
    """Return the bounds to try on the rest: the cheapest that proved one of the surest, and all dearer ones."""
    kept: list[str] | None = _state(ledger).get("bounds")
    if kept is None:
        ids = {row.id for row in surest}
        proved = {proof.bound for proof in ledger.proofs() if proof.id in ids and proof.holds}
        names = list(CASCADE)
        first = min((names.index(name) for name in proved), default=len(names))
        kept = names[first:]
        _note(ledger, bounds=kept)
    return kept


def _at_once(network: Network) -> int:
    numbers = 3 * sum(torch.Size(node.shape).numel() for node in network.nodes)
    return max(1, min(_MOST_AT_ONCE, _HELD // numbers))


def _state(ledger: Ledger) -> dict[str, Any]:
    found: dict[str, Any] = ledger.meta().get(_NOTE, {})
    return found


def _note(ledger: Ledger, **changed: Any) -> None:
    ledger.note(_NOTE, {**_state(ledger), **changed})
