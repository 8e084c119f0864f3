"""Answers that end at their last full sentence, for readers, scores, KL and training alike."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.config.schema import Config
from szpo.models import loading
from szpo.models.answer_shares import cut, is_cut, sentence_ends
from szpo.models.sampling import Sampling
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.policies import language_model, subspace_setup
from szpo.policies.backend import LocalBackend
from szpo.policies.probe import Probe
from szpo.types import Answer, Prompt, Shift
from tests.support.baseline_actors import tiny_actor
from tests.support.policies import policy_of, small

HARD = {
    "Dr. Lee met Mrs. Ito at 3.5 km. She": "Dr. Lee met Mrs. Ito at 3.5 km.",
    "1. Wash it. 2. Dry it well.\n3.": "1. Wash it. 2. Dry it well.",
    'He said, "Really? I doubt it." Then he': 'He said, "Really? I doubt it."',
    '"Stop!" she cried. "Come b': '"Stop!" she cried.',
    "The U.S. team won… and then lost. No. 7": "The U.S. team won… and then lost.",
    "(It rained all day.) **We stayed in.** The": "(It rained all day.) **We stayed in.**",
    "See example.com, e.g. page 2. It costs 3.": "See example.com, e.g. page 2.",
    "今日は雨です。明日は晴れ": "今日は雨です。",
    "- red\n- green\n- blue and": "- red\n- green\n- blue and",
    "Who knows?! Cats, dogs, etc. are J. R. R. Tolkien's and": "Who knows?!",
}
"""Texts that the limit cut, and what is left of them."""
PIECES = st.lists(
    st.sampled_from(
        [
            "A cat",
            " sat",
            ".",
            " 3",
            ".5",
            "!",
            "?",
            "…",
            '"',
            ")",
            " Dr",
            "\n",
            "2.",
            " i",
            "。",
            "é",
        ]
    ),
    max_size=24,
)
PROMPTS = [Prompt.user(text) for text in ("Describe the sea.", "Describe a lion.", "Well?")]
WHOLE = Sampling(temperature=1.5, max_new_tokens=14, whole_sentences=True)


def test_ten_hard_texts_end_where_a_reader_ends_them():
    for text, left in HARD.items():
        assert text[: cut(list(text), "".join)] == left


@given(PIECES)
def test_a_cut_answer_is_a_beginning_in_whole_tokens_that_is_called_whole(pieces):
    text, kept = "".join(pieces), cut(pieces, "".join)
    left = "".join(pieces[:kept])
    assert text.startswith(left)
    if kept < len(pieces):
        assert not is_cut(Answer(left.strip(), "length"))
        # No later token ends a sentence of the text.
        ends = sentence_ends(text.rstrip(), open_end=True)
        later = ["".join(pieces[:n]).rstrip() for n in range(kept + 1, len(pieces) + 1)]
        assert not {len(each) for each in later} & {*ends} - {len(left.rstrip())}


@pytest.fixture(scope="module")
def tiny():
    return loading.load("tiny", dtype="fp32")


@pytest.mark.full
def test_every_way_to_draw_gives_the_shortened_tokens(tiny):
    """Run, set-up and a gradient method cut what is drawn with the same random numbers."""
    space = small(tiny)
    free = replace(WHOLE, whole_sentences=False)
    probe = Probe(
        LocalBackend(tiny).at(space, Space(0, space.layout, Law())), space,
        tuple(loading.encode(tiny.tokenizer, prompt) for prompt in PROMPTS), free, 0,
    )  # fmt: skip

    def draw(sampling: Sampling) -> list[tuple[int, ...]]:
        policy = policy_of(tiny, space, sampling=sampling)
        set_up = replace(probe, sampling=sampling).start_samples(9)
        actor = tiny_actor("q_proj", base=tiny, sampling=sampling)
        asked = [policy.encode(prompt) for prompt in PROMPTS] * 3
        return [
            *policy.sample_tokens(PROMPTS, 3, seed=1),
            *(sample.answer for sample in set_up),
            *actor.complete(asked, seed=2),
        ]

    decode = tiny.tokenizer.decode
    stops = loading.stop_tokens(tiny)
    long, short = draw(free), draw(WHOLE)
    wanted = [row if row[-1] in stops else row[: cut(row, decode)] for row in long]
    assert short == wanted
    assert all(short[i : i + 9] != long[i : i + 9] for i in (0, 9, 18))


def test_scores_and_kl_read_the_tokens_that_were_shown(tiny, monkeypatch):
    policy = policy_of(tiny, sampling=WHOLE)
    read: list[tuple[int, ...]] = []
    ask = policy.backend.read
    monkeypatch.setattr(
        policy.backend, "read", lambda request: read.extend(request.answers) or ask(request)
    )
    rows = policy.sample_tokens(PROMPTS, 4, seed=3)
    policy.kl(PROMPTS, seed=3, samples=4)
    assert tuple(read) == rows
    shown = [policy.answer(row) for row in rows]
    assert {answer.end for answer in shown} == {"stop", "length"}
    # Recorded texts are read again as the same tokens; a cut answer has no end token.
    ids = [tiny.tokenizer(each.text)["input_ids"] for each in shown]
    plain = [i for i, row in enumerate(rows) if ids[i] == [*row]]
    del read[:]
    policy.logprob_base([PROMPTS[i // 4] for i in plain], [shown[i] for i in plain])
    assert read == [rows[i] for i in plain]
    sides = [Shift(0, 0, sign, 0.25) for sign in (1, -1)]
    for answer in itertools.chain(*policy.rollout([PROMPTS] * 2, sides, seed=3)):
        assert not (is_cut(answer) and sentence_ends(answer.text))


def test_only_the_setting_itself_changes_the_names_of_stored_files():
    off, on = Config(), Config.model_validate({"generation": {"whole_sentences": True}})
    assert "whole_sentences" not in subspace_setup.sampling_of(off).facts()
    model = ("0" * 64, "bf16", None)
    names = [language_model.answers_name(config, model, PROMPTS) for config in (off, on)]
    keys = [subspace_setup.setup_key(config, "0" * 64, "bf16", PROMPTS) for config in (off, on)]
    assert names[0] != names[1]
    assert keys[0] != keys[1]
    assert keys[0]["sampling"].keys() == {
        "temperature", "top_p", "top_k", "max_new_tokens", "stop"
    }  # fmt: skip


def test_what_is_read_before_and_after_is_greedy_and_whole_and_leaves_the_run_as_it_was(tiny):
    policy = policy_of(tiny, sampling=Sampling(max_new_tokens=4))
    drawn = policy.sample_tokens(PROMPTS, 2, seed=1)
    read = policy.likeliest(PROMPTS, base=True)
    assert read == policy.likeliest(PROMPTS) == policy.likeliest(PROMPTS)  # it has not moved
    assert not any(map(is_cut, read)) and max(answer.tokens for answer in read) > 4
    assert policy.sample_tokens(PROMPTS, 2, seed=1) == drawn
