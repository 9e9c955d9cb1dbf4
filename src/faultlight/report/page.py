"""Records to the page's text: one HTML file that holds everything it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup

from faultlight.progress import inert
from faultlight.report import assets, provenance
from faultlight.report.charts.common import Spec, norm_name, radius_text
from faultlight.report.charts.curve import curve_chart
from faultlight.report.charts.flows import flow_chart
from faultlight.report.charts.histograms import at_the_edge, distance_chart, margin_chart
from faultlight.report.environment import templates
from faultlight.report.gallery import failures, read_arrays
from faultlight.report.numbers import Numbers, percent_digits
from faultlight.report.pictures import amplification
from faultlight.report.plane import dots
from faultlight.report.recheck import recheck_script
from faultlight.report.records import Records
from faultlight.report.table import STATUSES, Summary, summarise

SIZE_LIMIT = 3_000_000
_ARRAYS = "arrays/gallery.safetensors"


def render(records: Records) -> str:
    """Return the whole page, with as many failures drawn as its size allows."""
    ledger = records.run / "ledger.sqlite"
    summary = summarise(ledger) if ledger.is_file() else None
    environment = _environment(records)
    context = _context(records, summary) | _scripts(_charts(records, summary))
    shell = environment.get_template("page.html")
    bare = shell.render(**context, cards=[], details=[])
    drawn = list(_drawn(records, environment, context, SIZE_LIMIT - len(bare.encode())))
    return shell.render(**context, cards=[card for card, _ in drawn], details=[detail for _, detail in drawn])


def _environment(records: Records) -> Environment:
    found = templates()
    asked = records.verdict.threat.partition(":")[2]
    found.globals |= {
        "number": Numbers(records.raw, percent_digits(records.verdict.n)),
        "class_name": lambda label: _class_name(records, label),
        "radius_text": lambda epsilon: radius_text(epsilon, asked),
        "amplification": amplification,
        "feature_dots": dots,
    }
    return found


def _context(records: Records, summary: Summary | None) -> dict[str, Any]:
    verdict = records.verdict
    return {
        "records": records,
        "verdict": verdict,
        "radius": verdict.threat.partition(":")[2],
        "norm": norm_name(verdict.norm),
        "summary": summary,
        "fates": _fates(summary),
        "at_the_edge": summary is not None and at_the_edge(summary, verdict),
        "has_pictures": (records.run / _ARRAYS).is_file(),
        "command": provenance.command_line(records.stamp),
        "stages": provenance.stages(records.stamp),
        "facts": provenance.facts(records.stamp, verdict),
        "training_page": _training_page(records),
        "recheck": recheck_script(verdict),
        # The gallery is left out: its numbers stand in the page already, and for many classes they would fill it.
        "embedded": assets.json_block({name: record for name, record in records.raw.items() if name != "gallery"}),
    }


def _training_page(records: Records) -> str:
    """Return where the page of the model's training is, seen from this one; empty where there is none."""
    folder = records.trained.folder if records.trained else ""
    # Quoted, a folder can be no address of another kind, whatever it is called.
    return quote(f"{folder}/report.html") if folder and (records.run / folder / "report.html").is_file() else ""


def _charts(records: Records, summary: Summary | None) -> dict[str, Spec]:
    verdict, curve = records.verdict, records.curve
    classes = [inert(name) for name in verdict.data.classes]
    found = {
        "curve": curve_chart(curve, verdict) if curve and curve.points else None,
        "flows": flow_chart(summary.flows, classes) if summary and summary.flows else None,
        "margins": margin_chart(summary) if summary else None,
        "distances": distance_chart(summary, verdict) if summary else None,
    }
    return {name: spec for name, spec in found.items() if spec}


def _scripts(charts: dict[str, Spec]) -> dict[str, Any]:
    runtime, own = assets.chart_runtime() if charts else "", assets.own_script()
    return {
        "charts": charts,
        "chart_block": assets.json_block(charts),
        "runtime": Markup(runtime),
        "own_script": Markup(own),
        "style": Markup(assets.style()),
        "policy": assets.policy(runtime, own),
    }


def _drawn(
    records: Records, environment: Environment, context: dict[str, Any], room: int
) -> Iterator[tuple[Markup, Markup]]:
    """Yield each failure's card and detail until the page has no room for the next."""
    path = records.run / _ARRAYS
    if records.gallery is None or not records.gallery.items or not path.is_file():
        return
    templates = [environment.get_template(name) for name in ("card.html", "detail.html")]
    for failure in failures(records.gallery, read_arrays(path, records.gallery)):
        card, detail = (Markup(template.render(**context, failure=failure)) for template in templates)
        room -= len(card.encode()) + len(detail.encode())
        if room < 0:
            return
        yield card, detail


def _fates(summary: Summary | None) -> list[tuple[str, int]]:
    if summary is None:
        return []
    names = [*STATUSES, *(name for name in summary.fates if name not in STATUSES)]
    return [(name, summary.fates.get(name, 0)) for name in names]


def _class_name(records: Records, label: int) -> str:
    classes = records.verdict.data.classes
    return classes[label] if 0 <= label < len(classes) else f"class {label}"
