"""Which tokens end a turn: those that are known by their text, and what a chat template writes behind an answer.

Configurations often name only the end of a text; a model then writes the end of its turn and goes on. One rule for all
kinds of checkpoints. Knows texts and ids; nothing of files.
"""

import re
from collections.abc import Mapping

from .sandbox import render_all

# Tokens that end an answer by their text: llama.cpp's list, of which models name only the first in their metadata.
END_TEXTS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>")

_ANSWER = "an answer of two words"
_TURNS = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": _ANSWER}]
_MARK = re.compile(r"\s*([<\[\uff5c][^\s<>\[\]]*[>\]\uff5c])")  # <|im_end|>, </s>, [END]


def end_of_turn_ids(template: str | None, token_ids: Mapping[str, int]) -> tuple[int, ...]:
    """Ids beyond those that the configurations name. `token_ids`: every token's text and id.

    Raises WispError for a template that breaks the sandbox's limits.
    """
    found = [token_ids[text] for text in END_TEXTS if text in token_ids]
    if template is not None:
        (outcome,) = render_all(template, [{"messages": _TURNS, "add_generation_prompt": False}])
        _, answer, behind = outcome.get("text", "").rpartition(_ANSWER)
        mark = _MARK.match(behind)
        if answer and mark is not None and mark[1] in token_ids:
            found.append(token_ids[mark[1]])
    return tuple(dict.fromkeys(found))
