"""What the embedded model can do: one function a skill, each making one question and its answer.

Knows: the facts in `facts.toml`, the material in `words.toml` and how people ask, in `phrasings.toml`. Does not know:
conversations (`dialogues.py`), tokens or training. Pure Python; the same `random.Random` gives the same turns.

Every turn has a `key` that names what is asked, apart from letter case and punctuation. `held_out(key)` decides, by a
hash, that about one key in twelve never appears in training; `evaluate.py` asks exactly these.
"""

import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from string import ascii_lowercase

HERE = Path(__file__).parent
FACTS = tomllib.loads((HERE / "facts.toml").read_text(encoding="utf-8"))
PHRASINGS = tomllib.loads((HERE / "phrasings.toml").read_text(encoding="utf-8"))
MATERIAL = tomllib.loads((HERE / "words.toml").read_text(encoding="utf-8"))
WORDS = MATERIAL["words"].split()
NAMES = MATERIAL["names"].split()
FAVOURITES = MATERIAL["favourites"]
DAYS, MONTHS = MATERIAL["calendar"]["days"].split(), MATERIAL["calendar"]["months"].split()
ORDINALS = MATERIAL["calendar"]["ordinals"].split()
DIGIT_ORDINALS = MATERIAL["calendar"]["digit_ordinals"].split()
OPPOSITES = {
    **FACTS["opposites"],
    **{right: left for left, right in FACTS["opposites"].items()},
    **FACTS["opposites_one_way"],
}

UNKNOWN_SAY = "I do not know that. I know sums, words, capitals, colours, days, and Wisp and WebGPU."
FOREIGN_SAY = "Sorry, I only understand simple English."
TOO_BIG_SAY = "I can only add and subtract numbers up to 100."
NO_PRODUCT_SAY = "I can only add and subtract."


@dataclass(frozen=True)
class Turn:
    """One question and its answer."""

    skill: str
    key: str  # what is asked; held out of training when `held_out(key)`
    prompt: str
    answer: str
    short: str | None = None  # the answer in one word, where there is one
    letters: bool = False  # the answer is made of letters, not of words: training spells it out a character a token


def held_out(key: str) -> bool:
    """Whether `key` is reserved for evaluation: about one in twelve, by SHA-256, so it never depends on a seed."""
    return hashlib.sha256(key.encode()).digest()[0] < 21


def dress(rng: Random, core: str) -> tuple[str, str]:
    """(prompt, what was added): sometimes a prefix or a suffix."""
    roll = rng.random()
    if roll < 0.14:
        prefix = rng.choice(PHRASINGS["around"]["prefixes"])
        return prefix + core, prefix.strip()
    if roll < 0.2:
        suffix = rng.choice(PHRASINGS["around"]["suffixes"])
        return core + suffix, suffix.strip()
    return core, ""


def finish(rng: Random, text: str, question: bool) -> str:
    """Letter case and end of sentence as people type them."""
    roll = rng.random()
    if roll < 0.5:
        text = text[0].upper() + text[1:]
    elif roll < 0.65:
        text = text.lower()
    elif roll < 0.67:
        text = text.upper()
    if text[-1].isalnum() or text[-1] in "'\")":
        end = ("?", "?", "?", "", "", "??") if question else (".", ".", "", "", "!")
        text += rng.choice(end)
    return text


def _ask(rng: Random, skill: str, fact: str, cores: list[str], answer: str, **more: str | None) -> Turn:
    """A turn whose key is the fact, the phrasing and what was added to it."""
    index = rng.randrange(len(cores))
    prompt, added = dress(rng, cores[index])
    return Turn(skill, f"{skill}|{fact}|{index}|{added}", finish(rng, prompt, True), answer, **more)


# --- numbers ---------------------------------------------------------------------------------------------------------

NUMBERS = PHRASINGS["numbers"]


def add(rng: Random) -> Turn:
    """Sums up to 100, and now and then of any two numbers up to 100."""
    a, b = rng.randint(0, 100), rng.randint(0, 100)
    if a + b > 100 and rng.random() < 0.85:
        a, b = rng.choice(((100 - a, 100 - b), (a, rng.randint(0, 100 - a))))
    prompt, _ = dress(rng, rng.choice(NUMBERS["add"]).format(a=a, b=b))
    answer = f"{a} + {b} = {a + b}."
    return Turn("add", f"add|{min(a, b)}|{max(a, b)}", finish(rng, prompt, True), answer, str(a + b))


def subtract(rng: Random) -> Turn:
    """Differences of two numbers up to 100, rarely below zero."""
    a, b = rng.randint(0, 100), rng.randint(0, 100)
    template = rng.choice(NUMBERS["subtract"])
    if a < b and (rng.random() < 0.92 or "difference" in template):
        a, b = b, a
    prompt, _ = dress(rng, template.format(a=a, b=b))
    return Turn("subtract", f"subtract|{a}|{b}", finish(rng, prompt, True), f"{a} - {b} = {a - b}.", str(a - b))


def small_sum(rng: Random) -> Turn:
    """Sums and differences of numbers up to 20: rare among all pairs, but what people try first."""
    template, sign = rng.choice([(t, "+") for t in NUMBERS["add"]] + [(t, "-") for t in NUMBERS["subtract"]])
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    if sign == "+":
        key, result = f"add|{min(a, b)}|{max(a, b)}", a + b
    else:
        a, b = max(a, b), min(a, b)
        key, result = f"subtract|{a}|{b}", a - b
    prompt = finish(rng, template.format(a=a, b=b), True)
    return Turn("add" if sign == "+" else "subtract", key, prompt, f"{a} {sign} {b} = {result}.", str(result))


def compare(rng: Random) -> Turn:
    """Which of two or three numbers is bigger or smaller, and yes-or-no questions about it."""
    top = rng.choice((20, 100, 100, 100))
    a, b, c = rng.randint(0, top), rng.randint(0, top), rng.randint(0, top)
    if rng.random() < 0.25:
        b = min(100, a + rng.choice((1, 2, 10)))
    key = f"compare|{min(a, b)}|{max(a, b)}"
    kind = rng.choice(("bigger", "smaller", "is bigger", "is smaller", "compare", "three"))
    phrasings = PHRASINGS["compare"]
    if kind == "three":
        pick, word = (max(a, b, c), "biggest") if rng.random() < 0.6 else (min(a, b, c), "smallest")
        core = rng.choice(phrasings["extreme"]).format(word=rng.choice(phrasings[word]), a=a, b=b, c=c)
        answer, short, key = f"{pick} is the {word}.", str(pick), f"{key}|{c}|{word}"
    elif kind == "compare":
        core = rng.choice(phrasings["relation"]).format(a=a, b=b)
        relation = "equal to" if a == b else "bigger than" if a > b else "smaller than"
        answer, short = f"{a} is {relation} {b}.", None
    elif kind.startswith("is "):
        asked = kind.removeprefix("is ")
        core = f"is {a} {rng.choice(phrasings[asked])} than {b}"
        truth = "bigger" if a > b else "smaller"
        short = "Yes" if a != b and truth == asked else "No"
        answer = f"{short}, {a} is {truth} than {b}." if a != b else "No, they are equal."
    else:
        core = rng.choice(phrasings["which"]).format(word=rng.choice(phrasings[kind]), a=a, b=b)
        pick = max(a, b) if kind == "bigger" else min(a, b)
        answer, short = (f"{pick} is {kind}.", str(pick)) if a != b else ("They are equal.", None)
    return Turn("compare", key, finish(rng, dress(rng, core)[0], True), answer, short)


# --- words and lists -------------------------------------------------------------------------------------------------

INVENTED = MATERIAL["invented"]
ONSETS, CENTRES, ENDS = INVENTED["onsets"].split(), INVENTED["centres"].split(), ["", "", *INVENTED["ends"].split()]


def invented_word(rng: Random, most: int = 7) -> str:
    """A pronounceable word that is (mostly) none, so that spelling is learnt from letters and not by heart."""
    while True:
        word = "".join(
            rng.choice(ONSETS) + rng.choice(CENTRES) + rng.choice(ENDS) for _ in range(rng.choice((1, 1, 2)))
        )
        if 3 <= len(word) <= most:
            return word


def _word(rng: Random) -> str:
    return rng.choice(WORDS) if rng.random() < 0.65 else invented_word(rng)


def _quoted(rng: Random, word: str) -> str:
    return rng.choice(("{}", "{}", "{}", '"{}"', "'{}'")).format(word)


SPELLING = PHRASINGS["words"]


def spell(rng: Random) -> Turn:
    word = _word(rng)
    prompt = rng.choice(SPELLING["spell"]).format(w=_quoted(rng, word))
    return Turn("spell", f"spell|{word}", finish(rng, prompt, False), "-".join(word))


def reverse_word(rng: Random) -> Turn:
    word = _word(rng)
    prompt = rng.choice(SPELLING["reverse"]).format(w=_quoted(rng, word))
    return Turn("reverse word", f"reverse|{word}", finish(rng, prompt, False), word[::-1], word[::-1], letters=True)


def _items(rng: Random) -> list[str]:
    """Three to five different words, colours, names or numbers."""
    count = rng.choice((3, 3, 3, 4, 4, 5))
    kind = rng.choice(("words", "words", "numbers", "colours", "letters"))
    if kind == "numbers":
        return [str(n) for n in rng.sample(range(100), count)]
    pool = {"words": WORDS, "colours": FAVOURITES["colour"], "letters": ascii_lowercase}[kind]
    return rng.sample(pool, count)


def _listed(rng: Random, items: list[str]) -> str:
    return rng.choice((", ", ", ", ", ", " ")).join(items)


def _list_turn(rng: Random, skill: str, templates: list[str], items: list[str], answer: list[str], tag: str) -> Turn:
    prompt = rng.choice(templates).format(w=_listed(rng, items))
    return Turn(skill, f"{tag}|{' '.join(items)}", finish(rng, prompt, False), ", ".join(answer))


def reverse_list(rng: Random) -> Turn:
    items = _items(rng)
    return _list_turn(rng, "reverse list", SPELLING["reverse_list"], items, items[::-1], "reverse list")


def sort_words(rng: Random) -> Turn:
    """Mostly words with different first letters; sometimes the second letter decides."""
    words = rng.random() < 0.8
    items = rng.sample(WORDS, rng.choice((3, 3, 3, 4, 5))) if words else rng.sample(ascii_lowercase, 4)
    while len({item[:2] for item in items}) < len(items):
        items = rng.sample(WORDS, len(items))
    return _list_turn(rng, "sort words", SPELLING["sort"] + SPELLING["sort_words"], items, sorted(items), "sort")


def sort_numbers(rng: Random) -> Turn:
    items = [str(n) for n in rng.sample(range(rng.choice((10, 100, 100, 100))), rng.choice((3, 3, 4, 5)))]
    down = rng.random() < 0.3
    answer = sorted(items, key=int, reverse=down)
    templates = SPELLING["sort_down"] if down else SPELLING["sort"] + SPELLING["sort_up"]
    return _list_turn(rng, "sort numbers", templates, items, answer, f"sort {down}")


# --- facts -----------------------------------------------------------------------------------------------------------

ARTICLE = {"Netherlands", "Philippines", "United Kingdom", "United States"}
ASKED = PHRASINGS["facts"]


def _with_article(country: str) -> str:
    return f"the {country}" if country in ARTICLE else country


def capital(rng: Random, templates: str = "capital") -> Turn:
    country = rng.choice(list(FACTS["capitals"]))
    city = FACTS["capitals"][country]
    cores = [template.format(c=_with_article(country)) for template in ASKED[templates]]
    fact = country if templates == "capital" else f"{country}, following"
    return _ask(rng, "capitals", fact, cores, f"The capital of {_with_article(country)} is {city}.", short=f"{city}.")


def follow_capital(rng: Random) -> Turn:
    """'And Spain?', after a question about another capital."""
    return capital(rng, "follow")


def opposite(rng: Random) -> Turn:
    word = rng.choice(list(OPPOSITES))
    cores = [template.format(w=word) for template in ASKED["opposite"]]
    other = OPPOSITES[word]
    return _ask(rng, "opposites", word, cores, f"The opposite of {word} is {other}.", short=f"{other.capitalize()}.")


def _calendar(rng: Random, skill: str, names: list[str], unit: str, span: str) -> Turn:
    """What comes after or before, the n-th, and the whole list of the days or the months."""
    index = rng.randrange(len(names))
    name, following, previous = names[index], names[(index + 1) % len(names)], names[index - 1]
    kind = rng.choice(("after", "after", "before", "before", "nth", "nth", "list"))
    ordinal = ORDINALS[index]
    fact, answer, short = {
        "after": (f"after {name}", f"{following} comes after {name}.", f"{following}."),
        "before": (f"before {name}", f"{previous} comes before {name}.", f"{previous}."),
        "nth": (ordinal, f"{name} is the {ordinal} {unit}.", f"{name}."),
        "list": ("list", ", ".join(names) + ".", None),
    }[kind]
    filled = {"name": name, "unit": unit, "span": span, "nth": ordinal, "digits": DIGIT_ORDINALS[index]}
    return _ask(rng, skill, fact, [template.format(**filled) for template in ASKED[kind]], answer, short=short)


def days(rng: Random) -> Turn:
    return _calendar(rng, "days", DAYS, "day", "week")


def months(rng: Random) -> Turn:
    return _calendar(rng, "months", MONTHS, "month", "year")


def colours(rng: Random) -> Turn:
    if rng.random() < 0.3:
        pair = rng.choice(list(FACTS["mixes"]))
        result, swapped = FACTS["mixes"][pair], " and ".join(reversed(pair.split(" and ")))
        cores = [template.format(m=m) for m in (pair, swapped) for template in ASKED["mix"]]
        answer = f"{pair.capitalize()} make {result}."
        return _ask(rng, "colours", pair, cores, answer, short=f"{result.capitalize()}.")
    thing = rng.choice(list(FACTS["colours"]))
    colour = FACTS["colours"][thing]
    cores = [template.format(thing=thing) for template in ASKED["colour"]]
    answer = f"{thing[0].upper()}{thing[1:]} is {colour}."
    return _ask(rng, "colours", thing, cores, answer, short=f"{colour.capitalize()}.")


def counts(rng: Random) -> Turn:
    fact = rng.choice(list(FACTS["counts"]))
    answer = FACTS["counts"][fact]
    subject, place = [*fact.split(" are in "), ""][:2]
    cores = [template.format(fact=fact) for template in ASKED["count"]]
    if place:
        cores += [template.format(subject=subject, place=place) for template in ASKED["count_in"]]
    return _ask(rng, "counts", fact, cores, answer)


def _answers(skill: str, topics: tuple[str, ...]) -> Callable[[Random], Turn]:
    entries = [(number, entry) for number, entry in enumerate(FACTS["answers"]) if entry["topic"] in topics]

    def ask(rng: Random) -> Turn:
        number, entry = rng.choice(entries)
        return _ask(rng, skill, str(number), entry["ask"], entry["say"])

    return ask


wisp = _answers("wisp and webgpu", ("wisp",))
about_itself = _answers("about itself", ("self",))
small_talk = _answers("small talk", ("chat",))


# --- what it does not know -------------------------------------------------------------------------------------------


def invented_name(rng: Random) -> str:
    return invented_word(rng).capitalize()


# Code points of Cyrillic, Arabic, Hebrew, kana, Han, Hangul, Devanagari, and emoji twice.
SCRIPTS = ((0x0400, 0x044F), (0x0621, 0x064A), (0x05D0, 0x05EA), (0x3041, 0x30FA), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3),
           (0x0905, 0x0939), (0x1F300, 0x1F64F), (0x1F300, 0x1F64F))  # fmt: skip


def _foreign(rng: Random) -> str:
    if rng.random() < 0.6:
        return rng.choice(MATERIAL["unknown"]["foreign"])
    first, last = rng.choice(SCRIPTS)
    letters = (chr(rng.randint(first, last)) + (" " if rng.random() < 0.15 else "") for _ in range(rng.randint(1, 8)))
    return "".join(letters).strip()


def unknown(rng: Random) -> Turn:
    """Honest answers to what lies outside: other topics, made-up countries, other languages, products, big numbers."""
    roll = rng.random()
    if roll < 0.58:
        template = rng.choice(MATERIAL["unknown"]["questions"])
        prompt = template.format(
            country=_with_article(rng.choice(list(FACTS["capitals"]))),
            word=rng.choice(WORDS),
            thing=rng.choice(MATERIAL["unknown"]["things"]),
            food=rng.choice(FAVOURITES["food"]),
            name=rng.choice(NAMES),
            number=rng.randint(2, 999),
        )
        return Turn("unknown", f"unknown|{prompt}", finish(rng, dress(rng, prompt)[0], True), UNKNOWN_SAY)
    if roll < 0.7:
        name = invented_word(rng) + rng.choice(("ia", "land", "stan", "", "ovia"))
        prompt = rng.choice(ASKED["capital"]).format(c=name.capitalize())
        return Turn("unknown", f"unknown|{name}", finish(rng, prompt, True), "I do not know that country.")
    if roll < 0.78:
        word = rng.choice([w for w in WORDS if w not in OPPOSITES])
        prompt = rng.choice(ASKED["opposite"]).format(w=word)
        return Turn(
            "unknown", f"unknown|opposite {word}", finish(rng, prompt, True), "I do not know an opposite of that."
        )
    if roll < 0.86:
        text = _foreign(rng)
        return Turn("unknown", f"unknown|{text}", text + rng.choice(("", "?", "!", ".")), FOREIGN_SAY)
    if roll < 0.93:
        a, b = rng.randint(0, 999), rng.randint(101, 9999)
        a, b = rng.choice(((a, b), (b, a)))
        template = rng.choice(NUMBERS["add"][:7] + NUMBERS["subtract"][:7])
        prompt, key, answer = template.format(a=a, b=b), f"unknown|{a}|{b}", TOO_BIG_SAY
    else:
        a, b = rng.randint(0, 100), rng.randint(0, 100)
        template = rng.choice(NUMBERS["other_products"])
        prompt, key, answer = template.format(a=a, b=b), f"unknown|product {a}|{b}", NO_PRODUCT_SAY
    return Turn("unknown", key, finish(rng, prompt, True), answer)


Shares = dict[Callable[[Random], Turn], float]

# Each skill with its share of the turns.
SKILLS: Shares = {
    add: 10, subtract: 10, compare: 6,
    spell: 6, reverse_word: 9, reverse_list: 5, sort_words: 7, sort_numbers: 6,
    capital: 10, opposite: 5, days: 3, months: 4, colours: 3, counts: 2,
    wisp: 9, about_itself: 4, small_talk: 5, unknown: 7,
}  # fmt: skip

# The shares later in training: what is known by heart is known by then, what is worked out needs practice.
PRACTICE: Shares = {
    add: 16, subtract: 16, compare: 8,
    spell: 8, reverse_word: 10, reverse_list: 8, sort_words: 10, sort_numbers: 9,
    capital: 10, opposite: 5, days: 2, months: 3, colours: 2, counts: 2,
    wisp: 4, about_itself: 2, small_talk: 3, unknown: 5,
}  # fmt: skip

# The shares at the end of training.
FINAL: Shares = {**PRACTICE, small_sum: 10}
