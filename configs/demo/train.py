"""Trains the embedded model from scratch: tokenizer, weights, and the checkpoint's files.

    python configs/demo/train.py --seed 1 --workers 2

Knows: tokens, batches, the optimizer and the schedule. Does not know: what the dialogues say (`dialogues.py`) or how
good the result is (`evaluate.py`). The state is saved as it goes, so that a stopped run goes on where it was. While the
learning rate falls, every matrix is rounded to 4 bits in the forward pass, so that the weights settle where rounding
costs little. `--steps 0` writes the checkpoint of the state that was saved last.
"""

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from dialogues import Message, conversation, conversations
from model import CONFIG, forward, initial_weights, rope_table, rounded_weights
from safetensors.torch import save_file
from skills import FINAL, PRACTICE, SKILLS, reverse_list, reverse_word, sort_words, spell
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

BOS, END = "<|bos|>", "<|end|>"
SPECIAL = (BOS, END, "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + (message['content'] | trim) + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MAX_LENGTH = CONFIG["max_position_embeddings"]
BATCH_TOKENS = 4096
POOL = 400  # conversations that are sorted by length together
PRACTICE_FROM, FINAL_FROM = 41, 112  # the first pools with the shares of later training and of its end
MUON_RATE, ADAM_RATE = 0.02, 0.004
# (step, share of the rate), linear in between: warm-up, constant, then down in three stretches.
SCHEDULE = (
    *((-1, 0.0), (59, 1.0), (1300, 1.0), (1750, 2 / 11), (1900, 1 / 7)),
    *((1950, 0.25), (2450, 0.25), (2900, 0.0), (2950, 0.4), (4000, 0.0)),
)
ROUND_FROM = 1300  # the first step that rounds to q4


# --- tokenizer -------------------------------------------------------------------------------------------------------


def tokenizer_corpus() -> Iterator[str]:
    """Text for the merges. Words to spell or sort are left out: they shall fall into pieces that many words share."""
    lettered = (spell, reverse_word, reverse_list, sort_words)
    rng = Random("tokenizer")
    for skill in SKILLS:
        if skill not in lettered:
            for _ in range(3000):
                turn = skill(rng)
                yield turn.prompt
                yield turn.answer
    stream = conversations(0)
    for _ in range(3000):
        yield from (message.content for message in next(stream)[:2])


def train_tokenizer(out: Path) -> None:
    """Byte-level BPE, digits one by one; writes tokenizer.json and tokenizer_config.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tokenizer_corpus(), trainer)
    if tokenizer.get_vocab_size() != CONFIG["vocab_size"]:
        raise ValueError(f"the corpus gives {tokenizer.get_vocab_size()} tokens, the model has {CONFIG['vocab_size']}")
    tokenizer.save(str(out / "tokenizer.json"))
    write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": END, "pad_token": END,
        "add_bos_token": False, "add_eos_token": False, "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_LENGTH, "chat_template": CHAT_TEMPLATE,
    })  # fmt: skip


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class Encoder:
    """Conversations to token ids and to which of them are learnt: the assistant's words and its end of turn."""

    def __init__(self, path: Path):
        self.tokenizer = Tokenizer.from_file(str(path))
        self.special = {name: self.tokenizer.token_to_id(name) for name in SPECIAL}
        self.known: dict[tuple[str, bool], list[int]] = {}

    def text(self, text: str, letters: bool) -> list[int]:
        if letters:  # one token a character, so that letters need not be learnt in merged groups
            return [token for character in text for token in self.text(character, False)]
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def conversation(self, messages: list[Message]) -> tuple[list[int], list[bool]]:
        ids, learnt = [self.special[BOS]], [False]
        for message in messages:
            content = [*self.text(message.content, message.letters), self.special[END]]
            if len(ids) + len(content) + 1 > MAX_LENGTH:
                break
            ids += [self.special[f"<|{message.role}|>"], *content]
            learnt += [False] + [message.role == "assistant"] * len(content)
        return ids, learnt


# --- data ------------------------------------------------------------------------------------------------------------


def batches(encoder: Encoder, seed: int, pool: int, skip: int) -> Iterator[tuple[int, int, torch.Tensor, torch.Tensor]]:
    """(pool, index in it, ids [B, T], learnt [B, T]) from pool `pool` on: about BATCH_TOKENS tokens of like lengths."""
    while True:
        rng = Random(f"batches {seed} {pool}")
        shares = SKILLS if pool < PRACTICE_FROM else PRACTICE if pool < FINAL_FROM else FINAL
        rows = sorted(
            (encoder.conversation(conversation(rng, shares)) for _ in range(POOL)), key=lambda row: len(row[0])
        )
        groups, group = [], []
        for row in reversed(rows):
            if group and len(group[0][0]) * (len(group) + 1) > BATCH_TOKENS:
                groups.append(group)
                group = []
            group.append(row)
        rng.shuffle(groups)
        for index, group in enumerate(groups[skip:], skip):
            length = len(group[0][0])
            ids = torch.full((len(group), length), CONFIG["pad_token_id"])
            learnt = torch.zeros((len(group), length), dtype=torch.bool)
            for i, (row_ids, row_learnt) in enumerate(group):
                ids[i, : len(row_ids)] = torch.tensor(row_ids)
                learnt[i, : len(row_ids)] = torch.tensor(row_learnt)
            yield pool, index, ids, learnt
        pool, skip = pool + 1, 0


# --- optimizer -------------------------------------------------------------------------------------------------------


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz iteration of Muon (Jordan et al., 2024) on [N, rows, columns]: singular values to about one."""
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon:
    """Muon for the layers' matrices: one stacked update for those of one shape, split among the workers."""

    def __init__(self, weights: list[torch.Tensor]):
        by_shape: dict[torch.Size, list[torch.Tensor]] = {}
        for weight in weights:
            by_shape.setdefault(weight.shape, []).append(weight)
        self.groups = list(by_shape.values())
        self.momenta = [torch.zeros(len(group), *group[0].shape).share_memory_() for group in self.groups]

    @torch.no_grad()
    def step(self, rate: float, worker: int, workers: int, momentum: float = 0.95, decay: float = 0.02) -> None:
        for whole, averages in zip(self.groups, self.momenta, strict=True):
            group, average = whole[worker::workers], averages[worker::workers]
            gradient = torch.stack([weight.grad for weight in group])
            average.lerp_(gradient, 1 - momentum)
            update = orthogonal(gradient.lerp(average, momentum))
            scale = max(1, group[0].shape[0] / group[0].shape[1]) ** 0.5
            for weight, change in zip(group, update, strict=True):
                weight.mul_(1 - rate * decay).sub_(change, alpha=rate * scale)


# --- training --------------------------------------------------------------------------------------------------------


class Run:
    """What the workers share: weights, momenta, each one's gradients and losses, and where the run stands."""

    def __init__(self, args: argparse.Namespace):
        self.weights = initial_weights(torch.Generator().manual_seed(args.seed))
        self.saved = torch.load(args.state) if args.state.exists() else None
        for name, weight in self.weights.items():
            if self.saved:
                weight.copy_(self.saved["weights"][name])
            weight.share_memory_()
        self.matrices = [name for name, w in self.weights.items() if w.ndim == 2 and "embed" not in name]
        self.muon = Muon([self.weights[name] for name in self.matrices])
        if self.saved:
            for average, momentum in zip(self.muon.momenta, self.saved["muon"], strict=True):
                average.copy_(momentum)
        size = sum(weight.numel() for weight in self.weights.values())
        self.gradients = torch.zeros(args.workers, size).share_memory_()
        self.losses = torch.zeros(args.workers).share_memory_()
        self.barrier = multiprocessing.get_context("spawn").Barrier(args.workers)


def learning_rate(step: int) -> float:
    """The share of the full rate at `step`, by SCHEDULE."""
    for (start, low), (end, high) in pairwise(SCHEDULE):
        if step < end:
            return low + (high - low) * (step - start) / (end - start)
    return 0.0


def learn(
    weights: dict[str, torch.Tensor], ids: torch.Tensor, learnt: torch.Tensor, count: int, rounded: bool
) -> float:
    """Adds the gradient of this worker's part of the batch's mean loss over `count` tokens; returns that part."""
    used = rounded_weights(weights) if rounded else weights
    hidden = forward(used, ids[:, :-1], *rope_table(ids.shape[1]), torch.bfloat16)[learnt[:, 1:]]
    logits = F.linear(hidden, used["model.embed_tokens.weight"].bfloat16()).float()
    loss = F.cross_entropy(logits, ids[:, 1:][learnt[:, 1:]], reduction="sum") / count
    loss.backward()
    return loss.item()


def work(worker: int, run: Run, args: argparse.Namespace) -> None:
    """The training loop of one worker: its rows of every batch, then its share of the update."""
    torch.set_num_threads(1)
    weights, muon, saved = run.weights, run.muon, run.saved
    muon.groups = Muon([weights[name] for name in run.matrices]).groups
    for weight in weights.values():
        weight.requires_grad_()
    others = [weight for name, weight in weights.items() if name not in run.matrices]
    adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    done, tokens, pool, index, seconds = 0, 0, 0, -1, 0.0
    if saved:
        done, tokens, pool, index, seconds = (saved[key] for key in ("step", "tokens", "pool", "index", "seconds"))
        adam.load_state_dict(saved["adam"])
    stream = batches(Encoder(args.out / "tokenizer.json"), args.seed, pool, index + 1)
    began, shown = time.monotonic() - seconds, []
    for step in range(done, args.steps):
        pool, index, ids, learnt = next(stream)
        rate = learning_rate(step)
        rows = slice(worker, None, args.workers)
        count = int(learnt[:, 1:].sum())
        run.losses[worker] = learn(weights, ids[rows], learnt[rows], count, step >= ROUND_FROM)
        torch.cat([weight.grad.flatten() for weight in weights.values()], out=run.gradients[worker])
        run.barrier.wait()
        total = run.gradients.sum(0).split([weight.numel() for weight in weights.values()])
        for weight, gradient in zip(weights.values(), total, strict=True):
            weight.grad = gradient.view_as(weight)
        if worker == 0:
            adam.param_groups[0]["lr"] = ADAM_RATE * rate
            adam.step()
        muon.step(MUON_RATE * rate, worker, args.workers)
        run.barrier.wait()
        for weight in weights.values():
            weight.grad = None
        if worker:
            continue
        tokens += ids.numel()
        shown.append(run.losses.sum().item())
        seconds = time.monotonic() - began
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} loss {sum(shown) / len(shown):.4f} rate {rate:.2f} "
                  f"{tokens / 1e6:.2f}M tokens {seconds / 60:.1f} min", flush=True)  # fmt: skip
            shown = []
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            state = {
                "step": step + 1, "tokens": tokens, "pool": pool, "index": index, "seconds": seconds,
                "weights": {name: weight.detach().clone() for name, weight in weights.items()},
                "muon": [average.clone() for average in muon.momenta], "adam": adam.state_dict(),
            }  # fmt: skip
            torch.save(state, args.state.with_suffix(".part"))
            args.state.with_suffix(".part").replace(args.state)


def train(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """One process a core, which waits for the others once a step: threads would wait in every operator."""
    run = Run(args)
    torch.multiprocessing.spawn(work, (run, args), nprocs=args.workers)
    return run.weights


def export(weights: dict[str, torch.Tensor], out: Path) -> None:
    """config.json, generation_config.json and the f16 model.safetensors."""
    if not all(math.isfinite(weight.abs().max()) for weight in weights.values()):
        raise ValueError("the weights are not finite: train with another seed or a lower rate")
    save_file({name: weight.half().contiguous() for name, weight in weights.items()}, out / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    write_json(out / "config.json", CONFIG)
    write_json(out / "generation_config.json", {
        "bos_token_id": CONFIG["bos_token_id"], "eos_token_id": CONFIG["eos_token_id"],
        "pad_token_id": CONFIG["pad_token_id"], "do_sample": False, "max_new_tokens": 128,
    })  # fmt: skip


def check(out: Path) -> None:
    """Compares this file's network with transformers' on the exported weights."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    weights = {name: weight.float() for name, weight in load_file(out / "model.safetensors").items()}
    ids = torch.randint(5, CONFIG["vocab_size"], (2, 300))
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)(ids).logits
    hidden = forward(weights, ids, *rope_table(MAX_LENGTH), torch.float32)
    ours = F.linear(hidden, weights["model.embed_tokens.weight"])
    print(f"largest difference of the logits: {(ours - theirs).abs().max():.2e} of {theirs.abs().max():.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the checkpoint goes")
    parser.add_argument(
        "--state", type=Path, default=Path("/tmp/wisp-demo.pt"), help="the state to resume from and save to"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=SCHEDULE[-1][0], help="stop here; the schedule stays")
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2, help="processes, one a core")
    parser.add_argument("--tokenizer", action="store_true", help="train the tokenizer again first")
    parser.add_argument("--check", action="store_true", help="only compare the network with transformers' Llama")
    args = parser.parse_args()
    if args.check:
        return check(args.out)
    if args.tokenizer or not (args.out / "tokenizer.json").exists():
        train_tokenizer(args.out)
    export(train(args), args.out)


if __name__ == "__main__":
    main()
