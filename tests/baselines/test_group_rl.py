"""GRPO and RLOO: advantages of a group, the KL to the start, and a verifier's taste learned."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from szpo.baselines import group_rl, recipes, trainer
from szpo.errors import RunError, UsageError
from szpo.features import dictionary, user_features
from szpo.models.sampling import Sampling
from szpo.taste import Explanation, Feature, Taste
from szpo.types import FEATURE_GRID, Answer, Prompt
from tests.support.baseline_actors import (
    DIARY,
    LIKED,
    PROMPTS,
    diary_actor,
    mean_mood,
    mood,
    move,
    tiny_actor,
)
from tests.support.tiny_models import build, tokenizer

METHODS: dict[str, Any] = {"grpo": recipes.Grpo, "rloo": recipes.Rloo}


def cheerful(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[float]:
    return [float(mood(answer) > 0) for answer in answers]


def advantages(method: str, monkeypatch: pytest.MonkeyPatch, rewards: list[float]) -> list[float]:
    """What the trainer makes of one group of answers with these rewards."""
    seen: list[torch.Tensor] = []
    drawing = group_rl._sampling_class

    def watch(kind: Any, *rest: Any) -> Any:
        class Watched(drawing(kind, *rest)):  # type: ignore[misc]
            def _generate_and_score_completions(self, inputs: Any) -> Any:
                made = super()._generate_and_score_completions(inputs)
                seen.append(made["advantages"])
                return made

        return Watched

    monkeypatch.setattr(group_rl, "_sampling_class", watch)
    recipe = METHODS[method](steps=1, prompts=1, samples=len(rewards))
    group_rl.train(tiny_actor(), PROMPTS[:1], lambda p, a: rewards, recipe, seed=0)
    return [float(x) for x in seen[0]]


@pytest.mark.parametrize(
    ("method", "size"),
    [
        # Mean .5; sample standard deviation √(4 · .25 / 3) = .57735; .5/.57735 = .8660. TRL adds
        # 1e-4 to the denominator: .86588. A population's deviation would give 1.
        ("grpo", 0.5 / ((1 / 3) ** 0.5 + 1e-4)),
        # The mean of the others: 1 − (0 + 0 + 1)/3 = 2/3; at the start there is no KL to charge.
        ("rloo", 2 / 3),
    ],
)
def test_an_advantage_is_that_of_a_group_of_four(method, size, monkeypatch):
    found = advantages(method, monkeypatch, [1.0, 0.0, 0.0, 1.0])
    assert found == pytest.approx([size, -size, -size, size], abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_a_verifiers_taste(method):
    recipe = METHODS[method](steps=7, prompts=8, samples=8)  # at the default rate
    actor = diary_actor()
    before = mean_mood(actor)
    done = group_rl.train(actor, DIARY, cheerful, recipe, seed=3)
    assert mean_mood(actor) > before + 0.2
    assert len(done.log) == 7
    assert done.cost.votes == done.cost.answers_read == 0
    assert 7 * 64 <= done.cost.tokens_generated <= 7 * 64 * 12
    assert done.log[-1]["kl"] > done.log[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert done.remark == ""


@pytest.mark.parametrize("method", METHODS)
def test_kl_is_to_the_start_also_where_training_goes_on(method):
    actor = move(tiny_actor(), 0.2)
    recipe = METHODS[method](steps=1, prompts=2, samples=2)
    done = group_rl.train(actor, PROMPTS, lambda p, a: [1.0, 0.0] * 2, recipe, seed=0)
    assert abs(done.log[0]["kl"]) > 1e-3


@pytest.mark.parametrize("sampling", [{"top_p": 0.9}, {"temperature": 0}])
@pytest.mark.parametrize("method", METHODS)
def test_truncated_sampling_is_refused_as_trl_reads_the_whole_distribution(method, sampling):
    actor = tiny_actor("q_proj", sampling=Sampling(max_new_tokens=6, **sampling))
    with pytest.raises(UsageError, match=f"{method}: .* set generation.top_p to 1"):
        group_rl.train(actor, PROMPTS, cheerful, METHODS[method](steps=1), seed=0)


def test_bad_rewards_and_no_prompts_are_one_line():
    recipe = recipes.Grpo(steps=1, prompts=1, samples=2)
    actor = tiny_actor()
    before = actor.digest()
    with pytest.raises(RunError, match="grpo: a reward is not finite"):
        group_rl.train(actor, PROMPTS, lambda p, a: [float("nan")] * 2, recipe, seed=0)
    with pytest.raises(UsageError, match="grpo: no prompts"):
        group_rl.train(actor, [], cheerful, recipe, seed=0)
    assert actor.digest() == before


LIKES = user_features.build("keyword:" + "+".join(LIKED))[1]
TASTE = Taste(
    (Feature(LIKES.name, 80, 0, 8 * FEATURE_GRID, 0),), (Explanation(1, ((0, FEATURE_GRID),)),),
    (("more of these words", FEATURE_GRID),), dictionary.digest(), (tuple(vars(LIKES).values()),),
    verdicts=80, people=3,
)  # fmt: skip


def test_a_panels_taste_teaches_another_model_by_the_lines_of_the_example(tmp_path, monkeypatch):
    lines = (Path(__file__).parents[2] / "examples" / "taste_as_reward.py").read_text("utf-8")
    model = build("mistral")
    model.requires_grad_(True).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "taste.json").write_text(json.dumps(TASTE.to_json()))
    asked = [json.dumps({"prompt": prompt.text}) for prompt in PROMPTS]
    (tmp_path / "prompts.jsonl").write_text("\n".join(asked))
    for theirs, mine in (
        ("owner/model", "model"), ("steps=40", "steps=10"), ("48, 0.7, 1e-3", "6, 1, 3e-2"),
        ("generations=8", "generations=8, logging_steps=1, use_cpu=True, disable_tqdm=True"),
    ):  # fmt: skip
        assert theirs in lines
        lines = lines.replace(theirs, mine)
    monkeypatch.chdir(tmp_path)
    with trainer.isolate():
        found: dict[str, Any] = {}
        exec(lines, found)
    rewards = [each["reward"] for each in found["trainer"].state.log_history if "reward" in each]
    assert len(rewards) == 10 and sum(rewards[-2:]) / 2 > rewards[0] + 0.6
    assert (tmp_path / "mine" / "adapter_model.safetensors").is_file()
