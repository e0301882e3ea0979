"""Conversations of the page: kept over reloads, branched, deleted and taken back, shared by tabs, moved as files.

The toy model of test_page.py; a scripted engine takes its place, so that what is said is known.
"""

import json
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.test_page import answered, ask, load, scripted

NO_STORAGE = "IDBFactory.prototype.open = () => { throw new DOMException('not here', 'SecurityError'); };"


# Whether every answer's end is in the database.
KEPT = """() => new Promise((resolve) => {
  const opening = indexedDB.open("wisp");
  opening.onsuccess = () => {
    const all = opening.result.transaction("messages").objectStore("messages").getAll();
    all.onsuccess = () => {
      opening.result.close();
      const answers = all.result.filter(({ role }) => role === "assistant");
      resolve(answers.length > 0 && answers.every(({ reason }) => reason !== null));
    };
  };
})"""


def reload(page: Page) -> None:
    """Once what was said is written: a page that goes away in the middle of a transaction loses that one."""
    page.wait_for_function(KEPT)
    page.reload()


def say(page: Page, question: str, answer: str, count: int = 1) -> None:
    """Asks, and is answered so."""
    scripted(page, answer)
    ask(page, question)
    answered(page, count)


def said(page: Page) -> list[str]:
    """The requests' messages, as contents."""
    return [message["content"] for message in page.evaluate("window.script.requests.at(-1).messages")]


def menu(page: Page, item: str, which: int = 0) -> None:
    page.get_by_test_id("conversation-menu").nth(which).locator("summary").click()
    page.get_by_test_id(item).nth(which).click()


def test_a_reload_and_a_new_chat_lose_nothing(page: Page, toy_url: str) -> None:
    load(page, toy_url)
    say(page, "What is rain?", "**Water.**")
    reload(page)
    expect(page.get_by_test_id("answer-text").locator("strong")).to_have_text("Water.")
    expect(page.get_by_test_id("prompt")).to_be_visible()
    say(page, "And snow?", "Ice.", 2)
    assert said(page) == ["What is rain?", "**Water.**", "And snow?"]
    page.get_by_test_id("new-chat").click()
    expect(page.get_by_test_id("welcome")).to_be_visible()
    say(page, "Greetings", "Hello.")
    assert said(page) == ["Greetings"]
    page.get_by_test_id("search").fill("ice.")
    expect(page.get_by_test_id("open-conversation")).to_have_text(["What is rain?"])
    page.get_by_test_id("open-conversation").click()
    expect(page.get_by_test_id("message-answer")).to_have_count(2)


def test_an_edited_question_and_a_second_answer_stand_beside_the_first(page: Page, toy_url: str) -> None:
    load(page, toy_url)
    say(page, "one", "First.")
    scripted(page, "Second.")
    page.get_by_test_id("regenerate").click()
    expect(page.get_by_test_id("answer-text")).to_have_text("Second.")
    expect(page.get_by_test_id("branch")).to_have_text("2/2")
    page.get_by_test_id("previous-branch").click()
    expect(page.get_by_test_id("answer-text")).to_have_text("First.")
    say(page, "two", "Third.", 2)
    assert said(page) == ["one", "First.", "two"]
    scripted(page, "Fourth.")
    page.get_by_test_id("message-user").last.hover()
    page.get_by_test_id("edit-message").last.click()
    page.get_by_test_id("edit-text").fill("zwei")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("answer-text").last).to_have_text("Fourth.")
    assert said(page) == ["one", "First.", "zwei"]
    reload(page)
    expect(page.get_by_test_id("message-user").last).to_have_text("zwei")
    page.get_by_test_id("previous-branch").last.click()
    expect(page.get_by_test_id("answer-text").last).to_have_text("Third.")
    expect(page.get_by_test_id("branch")).to_have_text(["1/2", "1/2"])


def test_an_answer_that_was_cut_goes_on(page: Page, toy_url: str) -> None:
    load(page, toy_url)
    scripted(page, "word " * 500, pause=20)
    ask(page, "long")
    expect(page.get_by_test_id("answer-text")).to_contain_text("word word")
    page.get_by_test_id("stop").click()
    answered(page)
    before = page.get_by_test_id("answer-text").inner_text()
    scripted(page, "and its end.")
    page.get_by_test_id("continue").click()
    expect(page.get_by_test_id("answer-text")).to_contain_text("and its end.")
    answered(page)
    request = page.evaluate("window.script.requests[0]")
    assert request["continue_final_message"] is True
    assert [message["role"] for message in request["messages"]] == ["user", "assistant"]
    assert request["messages"][1]["content"].strip() == before.strip()
    expect(page.get_by_test_id("continue")).to_have_count(0)


def test_what_is_deleted_can_be_taken_back(page: Page, toy_url: str) -> None:
    load(page, toy_url)
    say(page, "keep me", "Yes.")
    menu(page, "rename")
    page.get_by_test_id("rename-text").fill("Kept <b>well</b>")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("open-conversation")).to_have_text("Kept <b>well</b>")
    menu(page, "delete")
    expect(page.get_by_test_id("conversation")).to_have_count(0)
    expect(page.get_by_test_id("welcome")).to_be_visible()
    page.get_by_test_id("undo").click()
    expect(page.get_by_test_id("answer-text")).to_have_text("Yes.")
    menu(page, "delete")
    reload(page)
    expect(page.get_by_test_id("welcome")).to_be_visible()
    expect(page.get_by_test_id("conversation")).to_have_count(0)


def test_two_tabs_see_one_another_and_overwrite_nothing(page: Page, toy_url: str) -> None:
    load(page, toy_url)
    say(page, "hello", "Hi.")
    other = page.context.new_page()
    load(other, toy_url)
    other.get_by_test_id("open-conversation").click()
    expect(other.get_by_test_id("answer-text")).to_have_text("Hi.")
    say(other, "from the other", "Yes.", 2)
    expect(page.get_by_test_id("answer-text").last).to_have_text("Yes.")
    # Both at once: each goes on from the same place.
    for tab in (page, other):
        scripted(tab, "slow " * 10, pause=400)  # so long that both are asked before either answer ends
    ask(page, "a")
    ask(other, "b")
    answered(page, 3)
    answered(other, 3)
    for tab, question in ((page, "a"), (other, "b")):
        expect(tab.get_by_test_id("message-user").last).to_have_text(question)
        expect(tab.get_by_test_id("branch")).to_contain_text("/2")
    other.close()


def test_without_storage_it_works_and_says_so(page: Page, toy_url: str) -> None:
    page.add_init_script(NO_STORAGE)
    load(page, toy_url)
    expect(page.get_by_test_id("not-kept")).to_be_visible()
    say(page, "hello", "Hi.")
    page.get_by_test_id("new-chat").click()
    page.get_by_test_id("open-conversation").click()
    expect(page.get_by_test_id("answer-text")).to_have_text("Hi.")


def test_a_conversation_has_settings_of_its_own(page: Page, toy_url: str) -> None:
    load(page, toy_url)
    say(page, "hello", "Hi.")
    page.get_by_test_id("open-settings").click()
    expect(page.get_by_test_id("settings-scope")).to_contain_text("this conversation")
    page.get_by_test_id("system-prompt").fill("Be brief.")
    page.get_by_test_id("setting-stop").fill("END\n###")
    page.get_by_test_id("setting-schema").fill('{"type": ')
    expect(page.get_by_test_id("schema-help")).to_contain_text("Not used")
    page.get_by_test_id("setting-schema").fill('{"type": "string"}')
    page.keyboard.press("Escape")
    say(page, "more", "More.", 2)
    request = page.evaluate("window.script.requests[0]")
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    assert request["stop"] == ["END", "###"]
    assert request["response_format"]["json_schema"]["schema"] == {"type": "string"}
    page.get_by_test_id("new-chat").click()
    say(page, "fresh", "Yes.")
    assert said(page) == ["fresh"]
    assert "stop" not in page.evaluate("window.script.requests[0]")


def test_conversations_move_as_files(page: Page, toy_url: str, tmp_path: Path) -> None:
    load(page, toy_url)
    say(page, "one", "First.")
    page.get_by_test_id("regenerate").click()
    expect(page.get_by_test_id("branch")).to_have_text("2/2")
    answered(page)
    with page.expect_download() as download:
        page.get_by_test_id("export-all").click()
    file = tmp_path / "all.json"
    download.value.save_as(file)
    with page.expect_download() as download:
        menu(page, "export-markdown")
    assert download.value.suggested_filename == "one.md"
    assert download.value.path().read_text() == "# one\n\n**You**\n\none\n\n**Toy**\n\nFirst.\n"
    exported = json.loads(file.read_text())
    assert len(exported["conversations"][0]["messages"]) == 3
    exported["conversations"][0]["id"] = "another"
    exported["conversations"][0]["title"] = "<img src=x onerror='window.pwned = 1'>"
    file.write_text(json.dumps(exported))
    page.get_by_test_id("import-file").set_input_files(file)
    expect(page.get_by_test_id("conversation")).to_have_count(2)
    page.get_by_test_id("open-conversation").filter(has_text="<img").click()
    expect(page.get_by_test_id("branch")).to_have_text("2/2")
    file.write_text("[]")
    page.get_by_test_id("import-file").set_input_files(file)
    expect(page.get_by_test_id("toast")).to_contain_text("all.json holds no conversations of Wisp")
    assert page.evaluate("window.pwned") is None
