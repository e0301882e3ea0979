"""Parts of the page: personas from cards, code in answers, and what a checker of accessibility finds."""

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_conversations import reload
from tests.browser.test_page import MARKDOWN, answered, ask, load, scripted
from tests.conftest import ROOT

AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def card(**data: Any) -> bytes:
    return json.dumps({"spec": "chara_card_v2", "spec_version": "2.0", "data": data}).encode()


def png(text: bytes) -> bytes:
    """A picture of one pixel that carries a card."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\x20\x80\x70")
    texts = chunk(b"tEXt", b"chara\0" + base64.b64encode(text))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + texts + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_persona_from_a_picture_greets_and_is_who_the_model_is(page: Page, toy_url: str, tmp_path: Path) -> None:
    load(page, toy_url)
    page.get_by_test_id("open-personas").click()
    expect(page.get_by_test_id("persona-card")).to_have_count(3)
    mira = {"name": "Mira <b>", "description": "{{char}} keeps a lighthouse.", "first_mes": "Who is **there**?"}
    (tmp_path / "mira.png").write_bytes(png(card(**mira)))
    (tmp_path / "broken.json").write_text("{}")
    page.get_by_test_id("persona-file").set_input_files([tmp_path / "broken.json", tmp_path / "mira.png"])
    expect(page.get_by_test_id("persona-card")).to_have_count(4)
    expect(page.get_by_test_id("toast")).to_contain_text("broken.json is no character card")
    page.get_by_test_id("persona-edit").click()
    page.get_by_test_id("persona-temperature").fill("0.3")
    page.get_by_test_id("persona-save").click()
    mine = page.get_by_test_id("persona-card").last
    assert (mine.locator("img").get_attribute("src") or "").startswith("data:image/jpeg;base64,")
    with page.expect_download() as download:
        mine.get_by_test_id("persona-export").click()
    exported = json.loads(download.value.path().read_text())
    assert exported["data"]["first_mes"] == "Who is **there**?"
    mine.get_by_test_id("persona-chat").click()
    expect(page.get_by_test_id("greeting")).to_have_text("Who is **there**?")
    scripted(page, "Mm.")
    ask(page, "Me.")
    answered(page)
    expect(page.get_by_test_id("persona-head")).to_have_text("Mira <b>")
    expect(page.get_by_test_id("answer-text").first.locator("strong")).to_have_text("there")
    request = page.evaluate("window.script.requests[0]")
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    system = request["messages"][0]["content"]
    assert "Mira <b> keeps a lighthouse." in system
    assert system.endswith("Who is **there**?")
    assert request["temperature"] == 0.3
    reload(page)
    expect(page.get_by_test_id("persona-head")).to_have_text("Mira <b>")


def test_code_can_be_copied_and_has_colours(page: Page, toy_url: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    load(page, toy_url)
    scripted(page, '```python\nreturn "<img src=x>"  # why\n```\n\n```brainfuzz\n+++\n```\n')
    ask(page, "code")
    answered(page)
    code = page.get_by_test_id("answer-text").locator("pre code")
    expect(code.first.locator(".hljs-keyword")).to_have_text("return")
    expect(code.first.locator(".hljs-string")).to_have_text('"<img src=x>"')
    expect(code.first.locator("img")).to_have_count(0)
    expect(code.last.locator("span")).to_have_count(0)
    page.get_by_test_id("copy-code").first.click()
    expect(page.get_by_test_id("copy-code").first).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == 'return "<img src=x>"  # why\n'


def violations(page: Page) -> list[str]:
    found = page.evaluate("(values) => axe.run(document, {runOnly: {type: 'tag', values}})", RULES)
    return [
        f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_checker_of_accessibility_finds_nothing(page: Page, toy_url: str, scheme: str) -> None:
    """WCAG 2.2 AA as far as axe-core sees it: contrast, names, roles, structure."""
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    load(page, toy_url)
    page.evaluate(AXE.read_text())
    assert violations(page) == []
    scripted(page, MARKDOWN)
    ask(page, "format")
    answered(page)
    page.get_by_test_id("regenerate").click()
    expect(page.get_by_test_id("branches")).to_be_visible()
    answered(page)
    expect(page.locator(".hljs-string")).to_be_visible()
    page.get_by_test_id("conversation-menu").locator("summary").click()
    assert violations(page) == []
    page.get_by_test_id("delete").click()
    expect(page.get_by_test_id("toast")).to_be_visible()
    assert violations(page) == []
    for opener, shown in (
        ("open-settings", "settings-form"),
        ("open-device", "device-facts"),
        ("open-personas", "persona-card"),
    ):
        page.get_by_test_id(opener).click()
        expect(page.locator(f"#{shown}, [data-testid={shown}]").first).to_be_visible()
        assert violations(page) == []
        page.keyboard.press("Escape")
