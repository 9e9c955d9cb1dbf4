"""The report in Chromium, offline: silent, asking for nothing, usable by mouse, by keys, in both themes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from faultlight.report.write import write_report
from report_fixture import HOSTILE, Plan, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine, so no page can be opened")
WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 380, "height": 800}


@dataclass
class Opened:
    """A page and everything it said or asked for since it was opened."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_run(tmp_path_factory.mktemp("plain") / "run"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = Plan(classes=HOSTILE, name=HOSTILE[1], gallery=6)
    return write_report(write_run(tmp_path_factory.mktemp("hostile") / HOSTILE[3], plan))


def opened(
    browser: Browser, path: Path, scheme: str = "light", size: dict[str, int] | None = None, hash_: str = ""
) -> Opened:
    size = size or WIDE
    context = browser.new_context(
        offline=True,
        color_scheme="dark" if scheme == "dark" else "light",
        viewport=ViewportSize(width=size["width"], height=size["height"]),
        reduced_motion="reduce",
    )
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.said.append(f"{message.type}: {message.text}"))
    found.page.on("pageerror", lambda error: found.said.append(f"error: {error}"))
    found.page.on("dialog", lambda dialog: found.said.append(f"dialog: {dialog.message}"))
    found.page.on("request", lambda request: found.asked.append(request.url))
    found.page.goto(path.as_uri() + hash_)
    found.page.wait_for_selector("html[data-ready]")
    return found


def asked_beside_itself(found: Opened, path: Path) -> list[str]:
    return [url for url in found.asked if url.partition("#")[0] != path.as_uri() and not url.startswith("data:image/")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["plain", "hostile"])
def test_the_page_is_silent_and_asks_for_nothing(
    browser: Browser, scheme: str, which: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(which)
    found = opened(browser, path, scheme)
    page = found.page
    page.locator("#theme").click()
    for summary in page.locator("summary").all():
        summary.click()
    for card in page.locator(".card button").all()[:4]:
        card.click()
        page.keyboard.press("Escape")
    page.locator("[data-chart=curve] svg").hover()
    assert found.said == []
    assert asked_beside_itself(found, path) == []
    assert page.evaluate("window.hacked") is None
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_is_drawn(browser: Browser, plain: Path, scheme: str) -> None:
    page = opened(browser, plain, scheme).page
    for name in ("curve", "flows", "margins", "distances"):
        chart = page.locator(f"[data-chart={name}]")
        assert chart.locator("svg path").count() > 5
        assert not re.search("NaN|undefined|null", chart.inner_text())
    assert "8/255" in page.locator("[data-chart=curve]").inner_text()
    page.context.close()


def test_the_charts_follow_the_theme(browser: Browser, plain: Path) -> None:
    page = opened(browser, plain, "light").page
    line = "getComputedStyle(document.querySelector('[data-chart=curve] .mark-line path')).stroke"
    ground = "getComputedStyle(document.body).backgroundColor"
    light = (page.evaluate(line), page.evaluate(ground))
    page.locator("#theme").click()
    dark = (page.evaluate(line), page.evaluate(ground))
    page.emulate_media(color_scheme="dark")
    assert light == ("rgb(86, 56, 208)", "rgb(251, 250, 253)")
    assert dark == ("rgb(179, 162, 255)", "rgb(18, 17, 24)")
    page.locator("#theme").click()
    assert (page.evaluate(line), page.evaluate(ground)) == light, "the reader's choice stands against the system's"
    page.context.close()


def test_the_system_s_theme_is_followed(browser: Browser, plain: Path) -> None:
    page = opened(browser, plain, "dark").page
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 17, 24)"
    page.context.close()


def test_a_failure_opens_by_a_click(browser: Browser, plain: Path) -> None:
    page = opened(browser, plain).page
    page.locator("#card-2 button").click()
    dialog = page.locator("dialog")
    assert dialog.is_visible()
    assert page.locator("#position").inner_text() == "Failure 3 of 24"
    assert page.locator("#detail-title").inner_text().split() == page.locator("#card-2 .reading").inner_text().split()
    sources = page.locator(".large img").evaluate_all("images => images.map(image => image.src)")
    assert sources == page.locator("#card-2 img").evaluate_all("images => images.map(image => image.src)")
    assert page.locator("dialog img").evaluate_all(
        "images => images.every(image => image.complete && image.naturalWidth)"
    )
    assert page.locator(".large img").first.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    page.mouse.click(5, 5)
    assert not dialog.is_visible(), "a click beside the dialog closes it"
    page.context.close()


def test_failures_are_walked_by_keys(browser: Browser, plain: Path) -> None:
    page = opened(browser, plain).page
    page.locator("#card-0 button").focus()
    page.keyboard.press("Enter")
    assert page.locator("#position").inner_text() == "Failure 1 of 24"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#position").inner_text() == "Failure 3 of 24"
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert page.locator("#position").inner_text() == "Failure 24 of 24", "the first is reached from the last"
    assert page.evaluate("location.hash") == "#failure-23"
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert page.evaluate("document.activeElement.closest('.card').id") == "card-23"
    assert page.evaluate("location.hash") == ""
    page.context.close()


def test_the_dialog_keeps_the_focus(browser: Browser, plain: Path) -> None:
    page = opened(browser, plain).page
    page.locator("#card-0 button").click()
    for _ in range(12):
        page.keyboard.press("Tab")
        place = page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
        assert place, "a key leads out of the open dialog"
    page.context.close()


def test_a_link_opens_its_failure(browser: Browser, plain: Path) -> None:
    found = opened(browser, plain, hash_="#failure-5")
    assert found.page.locator("#position").inner_text() == "Failure 6 of 24"
    found.page.context.close()


def test_filters_and_order(browser: Browser, plain: Path) -> None:
    page = opened(browser, plain).page
    cards = page.locator(".card:not([hidden])")
    label = page.locator("#card-4").get_attribute("data-label")
    page.select_option("select[name=label]", label)
    assert set(cards.evaluate_all("cards => cards.map(card => card.dataset.label)")) == {label}
    assert page.locator("#shown").inner_text() == f"{cards.count()} of 24 failures"
    page.locator("button[type=reset]").click()
    expect(page.locator("#shown")).to_have_text("24 failures")
    page.select_option("select[name=order]", "distance")
    distances = cards.evaluate_all("cards => cards.map(card => Number(card.dataset.distance))")
    assert distances == sorted(distances)
    page.select_option("select[name=order]", "-margin")
    margins = cards.evaluate_all("cards => cards.map(card => Number(card.dataset.margin))")
    assert margins == sorted(margins, reverse=True)
    page.locator(".card:not([hidden]) button").nth(1).click()
    page.keyboard.press("ArrowLeft")
    shown = page.locator(".detail-facts dd").nth(3).inner_text()
    assert float(shown.replace("−", "-")) == pytest.approx(max(margins), rel=0.01), "arrows follow the order shown"
    page.context.close()


def test_a_cell_of_the_matrix_leads_to_its_failures(browser: Browser, plain: Path) -> None:
    page = opened(browser, plain).page
    pair = page.evaluate("(card => [card.dataset.label, card.dataset.twin])(document.getElementById('card-3'))")
    cell = page.evaluate(
        "([label, twin]) => JSON.parse(document.getElementById('charts').textContent).flows.data.values"
        ".findIndex(flow => flow.label == label && flow.twin == twin)",
        pair,
    )
    page.locator("[data-chart=flows] .mark-text.role-mark text").nth(cell).click()
    assert [page.locator(f"select[name={name}]").input_value() for name in ("label", "twin")] == pair
    cards = page.locator(".card:not([hidden])")
    shown = cards.evaluate_all("cards => cards.map(card => [card.dataset.label, card.dataset.twin])")
    assert pair in shown
    assert all(each == pair for each in shown)
    page.context.close()


@pytest.mark.parametrize("size", [WIDE, NARROW])
@pytest.mark.parametrize("which", ["plain", "hostile"])
def test_nothing_sticks_out_sideways(
    browser: Browser, size: dict[str, int], which: str, request: pytest.FixtureRequest
) -> None:
    page = opened(browser, request.getfixturevalue(which), size=size).page
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.locator(".card button").first.click()
    assert page.evaluate("(b => b.scrollWidth <= b.clientWidth)(document.getElementById('detail-body'))")
    page.context.close()


def test_a_page_in_print_is_light_and_whole(browser: Browser, plain: Path) -> None:
    page = opened(browser, plain, "dark").page
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert page.locator("#sentence").is_visible()
    page.context.close()


def test_every_control_has_a_name(browser: Browser, plain: Path) -> None:
    page = opened(browser, plain).page
    page.locator("#card-0 button").click()
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, a[href], select, summary')].filter(e => "
        "!(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label'))).map(e => e.outerHTML)"
    )
    assert nameless == []
    assert page.locator("dialog").get_attribute("aria-labelledby") == "detail-title"
    assert page.locator("#detail-title").is_visible()
    page.context.close()


def test_a_name_shows_what_it_is(browser: Browser, hostile: Path) -> None:
    page = opened(browser, hostile).page
    assert HOSTILE[1] in page.locator(".subject").inner_text()
    assert "x1b[31mred" in page.locator("select[name=twin]").inner_text()
    assert page.locator("main img:not(.pixels)").count() == 0
    page.context.close()
