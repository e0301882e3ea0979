"""The page with the demo model: what somebody sees who has just cloned the project."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect


@pytest.fixture(scope="session")
def browser(quick_browser: Browser) -> Browser:
    return quick_browser


@pytest.fixture
def page(page: Page, server_url: str) -> Page:
    page.goto(f"{server_url}?backend=webgpu-f32-sg")
    expect(page.get_by_test_id("prompt")).to_be_visible()
    return page


def ask(page: Page, text: str) -> str:
    """The whole answer, once it is there."""
    answers = page.get_by_test_id("answer-stats")
    before = answers.count()
    page.get_by_test_id("prompt").fill(text)
    page.keyboard.press("Enter")
    expect(answers).to_have_count(before + 1)
    return page.get_by_test_id("answer-text").last.inner_text()


def greedy(page: Page) -> None:
    page.get_by_test_id("open-settings").click()
    page.get_by_test_id("setting-temperature").fill("0")
    page.keyboard.press("Escape")


def test_it_answers_in_sentences_and_remembers(page: Page) -> None:
    greedy(page)
    first = ask(page, "My name is Ada.")
    assert re.search(r"[A-Z][a-z ,']+[.!?]", first), first
    assert "Ada" in ask(page, "What is my name?")
    assert "\ufffd" not in first


def test_every_suggestion_gets_an_answer(page: Page) -> None:
    suggestions = page.get_by_test_id("suggestion").all_inner_texts()
    assert 4 <= len(suggestions) <= 6
    for text in suggestions:
        page.get_by_test_id("new-chat").click()
        assert len(ask(page, text)) > 1


def test_an_answer_streams_and_can_be_stopped(page: Page) -> None:
    greedy(page)
    page.get_by_test_id("prompt").fill("Tell me a story.")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("answer-text")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("answer-stats")).to_have_count(1)
    assert "Ada" in ask(page, "My name is Ada.") + ask(page, "What is my name?")


def test_the_same_seed_gives_the_same_answer_again(page: Page) -> None:
    page.get_by_test_id("open-settings").click()
    page.get_by_test_id("setting-temperature").fill("1")
    page.get_by_test_id("setting-seed").fill("7")
    page.keyboard.press("Escape")
    first = ask(page, "Tell me a story.")
    page.get_by_test_id("regenerate").click()
    expect(page.get_by_test_id("answer-stats")).to_have_count(1)
    assert page.get_by_test_id("answer-text").inner_text() == first


def test_a_reload_needs_no_weights_from_the_network(page: Page) -> None:
    page.route("**/params_shard_*", lambda route: route.abort())
    page.reload()
    expect(page.get_by_test_id("prompt")).to_be_visible()
    assert len(ask(page, "My name is Ada.")) > 1
