"""Which tokens end a turn, for checkpoints of every kind."""

import pytest

from compiler.sources.turns import end_of_turn_ids

IDS = {"<s>": 1, "</s>": 2, "<|im_end|>": 7, "<end>": 8, "[END]": 9, "<": 10, "a": 11, "<|user|>": 12, "<|end|>": 13}
LOOP = "{% for m in messages %}<|user|>{{ m.content }}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (LOOP + "<end>\n{% endfor %}", 8),
        (LOOP + " [END]{% endfor %}", 9),
        (LOOP + "</s>{% endfor %}{% if add_generation_prompt %}<|user|>{% endif %}", 2),
        (LOOP + "{% endfor %}", None),
        (LOOP + "<unknown>{% endfor %}", None),
        (LOOP + "\nuser: <end>{% endfor %}", None),
        ("{{ raise_exception('no') }}", None),
        ("{{ messages[0].content }}<end>", None),  # without the answer
        (None, None),
    ],
)
def test_what_a_template_writes_behind_an_answer(template: str | None, expected: int | None) -> None:
    known = {"<|im_end|>": 7, "<|end|>": 13}
    assert set(end_of_turn_ids(template, IDS)) == {*known.values(), *([] if expected is None else [expected])}


def test_a_vocabulary_without_such_tokens() -> None:
    assert end_of_turn_ids(LOOP + "{% endfor %}", {"a": 0}) == ()
