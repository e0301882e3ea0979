"""The manager of models: what is here of each, and what can be done with it."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import toy_artifact
from tests.browser.test_page import load
from tests.browser.test_page_parts import AXE, violations


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_models_are_kept_verified_deleted_and_added(page: Page, toy_url: str, tmp_path: Path, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    load(page, toy_url)
    page.get_by_test_id("open-device").click()
    page.get_by_test_id("change-model").click()
    page.get_by_test_id("open-manager").click()
    model = page.get_by_test_id("managed-model").filter(has_text="Toy")
    expect(model.get_by_test_id("model-state")).to_have_text("Here")
    expect(model.get_by_test_id("model-needs")).to_contain_text("it loads without a network")
    expect(model.get_by_test_id("model-license")).to_contain_text("License: ")
    page.evaluate(AXE.read_text())
    assert violations(page) == []
    model.get_by_test_id("model-verify").click()
    expect(page.get_by_test_id("toast")).to_contain_text("files are right")
    model.get_by_test_id("model-delete").click()
    expect(model.get_by_test_id("model-state")).to_have_text("Not downloaded")
    expect(model.get_by_test_id("model-needs")).to_contain_text("to download")
    model.get_by_test_id("model-download").click()
    expect(model.get_by_test_id("model-state")).to_have_text("Here")
    toy_artifact.write(tmp_path / "mine", toy_artifact.toy(), name="Mine")
    page.get_by_test_id("model-folder").set_input_files(tmp_path / "mine")
    added = page.get_by_test_id("managed-model").filter(has_text="models/added/mine")
    expect(added.get_by_test_id("model-state")).to_have_text("Here")
    page.get_by_test_id("model-address").fill("no address")
    page.get_by_test_id("add-address").click()
    expect(page.get_by_test_id("toast")).to_contain_text("That is no address of the web: no address")
    page.set_viewport_size({"width": 360, "height": 760})
    assert page.get_by_test_id("manager").evaluate("(part) => part.scrollWidth <= 360")
    added.get_by_test_id("model-load").click()
    expect(page.get_by_test_id("prompt")).to_be_visible()
