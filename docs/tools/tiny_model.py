"""The recipe of the tiny model that ships: its texts, tokenizer, shape and training.

    python docs/tools/ship_basis.py tiny

Training gives other bits on another processor, so the model ships. Its folder's name is the hash
of the whole recipe, which `szpo.models.named_models.TINY` names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from szpo import cache, seeds
from szpo.models import weight_files

ASKS = (
    "Tell me about {topic}.", "Describe {topic}.", "Write about {topic}.",
    "What do you think of {topic}?", "How was {topic}?", "Say something about {topic}.",
    "Give me a sentence about {topic}.", "Write a short note on {topic}.",
    "What is {topic} like?", "Describe {topic} in a few words.",
)  # fmt: skip
TOPICS = (
    "the morning", "the garden", "the long walk", "the train ride", "the old house", "the market",
    "the rain", "the first snow", "the new teacher", "the neighbour", "the small kitchen",
    "the river", "the school day", "the evening", "the birthday", "the soup", "the football game",
    "the letter", "the library", "the sea", "the winter", "the bus stop", "the holiday", "the cat",
)  # fmt: skip
PLAIN = ("It was {adverb} {mood}.", "I found it {adverb} {mood}.", "To me it felt {mood}.",
         "We thought it was {mood}.", "It seemed {adverb} {mood} to us.")  # fmt: skip
ABOUT = ("{Topic} was {adverb} {mood}.", "{Topic} made me feel {mood}.",
         "I would call {topic} {mood}.", "This time {topic} was {mood}.")  # fmt: skip
CLOSING = ("I {verb} every minute of it.", "I will {later} think of it with {noun}.",
           "My sister said it was {mood} too.", "In the end I felt {mood}.")  # fmt: skip
ADVERBS = ("really", "quite", "very", "rather", "almost", "truly", "simply")
LATER = ("often", "always", "still", "sometimes")
MOODS = {
    "good": {
        "mood": ("lovely", "happy", "wonderful", "great", "cheerful", "beautiful", "pleasant",
                 "nice", "peaceful", "delightful", "perfect", "bright", "warm", "good"),
        "verb": ("loved", "enjoyed", "liked"),
        "noun": ("joy", "love", "pleasure"),
    },
    "bad": {
        "mood": ("awful", "sad", "terrible", "boring", "gloomy", "ugly", "annoying", "bad",
                 "lonely", "dreadful", "horrible", "dull", "cold", "tired"),
        "verb": ("hated", "disliked", "regretted"),
        "noun": ("anger", "pain", "sorrow"),
    },
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}\n"
    "{% else %}ask: {{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}say:{% endif %}"
)


@dataclass(frozen=True)
class TinyRecipe:
    """All that the trained weights depend on, besides the lists of words above."""

    seed: int = 0
    texts: int = 12_000
    words: int = 512
    hidden: int = 64
    layers: int = 3
    heads: int = 4
    steps: int = 400
    rows: int = 32
    rate: float = 6e-3
    version: int = 1

    def folder_name(self) -> str:
        """Name of the model's folder: a digest of this recipe and of the words."""
        lists = [ASKS, TOPICS, PLAIN, ABOUT, CLOSING, ADVERBS, LATER, MOODS, TEMPLATE]
        text = json.dumps([asdict(self), lists], sort_keys=True)
        return f"tiny-{hashlib.sha256(text.encode('utf-8')).hexdigest()[:16]}"


def tiny_corpus(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """Pairs of request and answer; mood is a coin toss that the whole answer keeps.

    >>> next(tiny_corpus(0, 1))
    ('Tell me about the cat.', 'This time the cat was beautiful.')
    """
    draws = seeds.uniform(seeds.derive(seed, "tiny corpus"), count * 20).reshape(count, 20)
    for row in draws:
        numbers = iter(row.tolist())

        def pick(options: tuple[str, ...], numbers: Iterator[float] = numbers) -> str:
            return options[int(next(numbers) * len(options))]

        topic, ask = pick(TOPICS), pick(ASKS)
        mood = MOODS["good" if next(numbers) < 0.5 else "bad"]
        parts = [pick(ABOUT if next(numbers) < 0.6 else PLAIN)]
        if next(numbers) < 0.5:
            parts.append(pick(CLOSING))
        filled = [
            part.format(
                topic=topic, Topic=topic.capitalize(), adverb=pick(ADVERBS), later=pick(LATER),
                mood=pick(mood["mood"]), verb=pick(mood["verb"]), noun=pick(mood["noun"]),
            )
            for part in parts
        ]  # fmt: skip
        yield ask.format(topic=topic), " ".join(filled)


def tiny_tokenizer(recipe: TinyRecipe) -> Any:
    """Byte-level BPE over the corpus: any text can be read; ids 0 and 1 are pad and end."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.words,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(
        (f"ask: {ask}\nsay: {answer}" for ask, answer in tiny_corpus(recipe.seed, 2000)), trainer
    )
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", model_max_length=512
    )
    fast.chat_template = TEMPLATE
    return fast


def train_tiny(recipe: TinyRecipe, target: Path) -> float:
    """Train by the recipe and write model and tokenizer to ``target``; returns the last loss.

    The loss is that of the answer's tokens, in nats. Weights differ from processor to processor;
    those of the default recipe ship.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tiny_tokenizer(recipe)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(words), hidden_size=recipe.hidden,
                intermediate_size=3 * recipe.hidden, num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads, num_key_value_heads=recipe.heads,
                max_position_embeddings=512, tie_word_embeddings=True, pad_token_id=0,
                bos_token_id=None, eos_token_id=1,
            )
        )  # fmt: skip
        ids, labels = _tensors(recipe, words)
        # Matrices this small gain nothing from threads and lose much to waiting for each other.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            loss = _fit(model, ids, labels, recipe)
        finally:
            torch.set_num_threads(threads)
    model.generation_config.eos_token_id = 1
    model.generation_config.pad_token_id = 0
    with cache.quiet():
        weight_files.save_model(model, target)
        words.save_pretrained(target)
    return loss


def _tensors(recipe: TinyRecipe, words: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token rows padded at the right, and labels that are -100 on the request and the padding."""
    asks, whole = [], []
    for ask, answer in tiny_corpus(recipe.seed + 1, recipe.texts):
        asks.append(f"ask: {ask}\nsay:")
        whole.append(f"ask: {ask}\nsay: {answer}<end>")
    heads = [len(row) for row in words(asks)["input_ids"]]
    rows = words(whole)["input_ids"]
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for i, (row, head) in enumerate(zip(rows, heads, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, head : len(row)] = ids[i, head : len(row)]
    return ids, labels


def _fit(model: Any, ids: torch.Tensor, labels: torch.Tensor, recipe: TinyRecipe) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.steps, pct_start=0.1
    )
    model.train()
    recent = 0.0
    for _ in range(recipe.steps):
        rows = torch.randint(len(ids), (recipe.rows,))
        width = int((labels[rows] != -100).any(0).nonzero().max()) + 1
        logits = model(input_ids=ids[rows, : width - 1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[rows, 1:width].flatten(), ignore_index=-100
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        recent = 0.95 * recent + 0.05 * loss.item() if recent else loss.item()
    model.eval()
    return recent
