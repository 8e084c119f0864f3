"""ROUGE-L, BLEU and BERTScore against right answers: by hand, as rewards, and what is refused."""

import json
import sys

import pytest
import torch
from transformers import RobertaConfig, RobertaForMaskedLM

from szpo.analysis.features import parse
from szpo.cache import quiet
from szpo.errors import UsageError
from szpo.types import Answer, Prompt
from szpo_simulators.panels import text_rewards
from tests.support import tiny_models
from tests.support.cases import case

ASKED = Prompt.user("How was the sea?")


@pytest.fixture
def right(tmp_path):
    path = tmp_path / "right.jsonl"
    answers = ("the sea is calm now", "w6 w7 w8 w9")
    lines = [json.dumps({"prompt": ASKED.text, "completion": text}) for text in answers]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def value(name: str, text: str) -> float:
    (one,) = parse(name)
    return one.score(ASKED, Answer(text))


def test_shared_words_by_hand(right):
    pytest.importorskip("torchmetrics")
    # The longest common subsequence has 4 of 5 words on both sides, the second answer none.
    assert value(f"rouge:{right}", "the sea is calm today") == pytest.approx(0.8)
    # 4 of 5 words; 3 of 4, 2 of 3 and 1 of 2 runs of two to four, each with one more of both.
    by_hand = (4 / 5 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25
    assert value(f"bleu:{right}", "the sea is calm today") == pytest.approx(by_hand, abs=1e-6)
    assert value(f"bleu:{right}", "w6 w7 w8") == 0, "no run of four words"
    for name in ("rouge", "bleu"):
        assert value(f"{name}:{right}", "w6 w7 w8 w9") == pytest.approx(1), "the nearest counts"
        assert value(f"{name}:{right}", "storm") < 0.1 and value(f"{name}:{right}", " ") == 0
        reward = text_rewards.parse(f"feature:{name}:{right}")
        assert reward.score(ASKED, Answer("the sea is calm now")) == pytest.approx(1, abs=1e-6)


def test_the_score_of_a_models_last_layer(right, tmp_path):
    pytest.importorskip("torchmetrics")
    torch.manual_seed(1)
    shape = RobertaConfig(
        vocab_size=tiny_models.WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=34, pad_token_id=0,
    )  # fmt: skip
    with quiet():
        RobertaForMaskedLM(shape).save_pretrained(tmp_path / "bert")
        tiny_models.tokenizer().save_pretrained(tmp_path / "bert")
    name = f"bertscore:{right}@{tmp_path / 'bert'}"
    assert value(name, "w6 w7 w8 w9") == pytest.approx(1, abs=1e-5)
    assert value(name, "w6 w10 w11 w9") < 0.999
    assert value(name, " ".join(["w8"] * 60)) < 0.999, "what does not fit is left out"


def test_what_is_refused(right, monkeypatch):
    cases = {
        "rouge": "needs a file of right answers",
        f"rouge:{right}@owner/name": "needs a file of right answers",
        f"bertscore:{right}": "needs a file of right answers",
        "bleu:none.jsonl": "none.jsonl",
    }
    for name, words in cases.items():
        with case(name), pytest.raises(UsageError, match=words):
            parse(name)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torchmetrics.functional", None)
        with pytest.raises(UsageError, match=r"needs torchmetrics: pip install .*\[overlap\]"):
            parse(f"rouge:{right}")
    pytest.importorskip("torchmetrics")
    (one,) = parse(f"rouge:{right}")
    with pytest.raises(UsageError, match="no right answer to 'And the land"):
        one.score(Prompt.user("And the land?"), Answer("dry"))
