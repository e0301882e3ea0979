"""Conversations for the embedded model: turns of every skill, system prompts, and things told and asked later.

Knows: how turns of `skills.py` follow one another, what a system prompt changes, and what the user has told so far.
Does not know: tokens or training. Pure Python; `conversations(seed)` always yields the same conversations.

Print a few: python configs/demo/dialogues.py [COUNT] [SEED]
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from random import Random

from skills import (
    FACTS,
    FAVOURITES,
    FINAL,
    NAMES,
    PHRASINGS,
    SKILLS,
    Shares,
    Turn,
    capital,
    colours,
    days,
    dress,
    finish,
    follow_capital,
    held_out,
    invented_name,
    months,
    opposite,
)

MAX_TURNS = 40


@dataclass(frozen=True)
class Message:
    role: str  # system, user or assistant
    content: str
    letters: bool = False  # see Turn.letters


# --- system prompts --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """What a system prompt asks for."""

    name: str
    prompt: str
    apply: Callable[[Turn], Turn]
    facts: dict[str, str] = field(default_factory=dict)  # told by the system prompt: the model's or the user's name


def _answer(change: Callable[[str], str]) -> Callable[[Turn], Turn]:
    return lambda turn: replace(turn, answer=change(turn.answer))


def _one_word(turn: Turn) -> Turn:
    return replace(turn, answer=turn.short) if turn.short else turn


def _capital_letters(turn: Turn) -> Turn:
    return replace(turn, answer=turn.answer.upper(), letters=True)


SYSTEM = PHRASINGS["system"]
STYLES = ("capitals", "lower", "pirate", "cat", "robot", "one word", "end with", "start with", "own name", "user name")


def make_style(rng: Random, name: str, *, held: bool = False) -> Style:
    """A system prompt of the kind `name`; names in it are reserved ones if `held`."""
    plain = {
        "capitals": _capital_letters,
        "lower": _answer(str.lower),
        "pirate": _answer(lambda text: f"Arr! {text}"),
        "cat": _answer(lambda text: f"{text} Meow!"),
        "robot": _answer(lambda text: f"Beep. {text}"),
        "one word": _one_word,
        "neutral": lambda turn: turn,
    }
    prompts = SYSTEM[name.replace(" ", "_")]
    if name in plain:
        return Style(name, rng.choice(prompts), plain[name])
    if name in ("end with", "start with"):
        word = rng.choice(SYSTEM["endings"])
        said = f"{word.capitalize()}!"
        change = (lambda text: f"{text} {said}") if name == "end with" else (lambda text: f"{said} {text}")
        return Style(name, rng.choice(prompts).format(w=word), _answer(change))
    person = some_name(rng, held)
    prompt = rng.choice(prompts).format(n=person)
    return Style(name, prompt, lambda turn: turn, {"own name" if name == "own name" else "name": person})


# --- things told and asked later -------------------------------------------------------------------------------------

MEMORY = PHRASINGS["memory"]


def some_name(rng: Random, held: bool) -> str:
    """A name; a reserved one if `held`."""
    while True:
        name = rng.choice(NAMES) if rng.random() < 0.6 else invented_name(rng)
        if held_out(f"name|{name}") == held:
            return name


def tell_name(rng: Random, known: dict[str, str], held: bool = False) -> Turn:
    name = known["name"] = some_name(rng, held)
    spelled = name if rng.random() < 0.85 else name.lower()
    prompt = rng.choice(MEMORY["name_told"]).format(v=spelled)
    if rng.random() < 0.5:
        prompt = prompt[0].upper() + prompt[1:]
    return Turn("memory", f"tell|{prompt}", prompt + rng.choice((".", "", "!")), f"Nice to meet you, {name}!")


def tell_favourite(rng: Random, known: dict[str, str], kind: str) -> Turn:
    value = known[kind] = rng.choice(FAVOURITES[kind])
    prompt = finish(rng, rng.choice(MEMORY["liked"]).format(k=kind, v=value), False)
    return Turn("memory", f"tell|{prompt}", prompt, f"Good to know: your favourite {kind} is {value}.")


def ask_told(rng: Random, known: dict[str, str], kind: str) -> Turn:
    """Asks for what was told; the honest answer if it was not."""
    if kind == "own name":
        prompt = finish(rng, rng.choice(MEMORY["own_name_asked"]), True)
        name = known["own name"]
        return Turn("system prompt", f"ask own name|{prompt}", prompt, f"My name is {name}.", f"{name}.")
    if kind == "name":
        core, told = rng.choice(MEMORY["name_asked"]), f"Your name is {known.get(kind)}."
    else:
        core, told = rng.choice(MEMORY["liked_asked"]).format(k=kind), f"Your favourite {kind} is {known.get(kind)}."
    value = known.get(kind)
    missing = "You have not told me your name." if kind == "name" else f"You have not told me your favourite {kind}."
    prompt = finish(rng, dress(rng, core)[0], True)
    short = f"{value[0].upper()}{value[1:]}." if value else None
    return Turn("memory", f"ask|{prompt}", prompt, told if value else missing, short)


def _memory_turn(rng: Random, known: dict[str, str]) -> Turn:
    kind = rng.choice(("name", "name", "name", "colour", "colour", "colour", *FAVOURITES))
    told = [k for k in known if k != "own name"]
    if told and rng.random() < 0.5:
        return ask_told(rng, known, rng.choice(told))
    if rng.random() < 0.25:
        return ask_told(rng, known, kind)
    return tell_name(rng, known) if kind == "name" else tell_favourite(rng, known, kind)


# --- conversations ---------------------------------------------------------------------------------------------------


def skill_turn(
    rng: Random, *, held: bool = False, skill: Callable[[Random], Turn] | None = None, shares: Shares = SKILLS
) -> Turn:
    """A turn of `skill`, or of any by its share: one that training may see, or a reserved one if `held`."""
    while True:
        chosen = skill or rng.choices(list(shares), list(shares.values()))[0]
        turn = chosen(rng)
        if held_out(turn.key) == held:
            return turn


def styled_turn(rng: Random, style: Style, *, held: bool = False, shares: Shares = SKILLS) -> Turn:
    """A turn under a system prompt; which questions are reserved depends on the style too."""
    while True:
        if style.name == "one word":
            turn = skill_turn(rng, skill=rng.choice((capital, capital, opposite, colours, days, months)))
        elif style.name in ("own name", "user name") and rng.random() < (1.0 if held else 0.4):
            turn = ask_told(rng, style.facts, next(iter(style.facts)))
            return replace(turn, skill="system prompt")
        else:
            turn = skill_turn(rng, shares=shares)
        if held_out(f"{style.name}|{turn.key}") == held:
            return style.apply(turn)


def with_typo(rng: Random, prompt: str) -> str:
    """One slip of the keyboard in a longer word."""
    places = [i for i in range(1, len(prompt) - 2) if prompt[i - 1 : i + 3].isalpha()]
    if not places:
        return prompt
    i = rng.choice(places)
    if rng.random() < 0.5:
        return prompt[:i] + prompt[i + 1 :]
    return prompt[:i] + prompt[i + 1] + prompt[i] + prompt[i + 2 :]


def _length(rng: Random) -> int:
    least, most = rng.choices(((1, 1), (2, 5), (6, 14), (15, MAX_TURNS)), (14, 36, 43, 7))[0]
    return rng.randint(least, most)


def _turns(rng: Random, style: Style, shares: Shares) -> Iterator[Turn]:
    known = dict(style.facts)
    memory_share = rng.choice((0.0, 0.08, 0.2, 0.35))
    only = rng.choice(list(SKILLS)) if rng.random() < 0.15 else None  # somebody who tries one thing again and again
    count = _length(rng)
    if style.name == "capitals":
        count = min(count, 5)
    previous = None
    for _ in range(count):
        if style.name == "neutral" or style.name == "user name":
            if rng.random() < memory_share:
                yield _memory_turn(rng, known)
                continue
        elif rng.random() < memory_share * 0.7 and style.name != "one word":
            yield style.apply(_memory_turn(rng, known))
            continue
        if style.name != "neutral":
            turn = styled_turn(rng, style, shares=shares)
        elif previous == "capitals" and rng.random() < 0.2:
            turn = skill_turn(rng, skill=follow_capital)
        else:
            turn = skill_turn(rng, skill=only if only and rng.random() < 0.8 else None, shares=shares)
        previous = turn.skill
        prose = turn.skill in ("wisp and webgpu", "about itself", "small talk", "days", "months", "colours")
        yield replace(turn, prompt=with_typo(rng, turn.prompt)) if prose and rng.random() < 0.06 else turn


def conversation(rng: Random, shares: Shares = SKILLS) -> list[Message]:
    """One conversation that training may see. At the end of training more of them have a system prompt."""
    if shares is FINAL:
        style = make_style(rng, rng.choice((*STYLES, *["capitals"] * 8)) if rng.random() < 0.3 else "neutral")
    else:
        style = make_style(rng, rng.choice(STYLES) if rng.random() < 0.18 else "neutral")
    messages = []
    if style.name != "neutral" or rng.random() < 0.15:
        messages.append(Message("system", style.prompt))
    for turn in _turns(rng, style, shares):
        messages.append(Message("user", turn.prompt))
        messages.append(Message("assistant", turn.answer, turn.letters))
    return messages


def conversations(seed: int) -> Iterator[list[Message]]:
    """Endless conversations; the same for the same seed."""
    rng = Random(f"dialogues {seed}")
    while True:
        yield conversation(rng)


def main() -> None:
    count, seed = (int(text) for text in (sys.argv[1:] + ["3", "0"][len(sys.argv) - 1 :]))
    for messages in islice(conversations(seed), count):
        print("\n".join(f"{message.role:>9}: {message.content}" for message in messages), end="\n\n")
    print(f"{len(FACTS['capitals'])} capitals, {len(FACTS['answers'])} fixed answers")


if __name__ == "__main__":
    main()
