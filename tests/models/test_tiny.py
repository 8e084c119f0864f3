"""The tiny diary model: its text, its recipe, and that the trained one has what it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from szpo.data import prompts
from szpo.generation.engine_choice import engine_for
from szpo.generation.sampling import Sampling
from szpo.models import loading, tiny

GOOD = set(tiny.MOODS["good"]["mood"] + tiny.MOODS["good"]["verb"])
BAD = set(tiny.MOODS["bad"]["mood"] + tiny.MOODS["bad"]["verb"])


def moods(text: str) -> tuple[int, int]:
    message = text.lower().replace(".", " ").replace(",", " ").split()
    return sum(w in GOOD for w in message), sum(w in BAD for w in message)


@given(st.integers(0, 2**40), st.integers(1, 5))
def test_the_text_is_a_function_of_the_seed(seed, count):
    assert list(tiny.corpus(seed, count)) == list(tiny.corpus(seed, count + 3))[:count]


def test_the_tokenizer_reads_any_text_back():
    words = tiny.tokenizer(tiny.Recipe(words=300))
    for text in ("The sea was lovely.", "Zürich, 東京 & \U0001f600?", "  two  spaces\n"):
        assert words.decode(words(text)["input_ids"]) == text
    assert (words.pad_token_id, words.eos_token_id) == (0, 1)


def test_training_twice_gives_the_same_model_and_the_cache_is_used(tmp_path, monkeypatch):
    recipe = tiny.Recipe(texts=200, words=300, hidden=16, layers=1, heads=2, steps=5, rows=8)
    digests = []
    before = torch.random.get_rng_state(), torch.get_num_threads()
    for name in "ab":
        monkeypatch.setenv("SZPO_CACHE", str(tmp_path / name))
        place = tiny.folder(recipe)
        digests.append(loading.load(str(place), dtype="fp32").sha256)
    assert digests[0] == digests[1]
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == torch.get_num_threads()

    def never(recipe: tiny.Recipe, target: Path) -> float:
        raise AssertionError("trained although cached")

    monkeypatch.setattr(tiny, "train", never)
    assert tiny.folder(recipe) == place


def test_the_trained_model_answers_in_two_moods():
    loaded = loading.load("tiny", dtype="fp32")
    asked = prompts.load_shipped().heldout[:64]
    rows = [loading.encode(loaded.tokenizer, p) for p in asked for _ in range(2)]
    draws = np.random.default_rng(0).random((len(rows), 28))
    made = engine_for(loaded.adapt()).generate(
        rows, [0] * len(rows), None, Sampling(max_new_tokens=28), draws
    )
    assert np.mean(made.ended) > 0.8
    found = [moods(loaded.tokenizer.decode(row, skip_special_tokens=True)) for row in made.tokens]
    good, bad = (np.mean([x[i] > 0 for x in found]) for i in (0, 1))
    assert good > 0.25 and bad > 0.25, "a reward on mood has room both ways"
