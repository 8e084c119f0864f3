"""A set of adapters: what is written, what is made again, what PEFT reads, and what is refused."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from szpo import seeds
from szpo.cli import app
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.data.prompts import load_shipped
from szpo.errors import UsageError
from szpo.features import dictionary
from szpo.features.user_features import build
from szpo.improvement import adapter_set, aims, policy_gradient
from szpo.improvement.adapter_set import Making, SetMaker
from szpo.improvement.policy_gradient import Pace, Score
from szpo.models import adapters, loading
from szpo.models.adapters import SET
from szpo.models.batched_lora import attach_deltas
from szpo.models.logprobs import Sample
from szpo.policies import basis, text_guards
from szpo.policies.backend import LocalBackend
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import moved
from szpo.policies.text_guards import TextFigures
from szpo.taste import Direction, Explanation, Feature, Taste
from szpo.types import FEATURE_GRID, Answer, Prompt
from tests.support import toy_policy, wide_guards
from tests.support.tiny_models import with_adapter
from tests.support.toy_policy import ToyForced, ToyPolicy

MAKING = Making(nats=1.0, answers=128, pace=Pace(step_nats=0.1, steps=8))
OF = ("cheerful = sentiment", 'says "it" less')
TINY = ["generation.max_new_tokens=12", "model.name=tiny", "model.dtype=fp32"]


@pytest.fixture(scope="module")
def host():
    return LocalBackend(loading.load("tiny", dtype="fp32"))


def settings() -> Config:
    return settings_file.load(None, sets=["generation.temperature=0.7", *TINY])


def maker(
    host: LocalBackend, folder: Path, of: Sequence[str] = OF, seed: int = 0, **options: Any
) -> SetMaker:
    prompts, making = load_shipped().train[:32], replace(MAKING, seed=seed)
    return SetMaker(host, settings(), prompts, aims.read(of), making, folder, **options)


def costs(host: LocalBackend, folder: Path, entry: dict[str, Any]) -> float:
    """What an adapter costs by answers to prompts that its making never saw, in nats."""
    asked = load_shipped().heldout
    return adapter_set.read_nats(host, settings(), folder / entry["folder"], asked, seed=1000)[0]


@pytest.fixture(scope="module")
def made(host, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "set"
    with wide_guards.wide():
        list(maker(host, folder).make())
    return folder


def listed(folder: Path) -> list[dict[str, Any]]:
    document = json.loads((folder / SET).read_text(encoding="utf-8"))
    return [{**each, "seconds": 0} for each in document["adapters"]]


@pytest.mark.full
def test_each_adapter_moves_its_own_aim_within_its_nats(made):
    cheerful, other = listed(made)
    assert [cheerful["folder"], other["folder"]] == ["cheerful", "says-it-less"]
    assert cheerful["after"] > cheerful["before"] + 0.1
    assert (other["feature"], other["more"]) == ("it", False) and other["after"] < other["before"]
    for each in (cheerful, other):
        assert 0 < each["nats"] <= each["nats_allowed"] == MAKING.nats
        assert set(each["others"]) == {"cheerful", 'says "it" less'} - {each["name"]}
        assert len(each["guards"]) >= 3  # the base hardly knows its own prompts
    assert sorted(path.name for path in made.iterdir()) == ["cheerful", "says-it-less", SET]
    document = json.loads((made / SET).read_text(encoding="utf-8"))
    assert document["base"] == "tiny" and len(document["base_sha256"]) == 64
    assert document["sampling"]["temperature"] == 0.7


@pytest.mark.full
def test_an_adapter_keeps_its_budget_on_prompts_that_its_making_never_saw(made, host):
    for each in listed(made):
        assert costs(host, made, each) <= MAKING.nats + each["nats_stderr"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_set_of_any_seed_keeps_its_budget(seed, host, tmp_path):
    with wide_guards.wide():
        found = [entry for _, entry in maker(host, tmp_path, seed=seed).make()]
    for each in found:
        fresh = costs(host, tmp_path, each)
        print(f"{seed} {each['name']}: {each['nats']} ± {each['nats_stderr']}, {fresh:.3f} fresh")
        assert fresh <= MAKING.nats + each["nats_stderr"]


def test_every_reading_is_by_other_answers_than_those_that_it_was_judged_by():
    drawn = []

    def kl(prompts, *, seed, samples):
        drawn.append(seed)
        return 4.0 / len(drawn) ** 2, 0.1

    policy = SimpleNamespace(kl=kl, theta=dict, move_to=lambda theta: None)
    end = adapter_set.End({}, 0.9, 0.1, np.zeros(1), TextFigures(-1.0, 0.9, 20.0), (), ())
    maker = SimpleNamespace(
        making=MAKING, judged=(), progress=lambda *what: None,
        _judge=lambda *what: end, _read_topic=lambda policy, end, base: end,
    )  # fmt: skip
    found, _ = SetMaker._draw_back(maker, aims.read(OF)[0], policy, end, end)
    assert found.nats <= MAKING.nats and len({*drawn, MAKING.seed}) == 1 + len(drawn) == 3


@pytest.mark.full
def test_peft_reads_an_adapter_with_equal_logits(made, host):
    folder = made / "cheerful"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4_000  # half precision
    ids = torch.tensor([[1, 8, 9, 20, 31, 30]])
    model = with_adapter(AutoModelForCausalLM.from_pretrained(host.facts.folder), folder)
    whole = maker(host, made)._find_ground().whole
    policy = LoraPolicy(host.facts, whole, root_seed=0, host=host)
    adapter = adapters.read_adapter(folder)
    name = "base_model.model.{}.lora_B.weight".format
    theta = {site.b: adapter.tensors[name(site.name)] for site in whole.sites}
    assert any(value.any() for value in theta.values())
    with (
        torch.no_grad(),
        attach_deltas(host.facts.model, whole.sites, policy.deltas([theta])) as rows,
    ):
        rows.members = [0]
        mine = host.facts.model(ids).logits
        torch.testing.assert_close(model(ids).logits, mine, rtol=1e-5, atol=1e-5)


@pytest.mark.full
def test_what_is_made_is_not_made_again_and_another_aim_joins(made, host, monkeypatch, tmp_path):
    before = {path: path.read_bytes() for path in made.rglob("*.safetensors")}
    with monkeypatch.context() as patched:
        patched.setattr(SetMaker, "_make_ground", None)
        assert [entry["name"] for _, entry in maker(host, made).make()] == ["cheerful", OF[1]]
    assert {path: path.read_bytes() for path in made.rglob("*.safetensors")} == before
    joined = tmp_path / "set"
    shutil.copytree(made, joined)
    ((_, more),) = maker(host, joined, ["past"]).make()
    assert [each["name"] for each in listed(joined)] == ["cheerful", OF[1], "past"]
    assert listed(joined)[:2] == listed(made) and more["others"] == {}


class Killed(BaseException):
    pass


@pytest.mark.full
def test_a_making_that_was_killed_three_times_ends_like_an_uninterrupted_one(made, host, tmp_path):
    left, folder = ["counting features", "cheerful: step 1", "fresh answers"], tmp_path / "set"

    def progress(stage: str, done: int, of: int) -> None:
        if stage == left[0]:
            raise Killed

    with wide_guards.wide():
        while left:
            with pytest.raises(Killed):
                list(maker(host, folder, progress=progress).make())
            left.pop(0)
        list(maker(host, folder).make())
    assert listed(folder) == listed(made)
    for path in made.rglob("*.safetensors"):
        assert (folder / path.relative_to(made)).read_bytes() == path.read_bytes()


TOY_PACE = Pace(3, 6, 0.1, 8)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Makes a set of a policy of a few numbers, whose aims are named, in a folder."""
    files = SimpleNamespace(sha256="1" * 64)
    facts = SimpleNamespace(
        sha256="0" * 64, dtype="fp32", name="toy", identity=SimpleNamespace(files=files)
    )
    host = SimpleNamespace(places=lambda config, given: ((toy_policy.SITE,), False), facts=facts)

    def probe(host, blank, prompts, sampling, seed, progress):
        start = ToyPolicy(None, blank, sampling=sampling)
        start.subspace = toy_policy.moving()

        def draw(count, each):
            rows = start.sample_tokens(prompts, each, seed=seed)[:count]
            return [Sample((), row, i // each) for i, row in enumerate(rows)]

        return SimpleNamespace(start_samples=draw, read_inputs=lambda samples: toy_policy.A)

    monkeypatch.setattr(policy_gradient, "Forced", ToyForced)
    monkeypatch.setattr(adapter_set, "LoraPolicy", ToyPolicy)
    monkeypatch.setattr(adapter_set, "probe_of", probe)
    said = ToyPolicy(None, toy_policy.moving()).answer
    monkeypatch.setattr(adapter_set.loading, "answer_of", lambda facts, row, stop: said(row))

    def make(*of, nats=3.0):
        making = Making(nats, 48, TOY_PACE, seed=5)
        folder = tmp_path / "set"
        return SetMaker(host, settings(), toy_policy.PROMPTS, aims.read(of), making, folder)

    return make


def test_all_numbers_of_a_set_are_those_of_its_adapters_by_answers_that_chose_nothing(toy):
    """Two adapters of a policy of a few numbers: their climbs, their nats, what they move."""
    made = toy("commas", "loud = fewer exclamations", "questions")
    with wide_guards.wide():
        *entries, lacking = [entry for _, entry in made.make()]
    assert lacking == {"name": "questions", "why": "all answers of the start are alike in it"}
    (loud,), (louder,) = (aims.read([f"loud = {way} exclamations"]) for way in ("fewer", "more"))
    assert made.key(loud) != made.key(louder)  # the opposite is made, not taken for it
    taught, judged = adapter_set.split_prompts(toy_policy.PROMPTS, 5)
    assert (len(taught), len(judged)) == (18, 6) and {*taught} | {*judged} == {*toy_policy.PROMPTS}
    halved = {n: v.astype(np.float16).astype(np.float32) for n, v in toy_policy.A.items()}
    whole = adapter_set.every_b((toy_policy.SITE,), halved)
    policy = ToyPolicy(None, whole, sampling=made.sampling)

    def value(prompts, rows):
        return aims.count(made.aims, prompts, [policy.answer(row) for row in rows])

    each = basis.ANSWERS_EACH
    first = policy.sample_tokens(taught, each, seed=5)[:48]
    groups = np.arange(48) // each
    values = value([taught[g] for g in groups], first)
    bounds = [aims.bounds_of(*pair) for pair in zip(made.aims, values.T, strict=True)]
    clipped = np.clip(values, *np.array(bounds).T)
    spread = basis.centre(clipped, groups).std(0)
    twice = [prompt for prompt in judged for _ in range(2)]
    before = value(twice, policy.sample_tokens(judged, 2, seed=5, base=True)).mean(0)
    for place, (aim, entry) in enumerate(zip(made.aims, entries, strict=False)):
        score = aims.bounded(aims.score_of(aim, policy), *bounds[place])
        end = policy_gradient.climb(
            policy, score, taught, TOY_PACE,
            seed=seeds.child_seed(5, place, f"adapter {aim.feature} {aim.sign}"),
            until=lambda here: bool(here.steps) and (
                here.steps[-1].nats ** 0.5 + here.steps[-1].cost ** 0.5 >= 3**0.5
            ),
        )  # fmt: skip
        theta = {n: v.astype(np.float16).astype(np.float32) for n, v in end.theta.items()}
        with moved(policy, theta):
            seed = seeds.child_seed(5, 0, "adapter nats")
            nats, stderr = policy.kl(judged, seed=seed, samples=2)
            after = value(twice, policy.sample_tokens(judged, 2, seed=5)).mean(0)
        other, gap = made.aims[1 - place].name, ((after - before)[:2] / spread[:2])[1 - place]
        wanted = {
            "nats": round(nats, 3), "nats_stderr": round(stderr, 3), "scale": 1.0,
            "nats_allowed": 3.0, "before": before[place] * aim.sign,
            "after": after[place] * aim.sign, "spread": spread[place],
            "others": {other: pytest.approx(gap, abs=1e-3)},
            "answers": end.answers + 12 + 12, "more": aim.sign > 0, "feature": aim.feature,
        }  # fmt: skip
        assert {key: entry[key] for key in wanted} == wanted
        assert after[place] > before[place] + 0.5 * spread[place]
        assert [guard["name"] for guard in entry["guards"]] == [*text_guards.NAMES[:3]]
    listed = json.loads((made.folder / SET).read_text("utf-8"))
    assert listed["adapters"] == entries and listed["base_sha256"] == "1" * 64
    kept = adapters.read_adapter(made.folder / "loud").tensors
    values = kept[f"base_model.model.{toy_policy.SITE.name}.lora_B.weight"]
    np.testing.assert_array_equal(values, theta[toy_policy.SITE.b])


def test_a_folder_of_another_model_or_other_things_is_refused(toy, tmp_path):
    one, other = toy("commas"), toy("commas")
    with wide_guards.wide():
        list(one.make())
    made = one.folder
    other.host = SimpleNamespace(facts=SimpleNamespace(
        name="other", identity=SimpleNamespace(files=SimpleNamespace(sha256="2" * 64))
    ))  # fmt: skip
    with pytest.raises(UsageError, match="adapters of toy, another model than other"):
        other.read_set()
    tmp_path = tmp_path / "else"
    tmp_path.mkdir()
    one.folder = tmp_path
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds something else"):
        one.read_set()
    (tmp_path / SET).write_text("[]")
    with pytest.raises(UsageError, match="no list of adapters"):
        one.read_set()
    second = adapter_set.holding(made)
    with adapter_set.holding(made), pytest.raises(UsageError, match="another process"):
        second.__enter__()


def test_aims_are_features_in_a_sense_fluency_or_rewards():
    found = aims.read(["more commas", "x = less questions", "fluency", "keyword:sea+sun"])
    assert [(aim.name, aim.feature, aim.sign) for aim in found] == [
        ("more commas", "commas", 1), ("x", "questions", -1), ("fluency", "fluency", 1),
        ("keyword:sea+sun", "keyword:sea+sun", 1),
    ]  # fmt: skip
    assert len(aims.read(aims.USUAL)) == 16 and len(aims.read(aims.USUAL_TINY)) == 8
    every = [aim.feature for aim in aims.read(aims.USUAL)]
    assert every[:3] == ["sentiment", "i", "you"] and every[-1] == "fluency"


def test_values_count_within_what_the_starts_answers_had():
    values = np.array([-9.0] * 2 + [0.0] * 20 + [1.0] * 5 + [2.0, 2.0, 9.0])
    assert aims.bounds_of(aims.Aim("", "commas"), values) == (0.0, 2.0)
    whole = Score(lambda prompts, answers, states: np.array([5.0, 1.0, -1.0]))
    score = aims.bounded(whole, 0.0, 2.0)
    assert score([], []).tolist() == [2.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--of", "comas"], "no feature of the dictionary is called so (did you mean 'commas'"),
        (["--of", "commas", "--of", "commas"], "'commas' is named twice; write NAME = FEATURE"),
        (["--of", "a, b = commas"], "'a, b' holds a comma, which --mix could not name"),
        (["--nats", "0"], "--nats 0: give 0.05 to 20"),
        (["--set", "model.adapter=there"], "leave out model.adapter"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, message, capsys, tmp_path):
    code = app.call(["adapters", "make", str(tmp_path / "set"), "--model", "tiny", *arguments])
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "set").exists()


LIKED = Taste(
    (Feature("sentiment", FEATURE_GRID // 10, -FEATURE_GRID, 3 * FEATURE_GRID, 0),
     Feature("it", FEATURE_GRID // 20, 0, FEATURE_GRID, 0)),
    (Explanation(3, ((0, FEATURE_GRID),)), Explanation(1, ((0, FEATURE_GRID), (1, -800)))),
    (("more positive in tone", FEATURE_GRID),), dictionary.digest(), verdicts=40, people=2,
)  # fmt: skip


def test_a_taste_counts_by_tokens_within_its_own_bounds_unless_a_function_counts():
    aim = aims.of_taste("runs/panel.json", LIKED)
    assert (aim.name, aim.feature) == ("panel", f"taste {LIKED.sha256}")
    assert aims.decay_of(LIKED) == policy_gradient.DECAY
    assert aims.bounds_of(aim, np.zeros(8)) == (-np.inf, np.inf)
    prompts, answers = [Prompt.user("How was it?")] * 2, [Answer("Lovely!"), Answer("It was")]
    every = [aims.Aim("x", "it", -1, dictionary.BY_NAME["it"]), aim]
    found = aims.count(every, prompts, answers)
    assert found[:, 1].tolist() == LIKED.score(["How was it?"] * 2, ["Lovely!", "It was"]).tolist()
    text = "tests.support.own_feature:starts"
    _, own = build(text)
    coded = replace(LIKED, features=(*LIKED.features, Feature(text, 1, 0, 1, 0)),
                    own=(tuple(vars(own).values()),))  # fmt: skip
    costly = aims.of_taste("x = panel.json", coded, [text])
    assert costly.name == "x" and aims.decay_of(coded) is None
    assert np.isfinite(aims.count([costly], prompts, answers)).all()
    rated = replace(LIKED, features=(Feature("judge: kind", 1, 0, 1, 0),), explanations=(
        Explanation(1, ((0, 1),)),))  # fmt: skip
    with pytest.raises(UsageError, match="a judge rates its feature 'judge: kind'"):
        aims.of_taste("panel.json", rated)


def test_only_guards_that_a_taste_is_about_are_waived():
    def waived(length: int, repetition: int) -> tuple[str, ...]:
        features = (
            *LIKED.features,
            Feature("length", 1, 0, 1, 0),
            Feature("repetition", 1, 0, 1, 0),
        )
        weights = ((0, FEATURE_GRID), (2, length), (3, repetition))
        return aims.waived_by(
            replace(LIKED, features=features, explanations=(Explanation(1, weights),))
        )

    tenth = FEATURE_GRID // 10 + 1
    assert waived(tenth, 0) == waived(-tenth, 3) == (text_guards.LENGTH,)
    assert waived(-3, tenth) == (text_guards.VARIETY,) and waived(tenth - 2, 3) == ()


def test_what_matters_little_beside_a_direction_of_states_waives_no_guard():
    """A direction adds a quarter of its range, and one spread of length 1, in logits."""
    feature, one = Feature("length", FEATURE_GRID, 0, 1, 0), FEATURE_GRID
    alone = Taste((feature,), (Explanation(1, ((0, one),)),), (), "")
    assert aims.waived_by(alone) == (text_guards.LENGTH,)
    torn = replace(alone, explanations=(Explanation(1, ((0, one),)), Explanation(1, ((0, -one),))))
    assert torn.weights == [0] and torn.sizes == [1]  # in either sense it is about length
    assert aims.waived_by(torn) == (text_guards.LENGTH,)
    for wide, waived in ((16, (text_guards.LENGTH,)), (64, ())):
        way = Direction("0" * 64, "tiny", 2, 1024, (one,), 0, wide * one, 0)
        both = (Explanation(1, ((0, one),)), Explanation(1, ((1, one),)))
        beside = replace(alone, direction=way, explanations=both)
        assert aims.of_taste("liked.json", beside).waived == waived


@pytest.mark.full
def test_the_command_makes_a_set_and_tells_what_it_reaches(tmp_path, capsys):
    folder, file = tmp_path / "set", tmp_path / "taste.json"
    file.write_text(json.dumps(LIKED.to_json()))
    few = ["--answers", "128", "--nats", "1", "--taste", str(file)]
    sets = [word for text in TINY for word in ("--set", text)]
    assert app.call(["adapters", "make", str(folder), *few, *sets]) == 2
    assert "this taste describes two people" in capsys.readouterr().err
    assert not folder.exists()
    assert app.call(["adapters", "make", str(folder), *few, *sets, "--yes"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith(f"next: make another in {folder}, or name it beside")
    assert "taste" in out and "1 made in" in out and "peak" in out
    assert app.call(["adapters", "make", str(folder), *few, *sets, "--yes"]) == 0
    assert f"nothing to make: {folder} has all 1 already" in capsys.readouterr().out
    assert app.call(["adapters", "make", str(folder), *few, *sets, "--yes", "--json"]) == 0
    (liked,) = json.loads(capsys.readouterr().out)["adapters"]
    assert liked["after"] > liked["before"] + 0.1
    assert (liked["name"], liked["people"], liked["nats"] <= 1) == ("taste", 2, True)
