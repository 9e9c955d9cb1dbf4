"""The page on a text: its numbers are the records', nothing in it comes alive, and a browser can use it."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import sync_playwright
from safetensors import numpy as safetensors

from faultlight.errors import InputError
from faultlight.report.text_page import write_text_page
from faultlight.text.alphabet import PRINTABLE
from faultlight.text.look import Look, look, save_look
from faultlight.text.model import build_model
from faultlight.text.shape import Shape
from faultlight.text.unroll import unroll
from report_reader import read_page
from text_toys import model

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "</script><b>KING:</b>\nO 'no'; <!-- and\nso\n\nA&amp;\n" * 12


@pytest.fixture(scope="module")
def looked() -> Look:
    return look(model("lstm", 2, alphabet=PRINTABLE), PRINTABLE.encode(HOSTILE), shown=90)


@pytest.fixture
def page(looked: Look, tmp_path: Path) -> Path:
    save_look(looked, model("lstm", 2, alphabet=PRINTABLE), tmp_path, "<b>toy", "a text")
    return write_text_page(tmp_path)


def block(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_a_look_holds_what_the_model_computes(looked: Look) -> None:
    net = model("lstm", 2, alphabet=PRINTABLE)
    numbers = PRINTABLE.encode(HOSTILE)
    with torch.no_grad():
        chances = torch.softmax(net(numbers[None])[0][0], 1)
    assert looked.text == HOSTILE[:90]
    assert torch.allclose(looked.chances, chances[:90].topk(5).values, atol=1e-6)
    assert looked.surprise[0] == 0
    assert looked.surprise[7].item() == pytest.approx(-chances[6, numbers[7]].log2().item(), abs=1e-4)
    assert torch.allclose(looked.hidden, unroll(net, numbers).hidden[:, :90])
    assert {name: values.shape for name, values in looked.maps.items()} == {"PCA": (90, 2), "t-SNE": (90, 2)}


def test_a_model_of_one_cell_is_looked_into() -> None:
    net = build_model(PRINTABLE, Shape("lstm", 5, 1, 1), 0).eval()
    maps = look(net, PRINTABLE.encode(HOSTILE), shown=40).maps
    assert {name: values.shape for name, values in maps.items()} == {"PCA": (40, 2), "t-SNE": (40, 2)}
    assert not maps["PCA"][:, 1].any()


def test_the_page_carries_the_activations_in_steps_of_a_127th(looked: Look, page: Path) -> None:
    data = block(page)
    levels = np.frombuffer(base64.b64decode(data["levels"]), np.int8).reshape(2, 7, 90)
    assert np.abs(levels / 127 - looked.hidden.numpy().transpose(0, 2, 1)).max() <= 0.5 / 127 + 1e-6
    arrays = safetensors.load_file(page.parent / "text.safetensors")
    assert np.array_equal(arrays["hidden"], looked.hidden.numpy())
    assert data["text"] == HOSTILE[:90]
    assert data["guesses"][0] == looked.guesses[0].tolist()


def test_a_negative_correlation_has_a_minus_sign_as_the_legend_has(page: Path) -> None:
    record = json.loads((page.parent / "text.json").read_text())
    record["cells"]["findings"][0] |= {"found": -0.639, "confirmed": -0.6194}
    (page.parent / "text.json").write_text(json.dumps(record))
    cells = [each.text for each in read_page(write_text_page(page.parent)).all("td")]
    assert cells[2:4] == ["−0.639", "−0.619"]


def test_nothing_in_the_text_or_the_names_comes_alive(page: Path) -> None:
    content = page.read_text()
    assert content.count("</script>") == 2
    assert "<b>toy" not in content
    assert "default-src &#39;none&#39;" in content


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        write_text_page(tmp_path)
    (tmp_path / "text.json").write_text('{"schema": 2}')
    with pytest.raises(InputError, match="no record of a text"):
        write_text_page(tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine, so no page can be opened")
def test_a_reader_points_at_characters_and_chooses_cells(page: Path, looked: Look) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        sheet = browser.new_context(offline=True, viewport={"width": 1100, "height": 800}).new_page()
        said: list[str] = []
        sheet.on("console", lambda message: said.append(message.text))
        sheet.on("pageerror", lambda error: said.append(str(error)))
        sheet.goto(page.as_uri())
        assert sheet.locator("#text").inner_text().replace("↵", "").startswith("</script><b>KING:</b>")
        sheet.locator("#text [data-place='4']").hover()
        assert sheet.locator("#character").inner_text() == "r"
        sheet.mouse.move(0, 0)
        assert sheet.locator("#expected li").count() == 5
        sheet.select_option("#layer", index=1)
        sheet.fill("#cell", "3")
        sheet.keyboard.press("Tab")
        value = float(sheet.locator("#value").inner_text().replace("−", "-"))
        assert value == pytest.approx(float(looked.hidden[1, 4, 3]), abs=0.01)
        sheet.locator("#text").focus()
        sheet.keyboard.press("ArrowRight")
        assert "character 6 of 90" in sheet.locator("#place").inner_text()
        sheet.select_option("#colour", "surprise")
        assert sheet.locator("#low").inner_text() == "0 bits"
        browser.close()
    assert said == []
