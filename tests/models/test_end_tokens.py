"""Models with several end tokens: an answer is read, scored and trained with its own."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from szpo.baselines import trainer
from szpo.data.preference_formats import Pair
from szpo.data.text_files import clean_answer
from szpo.judges import pair_scorer
from szpo.models import loading
from szpo.models.loading import Loaded
from szpo.models.sampling import Sampling
from szpo.policies import language_model
from szpo.policies.backend import LocalBackend
from szpo.types import Answer, Prompt
from szpo_simulators.panels import heldout
from tests.support import tiny_models
from tests.support.baseline_actors import tiny_actor
from tests.support.policies import policy_of, small

PAD, END, TURN = 0, 2, 319
"""The ends of `several`: the padding token, the tokenizer's, and a turn's of its template."""
TURNS = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} "
    "{% if m['role'] == 'assistant' %}w319 w6 {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
ASKED, SAID = Prompt.user("w7 w8"), Answer("w20 w21")


def several(template: str | None = TURNS, *, ends: Any = (PAD, END, TURN)) -> Loaded:
    """A model with these end tokens and this chat template."""
    made = tiny_models.loaded("llama")
    made.model.generation_config.eos_token_id = list(ends)
    made.tokenizer.chat_template = template
    return made


def test_a_text_ends_with_what_ends_a_turn_else_with_the_tokenizers_token():
    refuses = "{{ raise_exception('never') }}"
    upper = TURNS.replace("m['content']", "m['content'] | upper")  # the answer is not found
    for template, ends, wanted in (
        (TURNS, (PAD, END, TURN), TURN),
        (TURNS, (PAD, END), END),  # w319 ends no answer
        (tiny_models.TEMPLATE, (PAD, END, TURN), END),
        (None, (PAD, END, TURN), END),
        (refuses, (PAD, END, TURN), END),
        (upper, (PAD, END, TURN), END),
        (TURNS, (END,), END),
    ):
        model = several(template, ends=ends)
        assert loading.answer_tokens(model, SAID) == [20, 21, wanted]
        assert loading.answer_tokens(model, replace(SAID, end="length")) == [20, 21]
    model = several(None, ends=(TURN, PAD))
    model.tokenizer.eos_token = None
    assert loading.answer_tokens(model, SAID) == [20, 21, TURN]  # the first that the model names


@pytest.mark.parametrize("end", (PAD, END, TURN))
def test_an_answer_keeps_the_token_that_it_ended_with(end, tmp_path):
    model = several()
    answer = clean_answer(loading.answer_of(model, (20, 21, end)))
    assert loading.answer_tokens(model, answer) == [20, 21, end]
    cut = loading.answer_of(model, (20, 21, end), stops=["w21"])
    assert loading.answer_tokens(model, cut) == [20, TURN]
    language_model.write_answers([[answer]], tmp_path / "answers.json")
    assert language_model.read_answers(tmp_path / "answers.json") == [[answer]]
    figures = heldout.TextFigures(0.0, 0.0, 0.0)
    level = heldout.BaseLevel(((answer,),), figures, (answer,))
    heldout.to_file(level, tmp_path / "base.json")
    assert heldout.from_file(tmp_path / "base.json") == level


@pytest.mark.full
def test_answers_are_scored_as_they_were_drawn():
    """Each of the three ends is drawn. Texts cannot hold the tokens 0 and 1."""
    model = several()
    policy = policy_of(model, small(model), sampling=Sampling(max_new_tokens=60))
    prompts = [Prompt.user(f"w{i} w{i + 1}") for i in range(7, 17)]
    rows = policy.sample_tokens(prompts, 8, seed=3)
    ends = {PAD, END, TURN}
    kept = [i for i, (*said, end) in enumerate(rows) if end in ends and not {PAD, 1} & {*said}]
    assert {rows[i][-1] for i in kept} == ends
    asked = [prompts[i // 8] for i in kept]
    answers = [policy.answer(rows[i]) for i in kept]
    drawn = policy.engine.logprobs(
        [policy.encode(prompt) for prompt in asked], [rows[i] for i in kept], [0] * len(kept), None
    )
    means = policy.logprob_base(asked, answers)
    assert means == pytest.approx([values.mean() for values in drawn], abs=1e-4)
    totals = [policy.total_logprob_base(p, [a])[0] for p, a in zip(asked, answers, strict=True)]
    assert totals == pytest.approx([values.sum() for values in drawn], abs=1e-3)


@pytest.mark.full
def test_baselines_train_the_end_of_a_turn(monkeypatch):
    actor, rows = tiny_actor(base=several()), []
    pair = Pair(ASKED, SAID, loading.answer_of(actor.loaded, (22, PAD)))
    (made,) = trainer.tokenize_pairs(actor.loaded, [pair], 64, "dpo")
    assert (made["chosen_ids"], made["rejected_ids"]) == ([20, 21, TURN], [22, PAD])
    monkeypatch.setattr(trainer, "train", lambda _, __, given, *___, **____: rows.extend(given))
    trainer.train_sft(actor, [(ASKED, SAID)], seed=0)
    assert rows[0]["labels"][-3:] == [20, 21, TURN]


def test_a_pair_scorer_reads_the_end_of_a_turn():
    found = []
    for ends in ((PAD, END, TURN), (TURN,)):
        model = several(ends=ends)
        model.tokenizer.eos_token = "w319" if ends == (TURN,) else "</s>"
        reader = LocalBackend(model).beside(model.name)
        found.append(pair_scorer.features(reader, [ASKED], [SAID]).numpy())
    assert np.array_equal(*found)


@pytest.mark.full
def test_the_tiny_model_with_its_padding_among_the_ends_reads_what_it_read(monkeypatch):
    model = loading.load("tiny", dtype="fp32")
    policy = policy_of(model)
    shown = [Prompt.user("Describe the sea.")], [Answer("The sea was bright.")]
    before = policy.logprob_base(*shown)
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", [1, 0])
    assert policy.logprob_base(*shown) == before
