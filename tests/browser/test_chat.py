"""`wisp chat` in a terminal answers as the engine does, and Ctrl+C stops an answer."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compiler.errors import WispError
from compiler.runtime.wgpu import request_adapter
from tests.browser.test_node import in_node
from tests.conftest import ROOT, unavailable

QUESTIONS = ["My name is Ada.", "What is my name?"]
CONVERSATION = """
const messages = [];
for (const content of args) {
  messages.push({ role: "user", content });
  const { choices } = await engine.chat.completions.create({ messages, temperature: 0 });
  messages.push({ role: "assistant", content: choices[0].message.content });
}
return messages;
"""
COMMAND = [sys.executable, "-m", "compiler.cli", "chat"]


class Terminal:
    """The master's end of a pseudo-terminal, and all that was seen on it."""

    def __init__(self, master: int) -> None:
        self.master, self.seen = master, ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, pattern: str, seconds: float = 300) -> re.Match[str]:
        """Waits for what has not been expected yet; that time is only there so that a failure ends."""
        while (found := re.search(pattern, self.seen, re.DOTALL)) is None:
            ready, _, _ = select.select([self.master], [], [], seconds)
            assert ready, f"{pattern} is not in {self.seen!r}"
            self.seen += os.read(self.master, 65536).decode(errors="replace").replace("\r\n", "\n")
        self.seen = self.seen[found.end() :]
        return found


def _hears_interrupts() -> None:
    """The processes that tests run in ignore them, and what they start would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def chatting(*arguments: str) -> Iterator[tuple[Terminal, "subprocess.Popen[bytes]"]]:
    try:
        master, slave = pty.openpty()
    except OSError as error:  # a root without /dev/pts
        pytest.skip(f"this machine has no pseudo-terminals: {error}")
    environment = os.environ | {"TERM": "dumb", "INPUTRC": "/dev/null"}
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=_hears_interrupts,
    )
    os.close(slave)
    try:
        yield Terminal(master), process
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_a_conversation_in_a_terminal_is_the_engines(artifact_demo: Path) -> None:
    messages = in_node(artifact_demo, CONVERSATION, QUESTIONS, backend="wasm-simd")
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    with chatting(str(artifact_demo), "--temperature", "0", "--variant", "wasm-simd") as (terminal, process):
        for question, answer in zip(QUESTIONS, answers, strict=True):
            terminal.expect("> ")
            terminal.type(f"{question}\n")
            said = terminal.expect(r"\n(.*)\n\[prompt (\d+) tokens.*; answer \d+ tokens.*tok/s\]\n")
            assert said[1] == answer
        terminal.expect("> ")
        terminal.type("\x04")
        assert process.wait(60) == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(artifact_demo: Path) -> None:
    # Drawn with so high a temperature it does not end by itself.
    options = ["--temperature", "50", "--seed", "1", "--variant", "wasm-simd"]
    with chatting(str(artifact_demo), *options) as (terminal, process):
        terminal.expect("> ")
        terminal.type("Tell me a story.\n")
        terminal.expect(r"\n[^\n]{8,}")  # an answer is on its way
        os.killpg(process.pid, 2)
        terminal.expect(r"\[prompt .*\(interrupted\)\]\n> ")
        terminal.type("something that is not sent")
        terminal.expect("not sent")
        os.killpg(process.pid, 2)
        terminal.expect("> ")
        terminal.type("/quit\n")
        assert process.wait(60) == 0


def test_a_prompt_has_one_answer_on_every_device(artifact_demo: Path) -> None:
    try:
        request_adapter()
    except WispError as error:
        unavailable(str(error))
    said = set()
    for variant in ("wasm-simd", "webgpu-f32"):
        options = ["--temperature", "0", "--prompt", "What is WebGPU?", "--variant", variant]
        done = subprocess.run(
            [*COMMAND, str(artifact_demo), *options], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert variant in done.stderr
        said.add(done.stdout)
    (answer,) = said
    assert "WebGPU" in answer


def test_an_interrupted_prompt_says_so(artifact_demo: Path) -> None:
    options = ["--temperature", "50", "--seed", "1", "--variant", "wasm-simd", "--prompt", "Tell me a story."]
    with chatting(str(artifact_demo), *options) as (terminal, process):
        terminal.expect(r"of context\n[^\n]{4,}")
        os.killpg(process.pid, 2)
        terminal.expect(r"\(interrupted\)\]\nwisp: interrupted")
        assert process.wait(60) == 130


@pytest.mark.parametrize("name", ["no-such-thing", "org/no such model"])
def test_what_is_neither_is_refused(name: str) -> None:
    done = subprocess.run([*COMMAND, name, "--prompt", "Hello"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
