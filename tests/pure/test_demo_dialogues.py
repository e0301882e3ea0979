"""The embedded model's dialogues: deterministic, right, and apart from the prompts that evaluation reserves."""

import json
import re
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import pytest

DEMO = Path(__file__).parents[2] / "configs" / "demo"
sys.path.insert(0, str(DEMO))

import dialogues  # noqa: E402
import evaluate  # noqa: E402
import skills  # noqa: E402

LETTERS = ("spell", "reverse word", "reverse list", "sort words", "sort numbers")
SINGLE_QUESTIONS = ("add", "subtract", *LETTERS, "capitals", "opposites", "wisp and webgpu", "about itself")


@pytest.fixture(scope="module")
def conversations() -> list[list[dialogues.Message]]:
    return list(islice(dialogues.conversations(7), 1500))


@pytest.fixture(scope="module")
def pairs(conversations) -> list[tuple[str, str]]:
    """(question, answer) of the conversations without a system prompt."""
    return [
        (asked.content, answered.content)
        for messages in conversations
        if messages[0].role == "user"
        for asked, answered in zip(messages[::2], messages[1::2], strict=True)
    ]


@pytest.fixture(scope="module")
def examples() -> dict[str, list[evaluate.Example]]:
    return evaluate.skills()


def test_the_same_seed_gives_the_same_conversations(conversations):
    assert list(islice(dialogues.conversations(7), 100)) == conversations[:100]
    assert list(islice(dialogues.conversations(8), 100)) != conversations[:100]


def test_conversations_alternate_and_end_with_the_assistant(conversations):
    for messages in conversations:
        roles = [message.role for message in messages]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert all(message.content == message.content.strip() != "" for message in messages)


def test_sums_in_the_dialogues_are_right(pairs):
    found = [re.fullmatch(r"(\d+) ([+-]) (\d+) = (-?\d+)\.", answer) for _, answer in pairs]
    found = [match.groups() for match in found if match]
    assert len(found) > 500
    for a, sign, b, result in found:
        assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b))


@pytest.mark.parametrize("make", [skills.sort_words, skills.sort_numbers, skills.reverse_list])
def test_lists_keep_their_items(make):
    rng = Random(3)
    for _ in range(300):
        turn = make(rng)
        items = turn.answer.split(", ")
        assert all(re.search(rf"\b{item}\b", turn.prompt, re.IGNORECASE) for item in items)
        if make is skills.sort_words:
            assert items == sorted(items)
        if make is skills.sort_numbers:
            numbers = [int(item) for item in items]
            assert numbers in (sorted(numbers), sorted(numbers, reverse=True))


def test_small_sums_are_right_and_share_the_keys_of_the_others():
    rng = Random(8)
    for _ in range(500):
        turn = skills.small_sum(rng)
        a, sign, b, result = re.fullmatch(r"(\d+) ([+-]) (\d+) = (\d+)\.", turn.answer).groups()
        assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
        low, high = sorted((int(a), int(b)))
        assert turn.key == (f"add|{low}|{high}" if sign == "+" else f"subtract|{a}|{b}")


def test_comparisons_are_true():
    rng = Random(4)
    for _ in range(1000):
        turn = skills.compare(rng)
        if match := re.fullmatch(r"(?:(Yes|No), )?(\d+) is (bigger|smaller) than (\d+)\.", turn.answer):
            _, a, relation, b = match.groups()
            assert (int(a) > int(b)) == (relation == "bigger")
        elif match := re.fullmatch(r"(\d+) is the (biggest|smallest)\.", turn.answer):
            numbers = [int(n) for n in re.findall(r"\d+", turn.prompt)]
            assert int(match[1]) == (max if match[2] == "biggest" else min)(numbers)


def test_words_are_spelled_and_reversed_letter_by_letter():
    rng = Random(5)
    for _ in range(300):
        turn = skills.spell(rng)
        assert turn.answer.replace("-", "") in turn.prompt.lower()
        turn = skills.reverse_word(rng)
        assert turn.answer[::-1] in turn.prompt.lower()
        assert turn.letters


def test_every_key_decides_alone_whether_it_is_reserved():
    reserved = sum(skills.held_out(f"key {n}") for n in range(10_000))
    assert 700 < reserved < 950
    rng = Random(6)
    for skill in skills.SKILLS:
        for _ in range(100):
            assert not skills.held_out(dialogues.skill_turn(rng, skill=skill).key)
        assert skills.held_out(dialogues.skill_turn(rng, held=True, skill=skill).key)


def _plain(text: str) -> str:
    return text.lower().rstrip("?.! ")


def test_reserved_questions_do_not_occur_in_training(pairs, examples):
    trained = {_plain(question) for question, _ in pairs}
    for skill in SINGLE_QUESTIONS:
        overlap = {_plain(example.messages[-1]["content"]) for example in examples[skill]} & trained
        assert not overlap, f"{skill}: {sorted(overlap)[:3]}"


def test_reserved_sums_do_not_occur_in_training_in_any_phrasing(pairs, examples):
    trained = {answer for _, answer in pairs}
    for example in examples["add"] + examples["subtract"]:
        assert example.expected not in trained


def test_names_in_the_evaluation_are_reserved(examples):
    for example in examples["remembers a name"]:
        name = example.expected.removeprefix("Your name is ").removesuffix(".")
        assert skills.held_out(f"name|{name}")


def test_examples_are_fixed_and_no_two_are_equal(examples):
    assert evaluate.skills() == examples
    for of_skill in examples.values():
        assert len({json.dumps(example.messages) for example in of_skill}) == len(of_skill)
    assert sum(len(of_skill) for of_skill in examples.values()) >= 400


def test_a_perfect_and_a_silent_backend_score_all_and_nothing(examples):
    answers = {json.dumps(example.messages): example.expected for of in examples.values() for example in of}
    perfect = evaluate.scores(evaluate.evaluate(lambda messages: answers[json.dumps(messages)], examples))
    silent = evaluate.scores(evaluate.evaluate(lambda messages: "", examples))
    assert all(right == asked for right, asked in perfect.values())
    assert silent["overall"][0] == 0


def test_the_facts_are_as_many_as_promised_and_agree():
    assert len(skills.FACTS["capitals"]) >= 100
    assert sum(entry["topic"] == "wisp" for entry in skills.FACTS["answers"]) >= 20
    words = [word for pair in skills.FACTS["opposites"].items() for word in pair]
    assert [word for word, count in Counter(words).items() if count > 1] == []
    asked = [core for entry in skills.FACTS["answers"] for core in entry["ask"]]
    assert [core for core, count in Counter(asked).items() if count > 1] == []


def test_what_was_told_is_remembered_until_it_is_told_anew(conversations):
    asked = 0
    for messages in conversations:
        if messages[0].role == "system":
            continue
        name = None
        for message in messages:
            if told := re.fullmatch(r"Nice to meet you, (\w+)!", message.content):
                name = told[1]
            elif answer := re.fullmatch(r"Your name is (\w+)\.", message.content):
                assert answer[1] == name
                asked += 1
            elif message.content == "You have not told me your name.":
                assert name is None
    assert asked > 20


@pytest.mark.parametrize("style", dialogues.STYLES)
def test_a_system_prompt_changes_the_answers(style):
    rng = Random(9)
    made = dialogues.make_style(rng, style)
    turn = skills.Turn("capitals", "key", "Capital of Peru?", "The capital of Peru is Lima.", "Lima.")
    expected = {
        "capitals": "THE CAPITAL OF PERU IS LIMA.",
        "lower": "the capital of peru is lima.",
        "pirate": "Arr! The capital of Peru is Lima.",
        "cat": "The capital of Peru is Lima. Meow!",
        "robot": "Beep. The capital of Peru is Lima.",
        "one word": "Lima.",
    }
    answer = made.apply(turn).answer
    if style in ("end with", "start with"):
        assert turn.answer in answer
        assert answer != turn.answer
    else:
        assert answer == expected.get(style, turn.answer)
