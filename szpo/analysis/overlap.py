"""ROUGE-L, BLEU and BERTScore of an answer against right answers, by torchmetrics (an extra).

They measure how much an answer shares with a reference, its words or, for BERTScore, what a model
makes of them. They are meant for summaries and translations: a good answer in other words scores
low, and a wrong one in the same words high.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

from szpo.data import preference_files
from szpo.errors import UsageError
from szpo.plugins import how_to_install

Nearness = Callable[[str, Sequence[str]], float]
"""Of a text to the nearest of its references, 0 to 1."""
MEASURES: Final = {
    "rouge": "ROUGE-L against right answers, as in rouge:right.jsonl (extra overlap)",
    "bleu": "BLEU, 0 without four shared words in a row, as in bleu:right.jsonl (extra overlap)",
    "bertscore": "BERTScore, as in bertscore:right.jsonl@FacebookAI/roberta-large (last layer)",
}
"""Meaning by name."""


def build(name: str, argument: str) -> Callable[[str, str], float]:
    """The measure of a prompt's and an answer's text; an answer without text has 0.

    Args:
        name: A name of `MEASURES`.
        argument: A file of prompts with right answers (.jsonl, as for TRL's SFT), one or several
            to a prompt; for BERTScore then @ and a masked language model.

    Raises:
        UsageError: file, model or torchmetrics is missing; later, a prompt has no right answer.
    """
    file, at, model = argument.partition("@")
    if not file or bool(at and model) != (name == "bertscore"):
        raise UsageError(f"needs a file of right answers: {MEASURES[name]}")
    right: dict[str, list[str]] = {}
    for prompt, answer in preference_files.read_examples(file):
        right.setdefault(prompt.text, []).append(answer.text)
    try:
        nearness = _read_measure(name, model)
    except ModuleNotFoundError:
        raise UsageError(f"needs torchmetrics: {how_to_install('overlap')}") from None

    @lru_cache(maxsize=65_536)
    def score(prompt: str, text: str) -> float:
        if prompt not in right:
            raise UsageError(f"{name}: {file} has no right answer to {prompt[:60]!r}")
        return nearness(text, right[prompt]) if text.strip() else 0.0

    return score


def _read_measure(name: str, model: str) -> Nearness:
    from torchmetrics.functional import text as measures

    match name:
        case "rouge":
            return lambda text, known: float(
                measures.rouge_score([text], [known], rouge_keys="rougeL")["rougeL_fmeasure"]
            )
        case "bleu":
            return lambda text, known: float(measures.bleu_score([text], [known], smooth=True))
    from szpo.models import loading

    encoder, tokenizer = loading.load_encoder(model)
    how: dict[str, Any] = {
        "model": encoder, "user_tokenizer": tokenizer, "truncation": True,
        "max_length": min(encoder.config.max_position_embeddings - 2, 512),  # RoBERTa's begin at 2
    }  # fmt: skip

    def bertscore(text: str, known: Sequence[str]) -> float:
        found: Any = measures.bert_score([text], [list(known)], **how)
        return float(found["f1"])

    return bertscore
