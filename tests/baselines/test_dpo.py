"""DPO: the loss of the paper, its gradient by hand, same seed twice, an LM head that learns."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from szpo.baselines import asking, dpo, recipes
from szpo.baselines.actor import Actor
from szpo.baselines.asking import Moment
from szpo.data.preference_formats import Pair, Preferences
from szpo.errors import RunError
from szpo.models import loading
from szpo.models.batched_lora import Deltas, attach_deltas
from szpo.models.loading import answer_tokens
from szpo.types import Answer, Prompt, Row, Verdict
from tests.support.baseline_actors import (
    DIARY,
    PROMPTS,
    TRAIN,
    cheerful,
    diary_actor,
    diary_pairs,
    mean_mood,
    move,
    pairs,
    tiny_actor,
    verdict,
)
from tests.support.tiny_models import build, tokenizer

ONE = recipes.Dpo(steps=1, batch=4, learning_rate=1e-3)


def undecided(questions: Sequence[tuple[Row, ...]], single: bool, key: bytes) -> list[Verdict]:
    return ["tie"] * len(questions)


def logps(actor: Actor, deltas: Deltas, rows: Sequence[tuple[Prompt, Answer]]) -> torch.Tensor:
    """Sum of the answer's log-probabilities, one row at a time, by hooks instead of by PEFT."""
    found = []
    for prompt, answer in rows:
        ids = [*actor.encode(prompt), *answer_tokens(actor.loaded, answer)]
        with attach_deltas(actor.loaded.model, actor.sites, deltas, torch.zeros(1, 1).long()):
            logp = actor.loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        steps = range(len(actor.encode(prompt)), len(ids))
        found.append(torch.stack([logp[i - 1, ids[i]] for i in steps]).sum())
    return torch.stack(found)


def loss_by_hand(
    actor: Actor, data: Sequence[Pair], beta: float
) -> tuple[float, dict[str, torch.Tensor]]:
    """The paper's equation 7 and its gradient, by autograd on factors hooked onto the model."""
    theta = {n: torch.tensor(v, requires_grad=True) for n, v in actor.theta().items()}
    now = Deltas(
        {s.name: theta[s.a] for s in actor.sites}, {s.name: theta[s.b][None] for s in actor.sites}
    )
    start = actor.deltas([actor.start()])
    chosen = [(p.prompt, p.chosen) for p in data]
    rejected = [(p.prompt, p.rejected) for p in data]
    with torch.no_grad():
        reference = logps(actor, start, chosen) - logps(actor, start, rejected)
    margin = logps(actor, now, chosen) - logps(actor, now, rejected) - reference
    loss = -logsigmoid(beta * margin).mean()
    grads = torch.autograd.grad(loss, list(theta.values()))
    return float(loss.detach()), dict(zip(theta, grads, strict=True))


@pytest.mark.parametrize("targets", [(), ("q_proj", "lm_head")], ids=["usual", "head"])
def test_one_step_is_that_of_a_hand_calculation(targets):
    actor = move(tiny_actor(*targets))
    data = pairs()[:4]
    before = {n: v.copy() for n, v in actor.theta().items()}
    expected, gradient = loss_by_hand(actor, data, beta=0.1)
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))
    seen: list[Moment] = []
    recipe = recipes.Dpo(**{**dict(ONE), "optimizer": "sgd", "learning_rate": 0.5})
    dpo.train(actor, Preferences(data), recipe, seed=0, on_step=seen.append)
    assert expected != pytest.approx(math.log(2), abs=1e-3)
    assert seen[0].figures["loss"] == pytest.approx(expected, abs=1e-6)
    assert seen[0].figures["grad_norm"] == pytest.approx(norm, rel=1e-5)
    cut = 0.5 * min(1.0, 1.0 / (norm + 1e-6))  # SGD, gradients cut to norm 1 as torch does
    for name, value in actor.theta().items():
        by_hand = before[name] - cut * gradient[name].numpy()
        assert np.abs(value - by_hand).max() < 1e-6, name
        assert np.abs(value - before[name]).max() > 1e-6, name


def test_the_reference_is_the_start_or_the_present():
    for reference, expected in (("now", math.log(2)), ("start", None)):
        actor = move(tiny_actor())
        hand, _ = loss_by_hand(actor, pairs()[:4], beta=0.1)
        recipe = ONE.model_copy(update={"reference": reference})
        log = dpo.train(actor, Preferences(pairs()[:4]), recipe, seed=0).log
        assert log[0]["loss"] == pytest.approx(expected or hand, abs=1e-6)


def test_it_learns_what_is_preferred_and_twice_the_same():
    recipe = recipes.Dpo(steps=20, batch=16)  # at the default rate
    actor, again = diary_actor(), diary_actor()
    before, data = mean_mood(actor), diary_pairs(actor)
    done = dpo.train(actor, Preferences(data), recipe, seed=3)
    log = done.log
    assert done.remark == ""
    losses = [figures["loss"] for figures in log]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:2])
    assert mean_mood(actor) > before + 0.3
    torch.manual_seed(12345)  # chance outside must not matter
    state = torch.random.get_rng_state()
    dpo.train(again, Preferences(data), recipe, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.digest() == actor.digest()


def test_a_policy_that_ends_where_it_began_is_remarked_on():
    recipe = recipes.Dpo(steps=2, learning_rate=1e-6)
    done = dpo.train(tiny_actor(), Preferences(pairs()[:4]), recipe, seed=0)
    assert "raise learning_rate or steps (--recipe)" in done.remark


@pytest.mark.parametrize(
    ("rows", "rounds", "questions", "epochs"),
    [pytest.param(None, 3, 32, 4, marks=pytest.mark.slow), (4, 2, 5, 1)],
)
def test_iterative_asks_as_often_as_it_says_and_learns_from_pairs(rows, rounds, questions, epochs):
    actor = diary_actor()
    before = mean_mood(actor)
    seen: list[Moment] = []
    recipe = recipes.Dpo(epochs=epochs, batch=16, learning_rate=1e-2)
    plan = recipes.Rounds(rounds=rounds, questions=questions, rows=rows, recipe=recipe)
    done = dpo.iterative(actor, DIARY, cheerful, plan, seed=5, on_step=seen.append)
    most = rounds * plan.questions
    assert most - done.cost.votes < 3  # but for identical answers, which nobody is asked about
    assert done.cost.answers_read <= 2 * (rows or 1) * done.cost.votes
    assert [moment.step for moment in seen] == list(range(1, rounds + 1))
    assert seen[0].cost.votes <= plan.questions
    assert 0 < seen[0].cost.tokens_generated < done.cost.tokens_generated
    assert actor.digest() != diary_actor().digest()
    if rows is None:  # a few votes on batches say too little to see a trait rise
        assert mean_mood(actor) > before + 0.15


def test_margins_are_those_of_the_loss_and_nothing_at_the_start():
    actor, data = tiny_actor(), pairs()[:4]
    rows = [Row(pair.prompt, pair.chosen, pair.rejected) for pair in data]
    assert dpo.margins(actor, rows) == [0.0] * 4
    for pair, margin in zip(data, dpo.margins(move(actor), rows), strict=True):
        loss = loss_by_hand(actor, [pair], 1.0)[0]
        assert min(abs(loss - math.log1p(math.exp(sign * margin))) for sign in (1, -1)) < 1e-4


class Numbered:
    """Answers two numbers to each prompt, to the second one the same twice."""

    def sample(self, prompts: Sequence[Prompt], samples: int, *, seed: int) -> list[list[Answer]]:
        texts = [(str(i), str(i + (i != 1))) for i in range(len(prompts))]
        return [[Answer(text) for text in two] for two in texts]


def test_it_asks_about_the_pairs_of_which_it_is_least_sure():
    """Three of nine, in the order in which they were drawn; equal answers come last."""
    asked: list[str] = []

    def ask(questions: Sequence[tuple[Row, ...]], single: bool, key: bytes) -> list[Verdict]:
        asked.extend(row.plus.text for (row,) in questions)
        return ["plus"] * len(questions)

    def sure(rows: Sequence[Row]) -> list[float]:
        return [4, 0, 3, 1, 5, 2, 9, 8, 7]

    survey = asking.Survey(PROMPTS, ask, 3, None, seed=0, drawn=3, sure=sure)
    found = asking.ask_round(survey, cast(Actor, Numbered()), asking.Meter())
    assert asked == ["2", "3", "5"] == [pair.chosen.text for pair in found.pairs]


class SecondRoundTies:
    """Prefers the longer answer, but in the second round finds all of them equal."""

    asked = 0

    def __call__(
        self, questions: Sequence[tuple[Row, ...]], single: bool, key: bytes
    ) -> list[Verdict]:
        self.asked += 1
        if self.asked == 2:
            return undecided(questions, single, key)
        return [verdict(len(row.plus.text) - len(row.minus.text)) for (row,) in questions]


@pytest.mark.parametrize("memory", ["all", "round"])
def test_a_round_of_ties_trains_on_what_came_before(memory):
    seen: list[Moment] = []
    plan = recipes.Rounds(rounds=3, questions=8, memory=memory, recipe=recipes.Dpo(steps=2))
    trained = dpo.iterative(
        tiny_actor(), PROMPTS, SecondRoundTies(), plan, seed=0, on_step=seen.append
    )
    first, second, third = (moment.figures for moment in seen)
    assert len(trained.log) == 3 * 2  # two steps a round, that of the ties included
    assert first["pairs"] == second["pairs"] > 0
    brought = third["pairs"] - (first["pairs"] if memory == "all" else 0)
    assert trained.pairs == first["pairs"] + brought  # each pair once, whatever a round trains on
    assert trained.ties >= 7


def test_a_panel_that_always_ties_is_one_line():
    plan = recipes.Rounds(rounds=2, questions=4)
    with pytest.raises(RunError, match=r"all \d+ answers were ties or skips"):
        dpo.iterative(tiny_actor(), PROMPTS, undecided, plan, seed=0)
    for train, name in ((dpo.train, "dpo"), (dpo.train_simpo, "simpo")):
        with pytest.raises(RunError, match=f"^{name}: no pair .*: there is no vote to learn from"):
            train(tiny_actor(), Preferences([]), seed=0)


@pytest.fixture(scope="module")
def four_bit(tmp_path_factory):
    """A small Llama in 4 bits, as bitsandbytes loads it from a folder."""
    folder: Path = tmp_path_factory.mktemp("four-bit")
    build("llama", hidden=64).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return loading.load(str(folder), dtype="bf16", quantization="fp4")


@pytest.mark.parametrize("method", ["dpo", "simpo", "sft", "grpo", "rloo"])
def test_adapters_stay_fp32_on_a_4_bit_base(four_bit, method, monkeypatch):
    actor = tiny_actor(base=four_bit)
    start = {name: value.copy() for name, value in actor.theta().items()}
    seen: set[torch.dtype] = set()

    def look(_: object) -> None:
        assert actor._peft is not None
        seen.update(p.dtype for p in actor._peft.parameters() if p.requires_grad)

    # Steps of 1e-7 on weights of .1: in bf16 nothing would move, and A would have been rounded.
    TRAIN[method](actor, 1e-7, 2, on_step=look)
    assert seen == {torch.float32}
    most = max(float(np.abs(v - start[n]).max()) for n, v in actor.theta().items())
    assert 0 < most < 5e-7


ONE_PAIR = recipes.Simpo(steps=1, batch=4)


def test_simpos_loss_is_that_of_a_hand_calculation():
    # The same answer on both sides: −log σ(0 − γ) = log(1 + e^.5) = .974077 for γ = .5.
    same = [Pair(Prompt.user(f"w{i}"), Answer("w7 w8"), Answer("w7 w8")) for i in range(20, 24)]
    log = dpo.train_simpo(tiny_actor(), Preferences(same), ONE_PAIR, seed=0).log
    assert log[0]["loss"] == pytest.approx(0.974077, abs=1e-6)
    actor = move(tiny_actor())
    data = pairs()[:4]
    deltas = actor.deltas([actor.theta()])

    def per_token(side: str) -> torch.Tensor:
        rows = [answer_tokens(actor.loaded, getattr(pair, side)) for pair in data]
        ids = [actor.encode(pair.prompt) for pair in data]
        logp = actor.engine.logprobs(ids, rows, [0] * len(rows), deltas)
        return torch.tensor([values.mean() for values in logp])

    margin = 2.0 * (per_token("chosen") - per_token("rejected")) - 0.5
    expected = float(-torch.nn.functional.logsigmoid(margin).mean())
    log = dpo.train_simpo(actor, Preferences(data), ONE_PAIR, seed=0).log
    assert log[0]["loss"] == pytest.approx(expected, abs=1e-6)


def test_sides_of_questions_are_drawn_from_their_own_keys():
    """Of 400 fair sides fewer than 150 or more than 250 of one come in 10⁻⁶ of keys."""
    drawn = asking.draw_sides(b"key", 400, judges=1)
    assert len({key for key, _ in drawn}) == 400 and {side for _, side in drawn} == {"A", "B"}
    assert 150 < sum(side == "A" for _, side in drawn) < 250
    assert asking.draw_sides(b"key", 3, judges=2) == drawn[:3]
    assert asking.draw_sides(b"other", 3, judges=1) != drawn[:3]
