"""Which temperature and length give answers that people can judge: shares on the shipped prompts.

Run: python experiments/answer_study.py [--prompts 40] [--model smollm2] [--system TEXT]. All pairs
of a temperature and a length answer the same prompts with the same random numbers; each answer is
counted whole, and cut after its first paragraph. Margins of the own prompt take long to read, so
that one pair may have them: temperature --topic, the middle length.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from szpo.config import settings_file
from szpo.data import prompts
from szpo.generation import answer_shares
from szpo.generation.engine_choice import engine_for
from szpo.generation.sampling import Sampling
from szpo.generation.shared_prompts import total_logprobs
from szpo.memory import peak_bytes
from szpo.models import loading
from szpo.policies import language_model, own_prompt
from szpo.types import Answer, Floats, Prompt

TEMPERATURES = (0.3, 0.5, 0.7, 1.0)
LENGTHS = (64, 128, 192)
SEED = 8_231
HEAD = (
    "temperature", "tokens", "cut, repeated, empty", "words",
    "first paragraph: cut, repeated, empty, off topic", "words",
)  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """Reads answers after any prompt, under the base model."""

    loaded: Any
    adapted: Any

    def total_logprob_base(self, prompt: Prompt, answers: Sequence[Answer]) -> Floats:
        """See `szpo.policies.own_prompt.PromptReader`."""
        tokens = loading.encode(self.loaded.tokenizer, prompt)
        rows = [loading.answer_tokens(self.loaded, answer) for answer in answers]
        return total_logprobs(self.adapted, tokens, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--temperature", type=float, nargs="+", default=TEMPERATURES)
    parser.add_argument("--topic", type=float, default=0.0)
    parser.add_argument("--system", help="System prompt before every question.")
    parser.add_argument("--show", type=int, default=0, help="Answers to print of each pair.")
    chosen = parser.parse_args()
    config = settings_file.load(sets=[f"model.name={chosen.model}"])
    loaded = (plain := language_model.load_plain(config, lambda line: None)).loaded
    adapted = loaded.adapt(plain.sites)
    engine = engine_for(adapted)
    shipped = prompts.load_shipped().train[: chosen.prompts]
    asked = [Prompt.user(prompt.text, chosen.system) for prompt in shipped]
    rows = [loading.encode(loaded.tokenizer, prompt) for prompt in asked]
    draws = np.random.default_rng(SEED).random((len(asked), max(LENGTHS)))
    print("|", " | ".join(HEAD), "|")
    print("|---" * len(HEAD) + "|")
    for temperature in chosen.temperature:
        law, began = Sampling(temperature, max_new_tokens=max(LENGTHS)), time.perf_counter()
        made = engine.generate(rows, [0] * len(rows), None, law, draws)
        seconds = time.perf_counter() - began
        for length in LENGTHS:  # a shorter limit leaves a prefix of the same tokens
            whole = [
                Answer(
                    loaded.tokenizer.decode(tokens[:length], skip_special_tokens=True),
                    "stop" if ended and len(tokens) <= length else "length",
                    min(len(tokens), length),
                )
                for tokens, ended in zip(made.tokens, made.ended, strict=True)
            ]
            first = [_paragraph(answer) for answer in whole]
            margins = None
            if (temperature, length) == (chosen.topic, LENGTHS[1]):
                read, each = Reader(loaded, adapted), [[answer] for answer in first]
                found = own_prompt.answer_margins(read, asked, each, seed=SEED)
                margins = [float(row[0]) for row in found]
            cells = [temperature, length, *_cells(whole, None), *_cells(first, margins)]
            print("|", " | ".join(map(str, cells)), "|", flush=True)
            for prompt, answer in list(zip(asked, first, strict=True))[: chosen.show]:
                print(f"  [{answer.end}] {prompt.text} → {answer.text!r}", flush=True)
        print(f"  ({seconds:.0f} s)", flush=True)
    print(f"of {len(asked)} answers each; peak memory {peak_bytes() / 2**30:.2f} GiB")


def _paragraph(answer: Answer) -> Answer:
    """The answer as ``generation.stop = ["\\n\\n"]`` leaves it."""
    text, stop, _ = answer.text.partition("\n\n")
    return Answer(text, "stop", answer.tokens) if stop else answer


def _cells(answers: Sequence[Answer], margins: Sequence[float] | None) -> list[str]:
    shares = dict(answer_shares.measure(answers, margins).list_shares())
    hits = [f"{shares[x].hits:.0f}" for x in answer_shares.BOUNDS if x in shares]
    words = sum(len(answer.text.split()) for answer in answers) / len(answers)
    return [", ".join(hits), f"{words:.0f}"]


if __name__ == "__main__":
    main()
