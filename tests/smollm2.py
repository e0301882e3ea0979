"""The published model of the tests: its file, what transformers reads from that file, and the answers it should give.

`python -m tests.smollm2` gets the file, as `wisp demo` does; with `--answers` it writes golden/smollm2.json anew with
transformers, in float32 on the values of the file. Knows transformers and torch; nothing under `compiler/` does.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compiler.demo import obtain_model
from compiler.errors import WispError
from compiler.progress import Report, Silent
from tests.conftest import unavailable

GOLDEN = Path(__file__).resolve().parent / "golden"
PROSE = GOLDEN / "prose.txt"
ANSWERS = GOLDEN / "smollm2.json"
TOKENS = 512  # of the prose
LONGEST = 40  # tokens of an answer
# What the demo's page asks for in the tests of the browser; all of its answer is decided by clear leads.
PROMPTS = (
    "What is the capital of France?",
    "What is 2 + 2?",
    "Name three primary colors.",
    "Write a haiku about the sea.",
    "Translate 'hello' to Spanish.",
    "What is water made of?",
    "List the days of the week.",
    "Count from 1 to 10.",
    "Who was the first person to walk on the moon?",
    "What is the boiling point of water in Celsius?",
    "Who wrote Romeo and Juliet?",
    "What is photosynthesis?",
)


@dataclass(frozen=True)
class Answer:
    """A greedy answer: the prompt as the chat template renders it, the ids after it, and how clear each was.

    `leads` are the most probable token's logit less the second's, relative to the largest logit: where a lead is within
    the error of the arithmetic, another answer is as right.
    """

    prompt: str
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    leads: tuple[float, ...]
    text: str

    def clear_until(self, bound: float) -> int:
        """How many of the ids come before the first one whose lead is within `bound`."""
        return next((i for i, lead in enumerate(self.leads) if lead <= bound), len(self.leads))


def model_file(report: Report | None = None) -> Path:
    """The GGUF file; without it a test is skipped with the reason, or fails on CI."""
    try:
        return obtain_model(report or Silent())
    except WispError as error:
        unavailable(str(error))


def golden_answers() -> tuple[Answer, ...]:
    """What transformers answers, as it was written down."""
    return tuple(
        Answer(read["prompt"], tuple(read["prompt_ids"]), tuple(read["ids"]), tuple(read["leads"]), read["text"])
        for read in json.loads(ANSWERS.read_text(encoding="utf-8"))
    )


class Reference:
    """The file as transformers reads it, in float32."""

    def __init__(self, file: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        self.model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        """(len(ids), vocabulary)."""
        import torch

        with torch.inference_mode():
            logits: NDArray[np.float32] = self.model(torch.tensor([ids])).logits[0].numpy()
        return logits

    def answer(self, prompt: str) -> Answer:
        """The greedy answer to a conversation's first message, at most `LONGEST` tokens."""
        import torch

        messages = [{"role": "user", "content": prompt}]
        prompt_ids = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        ids: list[int] = []
        leads: list[float] = []
        past, given = None, list(prompt_ids)
        while len(ids) < LONGEST and (not ids or ids[-1] != self.tokenizer.eos_token_id):
            with torch.inference_mode():
                step = self.model(torch.tensor([given]), past_key_values=past, use_cache=True)
            past, last = step.past_key_values, step.logits[0, -1].numpy()
            second, first = np.partition(last, -2)[-2:]
            leads.append(round(float((first - second) / np.abs(last).max()), 5))
            ids.append(int(last.argmax()))
            given = ids[-1:]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return Answer(prompt, tuple(prompt_ids), tuple(ids), tuple(leads), text)


def main() -> int:
    from compiler.progress import Terminal

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", action="store_true", help="write golden/smollm2.json anew")
    try:
        file = obtain_model(Terminal())
    except WispError as error:
        print(error, file=sys.stderr)
        return 1
    print(file)
    if parser.parse_args().answers:
        reference = Reference(file)
        answers = [json.dumps(asdict(reference.answer(prompt))) for prompt in PROMPTS]
        ANSWERS.write_text("[\n" + ",\n".join(answers) + "\n]\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
