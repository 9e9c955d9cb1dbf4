"""The report's page: whole, true to its records, honest about what is missing, and inert whatever the names are."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faultlight.report import reading
from faultlight.report.charts.flows import DARKEST
from faultlight.report.write import write_report
from report_fixture import DIGITS, HOSTILE, Plan, write_run
from report_reader import Page, read_page

RECORDS = {
    "verdict": "verdict.json",
    "stamp": "stamp.json",
    "curve": "records/curve.json",
    "probes": "records/probes.json",
    "checks": "records/checks.json",
    "model": "records/model.json",
    "gallery": "records/gallery.json",
}
SECTIONS = ["verdict", "curve", "probes", "flows", "gallery", "network", "reproduce", "glossary"]
COLOUR = Plan(n=300, colour=True, side=32, gallery=24, channels=6, certified=True, name="zoo:resnet18")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("report") / "run", Plan(certified=True))
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return read_page(run / "report.html")


def records_of(run: Path) -> dict[str, Any]:
    return {name: json.loads((run / path).read_text(encoding="utf-8")) for name, path in RECORDS.items()}


def at(records: Any, path: str) -> Any:
    for step in path.split("."):
        records = records[int(step)] if isinstance(records, list) else records[step]
    return records


def in_ledger(run: Path, query: str) -> list[Any]:
    base = sqlite3.connect(run / "ledger.sqlite")
    rows = base.execute(query).fetchall()
    base.close()
    return rows


def number_in(text: str) -> tuple[float, float]:
    """Return the number a text shows, and half of its last digit."""
    digits = text.replace("\u202f", "").replace(",", "").replace("−", "-").rstrip("%s")
    mantissa, _, exponent = digits.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(digits), 0.5 * 10.0 ** (int(exponent or 0) - decimals)


def test_every_section_is_there_in_order_and_linked(page: Page) -> None:
    assert [each.attributes["id"] for each in page.all("section") if "id" in each.attributes] == SECTIONS
    links = [each.attributes["href"] for each in page.all("a") if "nav" in each.ancestors]
    assert links == [f"#{name}" for name in SECTIONS]
    assert len(page.all("main")) == len(page.all("nav")) == len(page.all("header")) == len(page.all("footer")) == 1


def test_every_identifier_is_unique(page: Page) -> None:
    outside = [each for each in page.elements if "template" not in each.ancestors]
    names = [each.attributes["id"] for each in outside if "id" in each.attributes]
    assert len(names) == len(set(names))


def test_the_first_screen_says_what_the_verdict_says(run: Path, page: Page) -> None:
    verdict = records_of(run)["verdict"]
    assert page.one("h1").text == verdict["sentence"]
    assert page.one("div", class_="status sound").text.split()[0] == "Sound"
    for path in ("clean", "attacked", "certified"):
        for part in ("value", "low", "high", "count"):
            assert page.all("span", data_record=f"verdict.{path}.{part}"), f"{path}.{part} is not shown"
    for finding in verdict["findings"]:
        assert finding["evidence"] in page.text


def test_every_number_shown_equals_its_record(run: Path, page: Page) -> None:
    records = records_of(run)
    numbers = [each for each in page.elements if "data-record" in each.attributes]
    assert len(numbers) > 700
    for each in numbers:
        value = at(records, each.attributes["data-record"])
        assert json.loads(each.attributes["data-value"]) == value, each
        shown, half = number_in(each.text)
        scale = 100 if each.attributes["data-kind"] in ("percent", "confidence") else 1
        rounding = max(half, abs(scale * value) * 0.5e-2 if each.attributes["data-kind"] == "plain" else 0)
        assert abs(shown - scale * value) <= rounding * 1.000001, each


def test_every_number_of_the_records_is_shown(run: Path, page: Page) -> None:
    records = records_of(run)
    shown = {each.attributes["data-record"] for each in page.elements if "data-record" in each.attributes}
    wanted = [f"probes.probes.{i}.{key}" for i in range(4) for key in ("tried", "broke", "forwards", "backwards")]
    wanted += [f"curve.points.{i}.{key}" for i in range(10) for key in ("standing", "n", "value", "low", "high")]
    wanted += ["curve.distances.median", *(f"curve.distances.quantiles.{percent}" for percent in (5, 25, 50, 75, 95))]
    wanted += [f"model.layers.{i}.{key}" for i in range(4) for key in ("neurons", "parameters", "multiply_adds")]
    wanted += ["verdict.n", "verdict.invalid", "verdict.fragile", "verdict.cost.forward", "verdict.cost.backward"]
    for i, item in enumerate(records["gallery"]["items"]):
        wanted += [f"gallery.items.{i}.{key}" for key in ("id", "distance", "margin")]
        wanted += [f"gallery.items.{i}.{key}.{k}" for key in ("confidence", "twin_confidence") for k in range(10)]
        wanted += [f"gallery.items.{i}.moved.{j}.change" for j in range(len(item["moved"]))]
    assert set(wanted) <= shown


def test_the_embedded_records_are_the_records(run: Path, page: Page) -> None:
    records = records_of(run)
    del records["gallery"]
    assert page.data("records") == records


def test_the_curve_is_drawn_from_its_record(run: Path, page: Page) -> None:
    records = records_of(run)
    chart = page.data("charts")["curve"]
    drawn = [{key: point[key] for key in point if key != "text"} for point in chart["data"]["values"]]
    assert drawn == [{key: point[key] for key in point if key != "text"} for point in records["curve"]["points"]]
    assert [point["text"] for point in chart["data"]["values"]][:4] == ["0", "1/255", "2/255", "4/255"]
    marks = [layer["data"]["values"][0] for layer in chart["layer"] if "data" in layer]
    assert marks[0] == {"at": records["curve"]["audit_epsilon"], "text": "audited ε = 8/255"}
    whole = {"epsilon": records["curve"]["audit_epsilon"], "n": 200} | records["verdict"]["attacked"]
    assert marks[1] == whole


def test_the_steps_of_the_nearest_twins_are_those_of_the_record(run: Path, page: Page) -> None:
    """One step an image, from the clean accuracy on, as far as the axis goes."""
    record, chart = records_of(run)["curve"], page.data("charts")["curve"]
    drawn = [(step["epsilon"], step["value"]) for step in chart["layer"][-1]["data"]["values"]]
    known = list(zip(record["distances"]["values"], record["distances"]["accuracy"], strict=True))
    inside = [pair for pair in known if pair[0] <= record["points"][-1]["epsilon"]]
    assert drawn[0] == (0.0, record["points"][0]["value"])
    assert drawn[1:-1] == inside
    assert drawn[-1] == (record["points"][-1]["epsilon"], inside[-1][1])


def test_a_run_without_distances_says_nothing_of_them(run: Path, tmp_path: Path) -> None:
    """As those of earlier versions are, and interrupted ones; and a median beyond the known twins is no number."""
    for name, change in (("none", None), ("unknown", {"median": None, "quantiles": {"50": None}})):
        folder = tmp_path / name
        shutil.copytree(run, folder)
        record = json.loads((folder / "records/curve.json").read_text())
        record["distances"] = change and record["distances"] | change
        (folder / "records/curve.json").write_text(json.dumps(record))
        text = write_report(folder).read_text(encoding="utf-8")
        assert ("nearest twin" in text.partition('id="probes"')[0]) == bool(change)
        assert ("no twin is known at any distance" in text) == bool(change)


def test_the_flows_are_those_of_the_ledger(run: Path, page: Page) -> None:
    query = "SELECT label, twin_prediction FROM images WHERE status = 'broken'"
    pairs = in_ledger(run, query)
    drawn = {(each["label"], each["twin"]): each["count"] for each in page.data("charts")["flows"]["data"]["values"]}
    assert drawn == {pair: pairs.count(pair) for pair in pairs}


def test_the_histograms_count_every_image_of_the_ledger(run: Path, page: Page) -> None:
    charts = page.data("charts")
    for status, sign in (("standing", -1), ("broken", 1)):
        bars = [bar for bar in charts["margins"]["data"]["values"] if bar["fate"] == status]
        margins = [margin for (margin,) in in_ledger(run, f"SELECT margin FROM images WHERE status = '{status}'")]
        assert sum(bar["count"] for bar in bars) == len(margins) > 0
        assert all(sign * bar[end] >= -1e-12 for bar in bars for end in ("low", "high")), "a bar crosses the boundary"
        assert {sign * margin > 0 for margin in margins} == {True}
    distances = in_ledger(run, "SELECT distance FROM images WHERE status = 'broken'")
    assert sum(bar["count"] for bar in charts["distances"]["data"]["values"]) == len(distances)


def test_the_fates_are_those_of_the_ledger(run: Path, page: Page) -> None:
    shown = {
        each.attributes["data-ledger"]: int(each.text) for each in page.elements if "data-ledger" in each.attributes
    }
    counted = dict(in_ledger(run, "SELECT status, count(*) FROM images GROUP BY 1"))
    assert shown == {"standing": 0, "broken": 0, "misclassified": 0, "invalid": 0} | counted


def test_a_card_and_a_detail_for_every_failure(run: Path, page: Page) -> None:
    items = records_of(run)["gallery"]["items"]
    assert (
        len(page.all("template"))
        == len([e for e in page.elements if e.attributes.get("class") == "card"])
        == len(items)
    )
    for i, item in enumerate(items):
        card = page.one("li", id=f"card-{i}")
        assert card.attributes["data-by"] == item["broken_by"]
        assert DIGITS[item["label"]] in card.text
        assert DIGITS[item["twin_prediction"]] in card.text
        assert float(card.attributes["data-margin"]) == item["margin"]


def test_every_picture_says_what_it_is(page: Page) -> None:
    pictures = page.all("img")
    assert all(each.attributes["alt"] for each in pictures)
    assert all(
        each.attributes["src"].startswith("data:image/png;base64,") for each in pictures if "src" in each.attributes
    )
    assert "all zero" in page.all("template")[0].text


def test_nothing_is_asked_of_anyone(page: Page) -> None:
    for each in page.elements:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            assert re.match(r"data:|#|$", each.attributes.get(name, "")), each
    styles = page.one("style").text
    assert "url(" not in styles
    assert "@import" not in styles
    assert "sourceMappingURL" not in page.html


def test_the_policy_admits_these_scripts_and_no_request(page: Page) -> None:
    policy = page.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    scripts = [each.text for each in page.all("script") if "type" not in each.attributes]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts}
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert set(parts["script-src"].split()) == hashes
    assert parts["default-src"] == "'none'"
    assert "connect-src" not in parts


def test_the_command_and_a_script_to_check_it_are_given(page: Page) -> None:
    assert "faultlight audit zoo:digits-cnn --data digits --threat linf:8/255 --n 200" in page.text
    compile(next(each.text for each in page.all("pre") if "safetensors" in each.text), "recheck", "exec")


def test_a_run_written_twice_gives_the_same_page(run: Path, page: Page) -> None:
    assert write_report(run).read_text(encoding="utf-8") == page.html


def test_a_page_of_many_colour_failures_stays_small(tmp_path: Path) -> None:
    html = write_report(write_run(tmp_path / "run", COLOUR)).read_bytes()
    assert len(html) <= 3_000_000
    assert html.count(b"<template ") == 24, "not every failure of a default audit was drawn"


def test_a_page_too_small_for_its_failures_says_so(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.setattr("faultlight.report.page.SIZE_LIMIT", 1_000_000)
    page = read_page(write_report(tmp_path / "run"))
    drawn = len(page.all("template"))
    assert 0 < drawn < 24
    assert len(page.html.encode()) <= 1_000_000 + 300, "beyond the limit by more than the note that says so"
    assert f"{drawn} of the 24 recorded failures are drawn" in page.text


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("records/curve.json", "has recorded no curve"),
        ("records/probes.json", "has recorded no attack"),
        ("records/gallery.json", "has recorded no gallery"),
        ("records/model.json", "has recorded no layer table"),
        ("arrays/gallery.safetensors", "pictures (arrays/gallery.safetensors) are not"),
        ("ledger.sqlite", "ledger of images (ledger.sqlite) is not"),
        ("stamp.json", "command line is not recorded"),
    ],
)
def test_what_is_missing_is_said_to_be_missing(run: Path, page: Page, tmp_path: Path, path: str, said: str) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / path).unlink()
    assert said not in page.text
    assert said in read_page(write_report(tmp_path / "run")).text


def test_every_check_is_listed_with_what_it_saw(run: Path, page: Page, tmp_path: Path) -> None:
    for check in records_of(run)["checks"]["checks"]:
        for said in check.values():
            assert said in page.text
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "records" / "checks.json").unlink()
    assert "what each saw" in page.text
    assert "what each saw" not in read_page(write_report(tmp_path / "run")).text


def test_a_run_with_nothing_but_a_verdict_is_still_a_page(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "verdict.json", tmp_path / "verdict.json")
    page = read_page(write_report(tmp_path))
    assert page.one("h1").text == records_of(run)["verdict"]["sentence"]
    assert page.data("charts") == {}
    assert len(page.html) < 100_000, "the chart runtime is carried for no chart"


def test_all_pages_share_one_head() -> None:
    folder = Path(reading.__file__).parent / "templates"
    pages = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.html")}
    assert [name for name, text in pages.items() if "<!doctype" in text] == ["head.html"]
    assert [name for name, text in pages.items() if 'id="theme"' in text] == ["top.html"]


def test_batches_that_memory_halved_are_told_in_words(run: Path, page: Page, tmp_path: Path) -> None:
    assert "Memory ran out" not in page.text
    verdict = records_of(run)["verdict"] | {"halved": {"apgd-ce": 1, "fab": 3}}
    (tmp_path / "verdict.json").write_text(json.dumps(verdict), encoding="utf-8")
    told = "Memory ran out once in apgd-ce, 3 times in fab; each time half as many images were attacked at once"
    assert told in read_page(write_report(tmp_path)).text


def test_an_empty_gallery_is_no_missing_one(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/records/gallery.json").write_text('{"schema": 1, "items": []}')
    (tmp_path / "run/arrays/gallery.safetensors").unlink()
    assert "no image was broken" in read_page(write_report(tmp_path / "run")).text


def test_an_incomplete_run_is_marked(page: Page, tmp_path: Path) -> None:
    stopped = read_page(write_report(write_run(tmp_path / "run", Plan(complete=False))))
    assert "This run is incomplete." in stopped.text
    assert "This run is incomplete." not in page.text


def test_a_withheld_verdict_shows_no_attacked_figure(tmp_path: Path) -> None:
    page = read_page(write_report(write_run(tmp_path / "run", Plan(status="withheld"))))
    assert not [each for each in page.elements if "verdict.attacked" in each.attributes.get("data-record", "")]
    assert "Attacked" in page.text
    assert page.one("div", class_="status withheld").text.split()[0] == "Withheld"
    assert "fatal" in page.text


def test_many_classes_are_shown_as_their_largest_flows(tmp_path: Path) -> None:
    plan = Plan(n=150, classes=[f"class {i}" for i in range(40)], colour=True, gallery=3, channels=1)
    run = write_run(tmp_path / "run", plan)
    page = read_page(write_report(run))
    values = page.data("charts")["flows"]["data"]["values"]
    assert len(values) == 20
    assert [value["count"] for value in values] == sorted((value["count"] for value in values), reverse=True)
    for i, item in enumerate(records_of(run)["gallery"]["items"]):
        shown = page.all("li", class_="true") + page.all("li", class_="read")
        records = [f"gallery.items.{i}.twin_confidence.{item[key]}" for key in ("label", "twin_prediction")]
        assert all(page.all("span", data_record=record) for record in records)
        assert len(shown) == 2 * 3
    assert re.search(r"1[2-4] of 40 classes, the highest", page.text)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    plan = Plan(classes=HOSTILE, name=HOSTILE[0])
    page = read_page(write_report(write_run(tmp_path / "run", plan)))
    assert {each.tag for each in page.all("script")} == {"script"}
    assert len(page.all("script")) == 4
    assert not [each for each in page.elements if any(name.startswith("on") for name in each.attributes)]
    assert HOSTILE[0] in page.one("p", class_="subject").text
    assert "\x1b" not in page.html
    assert r"\x1b[31mred" in page.text
    assert "{{ 7 * 7 }} ${7*7} <!--" in page.text


def test_the_embedded_json_cannot_leave_its_element(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Plan(classes=HOSTILE, name="<!--<script>\u2028&amp;"))
    page = read_page(write_report(run))
    for name in ("records", "charts"):
        block = page.one("script", id=name).text
        assert not set("<>&\u2028\u2029") & set(block)
    assert page.data("records")["verdict"]["data"]["classes"] == HOSTILE
    assert page.data("records")["verdict"]["model"]["name"] == "<!--<script>\u2028&amp;"


def test_writing_a_report_never_imports_torch(run: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from faultlight.report.write import write_report;"
        f"write_report(Path({str(run)!r}));"
        "heavy = {'torch', 'torchvision', 'matplotlib.pyplot', 'sklearn', 'faultlight.models'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def colours(style: str, start: str) -> dict[str, str]:
    block = style[style.index(start) :]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block[: block.index("color-scheme")]))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def blend(top: str, bottom: str, opacity: float) -> str:
    pairs = [(int(top[i : i + 2], 16), int(bottom[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(opacity * a + (1 - opacity) * b):02x}" for a, b in pairs)


@pytest.mark.parametrize("theme", [":root {\n  --paper", ':root[data-theme="dark"]'])
def test_every_text_stands_out_from_its_ground(page: Page, theme: str) -> None:
    c = colours(page.one("style").text, theme)
    pairs = [(ink, ground) for ink in ("ink", "ink-2", "accent") for ground in ("paper", "panel", "sunk")]
    pairs += [(name, f"{name}-soft") for name in ("good", "warn", "bad")]
    pairs += [("ink", "accent-soft"), ("ink-2", "accent-soft"), ("paper", "ink")]
    for ink, ground in pairs:
        assert contrast(c[ink], c[ground]) >= 4.5, (ink, ground, contrast(c[ink], c[ground]))
    assert contrast(c["ink"], blend(c["accent"], c["sunk"], DARKEST)) >= 4.5
    for shape in ("clean", "accent"):
        assert contrast(c[shape], c["sunk"]) >= 3, shape


def test_the_dark_theme_is_one_whether_chosen_or_the_system_s(page: Page) -> None:
    style = page.one("style").text
    chosen = colours(style, ':root[data-theme="dark"]')
    assert chosen == colours(style, ':root:not([data-theme="light"])')
    assert len(chosen) > 15
