"""The page in other languages: the browser's, one that is chosen, and a layout whose lines run from right to left."""

from playwright.sync_api import Browser, Page, expect

from tests.browser.test_page import answered, ask, load, scripted
from tests.browser.test_page_parts import AXE, violations

# Parts that reach over the page's edges, or that lie on the wrong side of what they belong to.
OUTSIDE = """() => [...document.querySelectorAll("#app *")]
  .filter((part) => part.checkVisibility() && !part.closest(".visually-hidden, svg"))
  .map((part) => [part, part.getBoundingClientRect()])
  .filter(([, box]) => box.width > 1 && (box.left < -1 || box.right > innerWidth + 1))
  .map(([part]) => part.outerHTML.slice(0, 120))"""
MIDDLE = "(part) => { const box = part.getBoundingClientRect(); return (box.left + box.right) / 2 / innerWidth; }"


def test_the_page_speaks_the_browsers_language_and_the_chosen_one(browser: Browser, toy_url: str) -> None:
    context = browser.new_context(locale="de-AT")
    page = context.new_page()
    page.goto(toy_url)
    expect(page.get_by_test_id("prompt")).to_have_attribute("placeholder", "Schreib eine Nachricht")
    expect(page.locator("html")).to_have_attribute("lang", "de")
    page.get_by_test_id("open-settings").click()
    page.get_by_test_id("setting-language").select_option("ja")
    expect(page.locator("#settings-title")).to_have_text("設定")
    expect(page.locator("html")).to_have_attribute("lang", "ja")
    page.reload()
    expect(page.get_by_test_id("prompt")).to_have_attribute("placeholder", "メッセージを入力")
    context.close()


def test_the_layout_turns_around_where_lines_do(page: Page, toy_url: str) -> None:
    """On a desktop and on a phone, with Arabic in it: nothing leaves the page, and ends are on the left."""
    page.emulate_media(reduced_motion="reduce")
    load(page, toy_url)
    scripted(page, "**المطر** ماء يسقط من السحاب.")
    ask(page, "ما هو المطر؟")
    answered(page)
    page.get_by_test_id("open-sidebar").click()  # which would lie over a narrow page
    expect(page.get_by_test_id("sidebar")).to_have_count(0)
    page.evaluate(AXE.read_text())
    page.evaluate("() => { document.documentElement.dir = 'rtl'; document.documentElement.lang = 'ar'; }")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 760})
        assert page.evaluate(OUTSIDE) == []
        assert page.locator(".brand").evaluate(MIDDLE) > 0.5
        assert page.get_by_test_id("open-settings").evaluate(MIDDLE) < 0.5
        assert page.get_by_test_id("message-user").evaluate(MIDDLE) < 0.5
        page.get_by_test_id("open-settings").click()
        assert page.get_by_test_id("settings").evaluate("(part) => part.getBoundingClientRect().left") == 0
        assert violations(page) == []
        page.keyboard.press("Escape")
