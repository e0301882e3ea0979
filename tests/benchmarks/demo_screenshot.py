"""Takes the README's picture, configs/demo/chat.png: the demo's page in a headless Chromium, on the CPU, greedy.

usage: python -m tests.benchmarks.demo_screenshot URL [FILE.png]     (URL: what `make demo` says)
"""

import sys

from playwright.sync_api import expect, sync_playwright

from tests import chromium

QUESTIONS = ("Who was the first person to walk on the moon?", "What is gravity?")
PATIENCE = 300_000  # milliseconds


def main(url: str, file: str = "configs/demo/chat.png") -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.find(), args=list(chromium.FLAGS))
        page = browser.new_page(viewport={"width": 1080, "height": 640})
        page.goto(f"{url}?backend=wasm-simd")
        page.get_by_test_id("load").click()
        expect(page.get_by_test_id("prompt")).to_be_visible(timeout=PATIENCE)
        page.get_by_test_id("open-settings").click()
        page.get_by_test_id("setting-temperature").fill("0")
        page.keyboard.press("Escape")
        for count, question in enumerate(QUESTIONS, 1):
            page.get_by_test_id("prompt").fill(question)
            page.keyboard.press("Enter")
            expect(page.get_by_test_id("answer-stats")).to_have_count(count, timeout=PATIENCE)
            print(question, page.get_by_test_id("answer-text").last.inner_text(), sep="\n")
        page.screenshot(path=file)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
