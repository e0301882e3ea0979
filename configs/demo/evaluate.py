"""Exact match of the embedded model on reserved prompts, a row a skill.

    python configs/demo/evaluate.py --backend torch         # f32, through transformers
    python configs/demo/evaluate.py --backend fake-quant    # the same with every matrix rounded to q4
    python configs/demo/evaluate.py --backend artifacts/demo    # a compiled artifact, natively through wgpu

Knows: which prompts training never saw (`held_out` in `skills.py`) and what the answer must be. Does not know what
produces the answers: `evaluate(generate)` takes any function from messages to text, so that a compiled artifact is
measured with the same examples. Importing this module needs neither torch nor transformers.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from dialogues import (
    FAVOURITES,
    STYLES,
    ask_told,
    make_style,
    skill_turn,
    styled_turn,
    tell_favourite,
    tell_name,
)
from skills import SKILLS, Turn, capital, follow_capital

PER_SKILL = 25
MAX_NEW_TOKENS = 128

Messages = list[dict[str, str]]
Generate = Callable[[Messages], str]


@dataclass(frozen=True)
class Example:
    """A conversation that ends with the user, and the one right answer."""

    messages: Messages
    expected: str


@dataclass(frozen=True)
class Result:
    skill: str
    example: Example
    got: str

    @property
    def exact(self) -> bool:
        return self.got.strip() == self.example.expected


def _said(turns: list[Turn]) -> Messages:
    return [
        m for t in turns for m in ({"role": "user", "content": t.prompt}, {"role": "assistant", "content": t.answer})
    ]


def _example(earlier: list[Turn], last: Turn, system: str | None = None) -> Example:
    first = [{"role": "system", "content": system}] if system else []
    return Example([*first, *_said(earlier), {"role": "user", "content": last.prompt}], last.answer)


def _single(skill: Callable[[Random], Turn]) -> Callable[[Random], Example]:
    return lambda rng: _example([], skill_turn(rng, held=True, skill=skill))


def _follow_up(rng: Random) -> Example:
    return _example([skill_turn(rng, skill=capital)], skill_turn(rng, held=True, skill=follow_capital))


def _remembered(rng: Random, kind: str) -> Example:
    """Something told, one to five other turns, and the question about it."""
    known: dict[str, str] = {}
    told = tell_name(rng, known, held=True) if kind == "name" else tell_favourite(rng, known, kind)
    others = [skill_turn(rng) for _ in range(rng.randint(1, 5))]
    return _example([told, *others], ask_told(rng, known, kind))


def _not_told(rng: Random) -> Example:
    others = [skill_turn(rng) for _ in range(rng.randint(0, 3))]
    return _example(others, ask_told(rng, {}, rng.choice(("name", *FAVOURITES))))


def _system(rng: Random) -> Example:
    style = make_style(rng, rng.choice(STYLES), held=True)
    return _example([], styled_turn(rng, style, held=style.name not in ("own name", "user name")), style.prompt)


def _conversation(rng: Random) -> Example:
    return _example([skill_turn(rng) for _ in range(rng.randint(3, 8))], skill_turn(rng, held=True))


def skills(per_skill: int = PER_SKILL) -> dict[str, list[Example]]:
    """The examples of every skill; always the same ones."""
    makers = {maker(Random(0)).skill: (_single(maker), per_skill) for maker in SKILLS}
    makers |= {
        "follow-up question": (_follow_up, per_skill),
        "remembers a name": (lambda rng: _remembered(rng, "name"), per_skill),
        "remembers a favourite": (
            lambda rng: _remembered(rng, rng.choice(("colour", "colour", *FAVOURITES))),
            per_skill,
        ),
        "was not told": (_not_told, per_skill),
        "system prompt": (_system, 2 * per_skill),
        "long conversation": (_conversation, 2 * per_skill),
    }
    examples: dict[str, list[Example]] = {}
    for name, (make, count) in makers.items():
        rng, found = Random(f"evaluation {name}"), {}
        for _ in range(50 * count):  # a skill with few reserved prompts gives fewer examples
            example = make(rng)
            found.setdefault(json.dumps(example.messages).lower(), example)
            if len(found) == count:
                break
        examples[name] = list(found.values())
    return examples


def evaluate(generate: Generate, examples: dict[str, list[Example]] | None = None) -> list[Result]:
    """Asks `generate` for every example's answer."""
    return [
        Result(skill, example, generate(example.messages))
        for skill, of_skill in (examples or skills()).items()
        for example in of_skill
    ]


def scores(results: list[Result]) -> dict[str, tuple[int, int]]:
    """(exact, asked) of each skill and `overall`."""
    table: dict[str, tuple[int, int]] = {}
    for result in results:
        for name in (result.skill, "overall"):
            right, asked = table.get(name, (0, 0))
            table[name] = right + result.exact, asked + 1
    table["overall"] = table.pop("overall")
    return table


def report(results: list[Result]) -> str:
    """The scores as a Markdown table."""
    rows = [f"| {name} | {100 * right / asked:.1f} % | {asked} |" for name, (right, asked) in scores(results).items()]
    return "\n".join(["| skill | exact match | n |", "|---|---:|---:|", *rows])


def torch_backend(checkpoint: Path, *, rounded: bool) -> Generate:
    """Greedy answers in f32 by transformers; with every matrix rounded to q4 if `rounded`."""
    import torch
    from model import round_to_q4
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    if rounded:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.copy_(round_to_q4(parameter))

    @torch.inference_mode()
    def generate(messages: Messages) -> str:
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        ids, cache, answer = torch.tensor([prompt]), None, []
        while len(answer) < MAX_NEW_TOKENS:
            output = model(ids, past_key_values=cache, use_cache=True)
            cache, token = output.past_key_values, output.logits[0, -1].argmax().item()
            if token == model.config.eos_token_id:
                break
            answer.append(token)
            ids = torch.tensor([[token]])
        return tokenizer.decode(answer)

    return generate


def artifact_backend(directory: Path, variant: str, checkpoint: Path) -> Generate:
    """Greedy answers of a compiled artifact, replayed natively through wgpu."""
    from transformers import AutoTokenizer
    from wisp.artifact.state import SamplingParameters
    from wisp.artifact.writer import load_artifact
    from wisp.runtime.wgpu import open_variant

    artifact = load_artifact(directory)
    tokenizer, runtime = AutoTokenizer.from_pretrained(checkpoint), open_variant(artifact, variant)
    stop = artifact.model["stop_token_ids"]

    def generate(messages: Messages) -> str:
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        return tokenizer.decode(runtime.generate(prompt, MAX_NEW_TOKENS, SamplingParameters(), stop))

    return generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="torch", help="torch, fake-quant, or an artifact's directory")
    parser.add_argument("--variant", default="webgpu-f32-sg", help="of the artifact")
    parser.add_argument("--checkpoint", type=Path, default=Path(__file__).parent)
    parser.add_argument("--per-skill", type=int, default=PER_SKILL)
    parser.add_argument("--failures", action="store_true", help="print what was asked, expected and answered")
    args = parser.parse_args()
    if args.backend in ("torch", "fake-quant"):
        generate = torch_backend(args.checkpoint, rounded=args.backend == "fake-quant")
    else:
        generate = artifact_backend(Path(args.backend), args.variant, args.checkpoint)
    results = evaluate(generate, skills(args.per_skill))
    for result in results:
        if args.failures and not result.exact:
            asked = [m["content"] for m in result.example.messages if m["role"] == "system"]
            asked.append(result.example.messages[-1]["content"])
            print(f"{result.skill}: {asked}")
            print(f"    expected {result.example.expected!r}\n    answered {result.got!r}")
    print(report(results))


if __name__ == "__main__":
    main()
