"""Judging by points, and models that are made from their own judgements, step by step."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.baselines import recipes, self_rewarding, trainer
from szpo.baselines.actor import Actor
from szpo.baselines.asking import Meter, Moment
from szpo.data import preference_files
from szpo.errors import RunError, StorageError, UsageError
from szpo.models.adapters import read_adapter
from szpo.types import Answer, Prompt
from tests.support.baseline_actors import tiny_actor
from tests.support.cases import case

PROMPTS = [Prompt.user(f"w{i} w{i + 1}") for i in range(7, 13)]
SMALL = recipes.SelfRewarding(
    prompts=4, judge_tokens=5, dpo=recipes.Dpo(learning_rate=1e-2, steps=2, reference="now")
)


class Scripted:
    """A judge that counts even words, says so in three ways, one of them unreadable."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, requests: Sequence[Prompt], samples: int, seed: int) -> list[list[Answer]]:
        self.asked += len(requests)
        judgements = []
        for request in requests:
            answer = request.text.partition("<answer>")[2].partition("</answer>")[0]
            even = min(sum(int(number) % 2 == 0 for number in re.findall(r"w(\d+)", answer)), 5)
            texts = (f"It earns some. Score: {even}", f"**Score:** {even}/5", "I like it!")
            judgements.append([Answer(text, tokens=4) for text in texts])
        return judgements


SCORES = [
    ("Score: 4", 4.0),
    ("It is relevant.\nScore: 3.5\n", 3.5),
    ("score - 2", 2.0),
    ("**Total score: 5**", 5.0),
    ("Score: <1>", 1.0),
    ("The score is 0.", 0.0),
    ("Score: 4 / 5", 4.0),
    ("Score: 4 out of 5 points", 4.0),
    ("First Score: 1 point, then more.\nScore: 3", 3.0),
    ("SCORE=2", 2.0),
    ("Score: 8/10", None),
    ("Score: 4/10", None),
    ("Score: 6", None),
    ("Score: -1", None),
    ("Score: 45", None),
    ("Score: 1 + 1 + 1", None),
    ("Score: 3-4", None),
    ("Score: 3 to 4", None),
    ("Score: four", None),
    ('End with a line "Score: n", n from 0 to 5.', None),
    ("I scored 4 goals.", None),
    ("4", None),
    ("", None),
]


def test_scores_are_read_or_refused():
    for text, expected in SCORES:
        with case(text, expected):
            assert self_rewarding.score(text) == expected


@given(st.text(alphabet="sScore: \n*<>()/0123456789.+-–“”outf ", max_size=60))
def test_no_text_breaks_the_reader(text):
    found = self_rewarding.score(text)
    assert found is None or 0 <= found <= 5
    assert self_rewarding.score(f"{text}\nScore: 2") == 2.0  # what a judge says at the end counts


def test_three_judgements_are_averaged_over_those_that_could_be_read():
    assert self_rewarding.average(["Score: 4", "Score: 3", "Score: 5"]) == 4.0
    assert self_rewarding.average(["Score: 4", "none", "Score: 3"]) == 3.5
    assert self_rewarding.average(["none"] * 3) is None


@given(st.lists(st.none() | st.integers(0, 5).map(float), min_size=2, max_size=5))
def test_best_and_worst_are_so_and_ties_give_none(given_points):
    known = [value for value in given_points if value is not None]
    found = self_rewarding.extremes(given_points)
    if len(set(known)) < 2:
        assert found is None
    else:
        assert found is not None
        assert (given_points[found[0]], given_points[found[1]]) == (max(known), min(known))


def train(folder: Path, *examples: Any, actor: Any = None, how: Any = SMALL, **more: Any) -> Any:
    """Train on `PROMPTS`; ``more``: the judge, and arguments of `self_rewarding.train`."""
    given = {"prompts": PROMPTS, "seed": 3, "recipe": how, **more}
    given |= {"examples": examples[0]} if examples else {}
    return self_rewarding.train(actor or tiny_actor(), folder=folder, **given)


def test_four_models_are_made_and_a_stopped_run_goes_on(tmp_path):
    moments: list[Moment] = []
    judge, first = Scripted(), tiny_actor()
    start = first.digest()
    found = train(tmp_path, actor=first, judge=judge, on_step=moments.append)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["M0", "M1", "M2", "M3"]
    records = [json.loads((tmp_path / f"M{i}" / "record.json").read_text()) for i in range(4)]
    digests = [record["theta_sha256"] for record in records]
    assert digests[0] == digests[1] == start  # no examples: M1 is M0
    assert read_adapter(tmp_path / "M3").config["peft_type"] == "LORA"
    assert len(set(digests)) == 3 and digests[3] == first.digest()
    assert judge.asked == 2 * 4 * 3  # two rounds of four prompts with three candidates
    figures = moments[-1].figures
    assert figures["judgements"] == 4 * 3 * 3
    assert figures["parsed"] == pytest.approx(2 / 3)
    assert figures["pairs"] + figures["ties"] == 4
    assert found.pairs == sum(m.figures.get("pairs", 0) for m in moments) > 0
    assert found.cost.votes == 0

    lines = (tmp_path / "M2" / "judged.jsonl").read_text().splitlines()
    points = {
        (row["prompt"][-1][1], text): value
        for row in map(json.loads, lines)
        for text, value in zip(row["completions"], row["points"], strict=True)
    }
    for pair in preference_files.read(tmp_path / "M2" / "pairs.jsonl").pairs:
        asked = pair.prompt.text
        assert points[asked, pair.chosen.text] > points[asked, pair.rejected.text]
        assert pair.source == "judge"

    shutil.rmtree(tmp_path / "M3")
    again, second = Scripted(), tiny_actor()
    resumed = train(tmp_path, actor=second, judge=again)
    assert second.digest() == digests[3]
    assert again.asked == 4 * 3  # only what was missing was judged
    assert resumed.cost.tokens_generated == found.cost.tokens_generated
    assert [dict(x) for x in resumed.log] == [dict(x) for x in found.log]


def test_models_of_other_settings_or_half_a_model_are_refused(tmp_path):
    one = SMALL.model_copy(update={"models": 1})
    train(tmp_path, how=one)
    for change, name in (
        ({"seed": 4}, "seed"), ({"prompts": PROMPTS[1:]}, "prompts"),
        ({"how": one.model_copy(update={"candidates": 4})}, "recipe"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=rf"M0 was made with other settings \({name}\)"):
            train(tmp_path, **{"how": one, **change})
    (tmp_path / "M1" / "record.json").unlink()
    with pytest.raises(StorageError, match="M1 is no finished model"):
        train(tmp_path, how=one)


def test_a_judge_that_cannot_judge_is_refused(tmp_path):
    """The random model as its own judge never says a score."""
    with pytest.raises(RunError, match="no pair for M2: 0% of 36 judgements had a score"):
        train(tmp_path)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["M0", "M1"]

    def even(requests: Sequence[Prompt], samples: int, seed: int) -> list[list[Answer]]:
        return [[Answer("Score: 3")] * samples for _ in requests]

    with pytest.raises(RunError, match=r"100% of 36 judgements .* all 4 prompts were ties"):
        train(tmp_path / "even", judge=even)


def test_examples_make_the_first_model(tmp_path):
    answers = [Answer("w20 w21", tokens=2)] * len(PROMPTS)
    examples = list(zip(PROMPTS, answers, strict=True))
    fit = recipes.Sft(learning_rate=3e-2, steps=6, batch=6)
    how = SMALL.model_copy(update={"models": 1, "fit": fit})
    fitted = tiny_actor()

    def likely() -> float:
        at = Actor(fitted.loaded, fitted.sites, fitted.theta())
        return float(at.logprob_base(PROMPTS, answers).mean())

    before = likely()
    done = train(tmp_path, examples, actor=fitted, how=how)
    assert likely() > before + 1.0
    assert done.log[1]["examples"] == 6
    # The loss is the mean over tokens of −log π of the answers alone.
    found = trainer.train_sft(
        tiny_actor(), examples, recipes.Sft(steps=1, batch=6), seed=1, meter=Meter()
    )
    assert found.log[0]["loss"] == pytest.approx(-before, abs=1e-3)


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(UsageError, match="no prompts"):
        train(Path("nowhere"), prompts=[])
    with pytest.raises(RunError, match="no example"):
        trainer.train_sft(tiny_actor(), [], seed=0)
