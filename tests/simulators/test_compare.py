"""Comparisons of methods: plans, one setup for all, cells that resume, figures that follow."""

import csv
import importlib.util
import io
import json
import math
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from szpo.analysis import taught_taste
from szpo.baselines.asking import JudgesAsk, Meter, Survey, ask_round
from szpo.baselines.reward_model import scale_reward
from szpo.baselines.trainer import require_finite
from szpo.data.preference_formats import Pair
from szpo.errors import RunError, StorageError, UsageError
from szpo.improvement import policy_search
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.runs import status as of_ledger
from szpo.types import Answer, Prompt, Row
from szpo.voting import blind
from szpo_simulators import cell_records as stores
from szpo_simulators import cell_start, cells, compare, summary
from szpo_simulators import plan as plans
from szpo_simulators.cell_records import Cell, Store, write_record
from szpo_simulators.panels import heldout
from szpo_simulators.panels import panel as panels
from szpo_simulators.panels.heldout import Measurement
from tests.support import wide_guards, yard_run
from tests.support.quadratic import new_ledger, settings_of

compare_command = partial(compare.command, standalone_mode=False)

QUIET = Console(quiet=True)
METHOD = 'method = "regression"'
PROMPTS = tuple(Prompt.user(f"Question {i}?") for i in range(4))


@pytest.fixture(scope="module")
def quick():
    return plans.read(plans.find("quick"))


@pytest.fixture(scope="module")
def ran(quick, tmp_path_factory):
    """The folder of the quick plan with the first run of szpo and best-of-n finished."""
    store, groups = Store(tmp_path_factory.mktemp("plan")), (quick.groups[0], quick.groups[3])
    for group in groups:
        one = plans.cell(quick, group, 0)
        shares = []
        found = cells.run_cell(one.spec, store.folder, one.name, shares.append)
        assert shares == sorted(shares) and 0 < shares[-1] <= 1
        store.record_path(one).parent.mkdir(exist_ok=True)
        write_record(store.record_path(one), one.spec, {**found, "commit": None})
    return store


class Says:
    def __init__(self, *answers):
        self.answers = answers

    def sample(self, prompts, samples, *, seed):
        assert samples == 2
        given = self.answers[: len(prompts)]
        return [[Answer(text, tokens=len(text)) for text in texts] for texts in given]


def ask_votes(*answers, votes, rows):
    """Ask a panel that is nearly always right about how often the answer says good."""
    meter = Meter()
    of = [panels.build("bt70", reward="keyword:good", size=5, rows=n, beta=1e6) for n in (2, 1)]
    ask = JudgesAsk(*(panel.judges for panel in of), cell_start.alternate_sides)
    survey = Survey(PROMPTS, ask, votes, rows, 0, purpose="compare")
    found = ask_round(survey, Says(*answers), meter)
    return found, meter


def test_votes_cost_what_was_shown_in_batches_and_in_pairs():
    """Three votes of two rows: one row of the first is the same on both sides, the second
    comparison is so altogether. Votes 2; read 2·1 + 0 + 2·2 = 6; generated 4 + 3·… all twelve.
    """
    found, meter = ask_votes(
        ("good", "bad"), ("same", "same"), ("dull", "dull"), ("flat", "flat"), ("bad", "good"),
        ("sad", "good"), votes=3, rows=2,
    )  # fmt: skip
    assert (meter.votes, meter.answers_read) == (2, 6)
    assert meter.tokens_generated == (4 + 3) + 8 + 8 + 8 + (3 + 4) + (3 + 4)
    assert found.ties == 0
    assert [pair.chosen.text for pair in found.pairs] == ["good", "good", "good"]
    assert {pair.source for pair in found.pairs} == {"batch"}
    found, meter = ask_votes(
        ("good", "bad"), ("same", "same"), ("bad", "good"), ("good", "sad"), votes=4, rows=None
    )
    assert (meter.votes, meter.answers_read) == (3, 6)
    assert [pair.source for pair in found.pairs] == ["pair"] * 3


def test_the_panel_answers_in_turn_and_sees_either_side_equally_often():
    """A side bias so strong that side A always wins shows who stood where."""
    panel = panels.build("bt70", reward="keyword:good", size=5, rows=1, beta=1e-9)
    seen = []

    class Judge:
        def judge(self, comparison, *, panelist, plus_side, key):
            seen.append((panelist, plus_side, key))
            return "A"

    ask = JudgesAsk(panel.judges, (Judge(),) * 5, cell_start.alternate_sides)
    question = (Row(PROMPTS[0], Answer("a"), Answer("b")),)
    verdicts = ask([question] * 20, True, b"1")
    assert verdicts.count("plus") == verdicts.count("minus") == 10
    assert [who for who, _, _ in seen[:6]] == [f"panel-{i}" for i in (0, 1, 2, 3, 4, 0)]
    for i in range(5):
        assert sorted(side for who, side, _ in seen if who == f"panel-{i}") == list("AABB")
    assert len({key for _, _, key in seen}) == 20


FROZEN = Path(__file__).parents[2] / "experiments" / "frozen"


def test_the_settings_of_every_cell_of_every_plan_are_read():
    files = [*plans.SHIPPED.glob("*.toml"), *FROZEN.glob("*.toml")]
    read = [plans.read(path) for path in files if "[[group]]" in path.read_text("utf-8")]
    assert len(read) >= 8
    for plan in read:
        asked = {tuple(c.spec["sets"]): c.spec for c in plans.cells(plan) if "sets" in c.spec}
        for spec in asked.values():
            cell_start.load_config(spec)


@pytest.mark.parametrize("name", ["tiny", "published", "smollm2"])
def test_all_methods_share_one_setup(name):
    plan = plans.read(plans.find(name))
    found = plans.cells(plan)
    own = {"kind", "method", "ask", "seed", "setup", "settings", "sets", "points", "panel_on"}
    shared = [{k: v for k, v in cell.spec.items() if k not in own} for cell in found]
    assert all(each == shared[0] for each in shared)
    assert len({cell.name for cell in found}) == len(found)
    assert all(cell.spec["panel_on"] == cell.spec["ask"] for cell in found)
    trials = [group for group in plan.groups if group.part == "T"]
    for method in {group.method for group in trials}:
        tried = [group for group in trials if group.method == method]
        assert len(tried) <= 4
        chosen = [([*group.sets], group.settings) for group in tried]
        reported = [g for g in plan.groups if g.method == method and g not in trials]
        assert all(([*g.sets], g.settings) in chosen for g in reported if "free" not in g.name)
    assert not {s for g in trials for s in g.seeds} & {cell.spec["seed"] for cell in found}
    spec = found[0].spec
    config = cell_start.load_config(spec)
    asked = cells._asking({**spec, "ask": "pair", "panel_on": "pair"}, {"pair": 2.5})
    pairs = cell_start.load_config({**spec, "sets": [*spec["sets"], *asked]})
    assert pairs.run.votes == 8 * plan.groups[0].votes and pairs.panel.beta == 2.5
    assert pairs.optimizer.D == 1
    assert pairs.optimizer.N == 8 * config.optimizer.N


def measured(rewards):
    texts = (("a", "b"),) * len(rewards)
    return Measurement(-2.0, 0.8, 20.0, rewards=rewards, texts=texts, kl=0.0, kl_stderr=0.0)


class Parrot:
    """Answers with the prompt and the sample's number; reads a text at one nat per word."""

    def __init__(self, word=""):
        self.word, self.read = word, 0

    def sample(self, prompts, samples, *, seed):
        if self.word:
            return [[Answer(self.word, tokens=3)] * samples for _ in prompts]
        return [[Answer(f"{p.text} {i}", "stop", i) for i in range(samples)] for p in prompts]

    def logprob_base(self, prompts, answers):
        self.read += len(answers)
        return np.array([-float(len(a.text.split())) for a in answers[:-1]] + [np.nan])

    def sample_with_kl(self, prompts, samples, *, seed):
        return self.sample(prompts, samples, seed=seed), (1.5, 0.25)


def test_points_lie_at_shares_and_a_learned_reward_stands_beside():
    base = measured(np.full((4, 2), 0.1))
    yardstick = cell_start.Yardstick(PROMPTS, 2, lambda p, a: len(a.text) / 10, base)
    course = cell_start.Checkpoints(
        yardstick, cell_start.even_shares(2), proxy=lambda p, answers: [7.0] * len(answers)
    )
    for share, text in ((0.25, "x"), (0.5, "xxxx"), (0.75, "y"), (1.0, "xxxxxxxx")):
        course.record(Parrot(text), share, {"votes": 8, "answers_read": 64, "tokens": 10})
    assert [row["share"] for row in course.rows] == [0.5, 1.0]
    # Rewards .1 at the start, .4 and .8 then: every answer beats every one of the base's.
    assert [row["win_rate"] for row in course.rows] == [1.0, 1.0]
    assert [row["gain"] for row in course.rows] == pytest.approx([0.3, 0.7])
    assert [row["proxy"] for row in course.rows] == [7.0, 7.0]
    assert course.rows[-1]["kl"] == 1.5 and len(course.rows[-1]["guards"]) == 3
    assert course.rows[-1]["peak_bytes"] > 0 and course.rows[-1]["votes"] == 8


def row(seed, share, gain, kl=1.0, ok=(True,) * 4):
    guards = [{"name": "", "value": 1.0, "limit": "", "ok": held} for held in ok]
    return {
        "seed": seed, "share": share, "gain": gain, "kl": kl, "guards": guards,
        "cpu_seconds": 1.0, "gain_unseen": gain, "votes": 240 * share, "furthest": kl,
        "answers_read": 3840 * share, "logprob": -2.0, "win_rate": 0.5 + gain, "stopped": None,
        "setup_seconds": 2.0,
    }  # fmt: skip


def test_costs_are_those_of_the_last_checkpoint(quick):
    rows = [row(0, 0.5, 0.1), row(0, 1.0, 0.3), row(1, 0.5, 0.0), row(1, 1.0, 0.1)]
    each = {group.label: [] for group in quick.groups} | {"sentiment-regression": rows}
    (costs,) = summary.last_lines(quick, summary.summarise(quick, each))
    assert (costs["mean"], costs["seeds"]) == (pytest.approx(0.2), 2)
    assert (costs["setup_seconds"], costs["win_rate"]) == (2.0, pytest.approx(0.7))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "give --preset tiny, published or smollm2, a --plan, or two runs"),
        ("--preset huge", 'no preset "huge"; there are: published, quick, smollm2, tiny'),
        ("--preset smollm2 --only simpo", "no part or group simpo; parts: A, T"),
        (
            "--preset smollm2 --only sentiment-regresion",
            'did you mean "sentiment-batch-regression"',
        ),
        ("one --preset tiny", "a preset, a plan or runs, not several"),
        ("--preset tiny --seeds 0", "no cell is left"),
        ("--preset tiny --seeds one", "seeds 'one'; write them as"),
        (
            "--preset tiny --seeds 1001-1000",
            "seeds '1001-1000'; give at most 10,000, lowest first",
        ),
        ("--preset tiny --seeds=", "seeds ''; write them as"),
        ("--preset quick --jobs 0", "--jobs 0; give 1 or more"),
        ("--plan none.toml", "none.toml cannot be read"),
    ],
)
def test_wrong_words_get_a_line(tmp_path, words, message):
    with pytest.raises(UsageError, match=message):
        compare_command([*words.split(), "--folder", str(tmp_path)])


def test_a_missing_extra_is_named_before_anything_starts(tmp_path, monkeypatch, capsys):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *some: None if name == "trl" else there(name)
    )
    words = ["--preset", "tiny", "--folder", str(tmp_path)]
    with pytest.raises(UsageError, match=r"^compare: dpo, grpo, .* needs trl: .*\[baselines\]"):
        compare_command(words)
    assert compare_command([*words, "--show"]) == 0  # telling what is finished needs no trainer
    assert "nothing is finished in" in capsys.readouterr().out
    assert not (tmp_path / "cells").exists()


@pytest.mark.full
def test_runs_are_compared_by_their_ledgers(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "220")
    one = yard_run.finished(tmp_path / "a")
    two = yard_run.make(tmp_path / "b", "optimizer.M=2", "run.votes=48")
    two = two.rename(two.with_name("other.db"))
    capsys.readouterr()
    assert compare_command([str(one), str(two), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    for found, path in ((first, one), (second, two)):
        with Ledger.open(path, readonly=True) as ledger:
            total = of_ledger.read_results(ledger)
        assert (found["votes"], found["answers_read"]) == (total.votes, total.answers_read)
        assert found["improvement"]["points"][-1]["votes"] == total.votes
    assert 24 < second["votes"] <= 48 and first["votes"] <= 24
    assert compare_command([str(one), str(two)]) == 0
    out = capsys.readouterr().out
    assert str(second["answers_read"]) in out and "from the base on held-out prompts" in out
    for runs, words in (([one, one], "the same run is named twice"), ([one], "one run alone")):
        with pytest.raises(UsageError, match=words):
            compare_command([*map(str, runs)])
    # Without votes both are refused; one of two gets a line beside the table.
    empty = [tmp_path / "b.db", tmp_path / "c.db"]
    for path in empty:
        new_ledger(path, settings_of()).close()
    with pytest.raises(RunError, match="no votes in a closed step of b, c; collect some, or"):
        compare_command([str(path) for path in empty])
    assert compare_command([str(one), str(empty[0])]) == 0
    assert capsys.readouterr().err == "compare: no votes in a closed step of b\n"


def test_a_learned_reward_is_scaled_within_prompts_and_in_spreads():
    """Prompts differ by 100, answers by 2: what is followed is ±1 for either prompt."""
    worth = {"good": 1.0, "bad": -1.0, "best": 3.0}

    def score_learned(prompts, answers):
        each = zip(prompts, answers, strict=True)
        return [100.0 * (p == PROMPTS[1]) + worth[a.text] for p, a in each]

    pairs = [Pair(p, Answer("good"), Answer("bad")) for p in PROMPTS[:2]]
    score = scale_reward(score_learned, pairs)
    # Gaps of 2 are √2 spreads of √2: the spread is √2, and 1 over it is .7071.
    assert score(PROMPTS[:2], [Answer("good")] * 2) == pytest.approx([0.7071, 0.7071], abs=1e-4)
    assert score(PROMPTS[1:2], [Answer("best")]) == pytest.approx([2.1213], abs=1e-4)
    # An unknown prompt's level is the mean of all, 50.
    assert score(PROMPTS[2:3], [Answer("good")]) == pytest.approx([-49 / 2**0.5])
    flat = scale_reward(lambda p, a: [5.0] * len(a), pairs)
    assert list(flat(PROMPTS[:1], [Answer("x")])) == [0]


CELLS = [Cell({"method": m, "seed": seed}, m) for seed in range(3) for m in ("a", "b")]

CHILD = """
import json, os, pathlib, sys
spec, record = json.load(sys.stdin), pathlib.Path(sys.argv[1])
with open(os.environ["STARTED"], "a") as file:
    file.write(record.stem + "\\n")
print("0.5", flush=True)
if spec["method"] == os.environ.get("BREAKS"):
    sys.exit("no such wonder")
if spec["method"] == os.environ.get("WAITS"):
    open(os.environ["FIFO"]).read()
draft = record.with_suffix(".draft")
draft.write_text(json.dumps({"asked": spec, "found": {"elapsed": 4.0, "gain": spec["seed"]}}))
draft.replace(record)
"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    return Store(tmp_path / "kept", (sys.executable, str(script)))


def read_started(store):
    return (store.folder.parent / "started").read_text().split()


def test_two_at_once_share_the_cells_and_do_each_once(store):
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(stores.run_cells, QUIET, store, CELLS) for _ in range(2)]
        assert [each.result() for each in both] == [[], []]
    assert sorted(read_started(store)) == sorted(cell.name for cell in CELLS)
    assert [store.read(cell)["gain"] for cell in CELLS] == [0, 0, 1, 1, 2, 2]


@pytest.mark.full
def test_a_cell_that_fails_is_named_in_a_line_and_the_others_go_on(store, monkeypatch):
    monkeypatch.setenv("BREAKS", "a")
    console = Console(record=True, file=io.StringIO(), width=200)
    failures = stores.run_cells(console, store, CELLS)
    assert len(failures) == 3 and all("no such wonder" in line for line in failures)
    assert [store.read(cell) is None for cell in CELLS] == [True, False] * 3
    said = [line.split() for line in console.export_text().splitlines() if "-0-" in line]
    assert sorted(said) == [[CELLS[0].name, "failed"], [CELLS[1].name, "done"]]
    monkeypatch.delenv("BREAKS")
    assert stores.run_cells(QUIET, store, CELLS) == []
    assert len(read_started(store)) == 3 + 3 + 3  # those that were done are not done again


def test_after_a_kill_the_cell_is_free_and_the_rest_stays(store, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = (
        "import pathlib; from rich.console import Console; "
        "from szpo_simulators.cell_records import Cell, Store, run_cells; "
        f"store = Store(pathlib.Path({str(store.folder)!r}), {tuple(store.command)!r}); "
        f"specs = {[dict(c.spec) for c in CELLS]!r}; "
        "run_cells(Console(), store, [Cell(s, s['method']) for s in specs])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "WAITS": "b", "FIFO": str(fifo)},
    ) as running:  # fmt: skip
        waits = fifo.open("w")  # opens once the cell reads it
        with stores.claim(store.lock_path(CELLS[1])) as lock:
            assert lock is None  # somebody is at it
        os.killpg(running.pid, signal.SIGKILL)
        waits.close()
    assert store.read(CELLS[0]) is not None and store.read(CELLS[1]) is None
    assert stores.run_cells(QUIET, store, CELLS) == []
    assert [store.read(cell)["gain"] for cell in CELLS] == [0, 0, 1, 1, 2, 2]
    assert [read_started(store).count(cell.name) for cell in CELLS[:2]] == [1, 2]


@pytest.mark.full
def test_what_cannot_go_on_is_a_result_with_one_line(quick, ran, monkeypatch):
    """A panel that always ties teaches nothing; a rate without measure diverges."""
    group = plans.Group(
        part="X", name="none", method="dpo", seeds="3", votes=4, ask="batch", settings={"batch": 4}
    )
    spec = plans.cell(quick, group, 3).spec

    def tie(questions, single, key):
        return ["tie"] * len(questions)

    monkeypatch.setattr(cell_start, "build_ask", lambda spec, beta: tie)
    found = cells.run_cell(spec, ran.folder, "ties", lambda share: None)
    assert found["stopped"].startswith("dpo: no pair to learn from: all 4 answers were ties")
    assert found["rows"] == []
    monkeypatch.undo()

    def diverges(*some, **more):
        require_finite({"loss": float("nan")}, "dpo", 2)

    monkeypatch.setitem(cells.RUNNERS, "dpo", cells.make_offline(diverges, "dpo"))
    found = cells.run_cell(spec, ran.folder, "diverges", lambda share: None)
    assert "loss is nan at step 2: training diverged" in found["stopped"]


@pytest.mark.full
def test_a_reward_model_asks_in_its_next_round_about_the_pairs_that_it_is_least_sure_of(
    quick, ran, monkeypatch
):
    how = {"rounds": 2, "drawn": 3, "rm_steps": 2, "steps": 1, "prompts": 2, "samples": 2}
    group = plans.Group(
        part="X", name="sure", method="rloo", seeds="3", votes=8, ask="pair", settings=how
    )
    spec, surveys = plans.cell(quick, group, 3).spec, list[Survey]()

    def watch(survey, *rest):
        surveys.append(survey)
        return ask_round(survey, *rest)

    monkeypatch.setattr(cells, "ask_round", watch)
    found = cells.run_cell(spec, ran.folder, "sure", lambda share: None)
    first, second = surveys
    assert (first.drawn, first.sure, second.drawn) == (1, None, 3)
    one = Row(PROMPTS[0], Answer("I am glad", 3), Answer("rain", 1))
    assert second.sure([one])[0] == pytest.approx(
        second.sure([replace(one, plus=one.minus, minus=one.plus)])[0]
    )
    assert found["stopped"] is None and found["rows"][-1]["votes"] == 64


def test_measure_scores_every_answer_skips_empty_ones_in_fluency_and_comes_back_from_json():
    policy = Parrot()
    prompts = [Prompt.user("a b"), Prompt.user("c")]
    found = heldout.measure(policy, prompts, lambda p, a: float(a.tokens), samples=4, seed=3)
    assert found.rewards.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert found.texts[1] == ("c 0", "c 1", "c 2", "c 3")
    # Two answers of each prompt are read: 3, 3 and 2 words; the last has no tokens at all.
    assert policy.read == 4
    assert found.logprob == pytest.approx(-(3 + 3 + 2) / 3)
    assert (found.kl, found.kl_stderr, found.tokens) == (1.5, 0.25, 1.5)
    assert (found.margin, found.others) == (None, 0)  # a policy that reads no other prompt
    stored = json.loads(json.dumps(cell_start.measurement_to_json(found)))
    again = cell_start.measurement_from_json(stored)
    assert np.array_equal(found.rewards, again.rewards)
    assert again.texts == found.texts and again.logprob == found.logprob


@pytest.mark.parametrize(
    ("here", "change", "says"),
    [
        ('name = "hostile"', 'name = "sentiment"', "two groups are called sentiment-regression"),
        (METHOD, 'method = "ppo"', "ppo is no method"),
        (METHOD, f'{METHOD}\nask = "both"', 'ask must be one of "batch", "pair"'),
        (METHOD, f"{METHOD}\nspeed = 3", "speed"),
        (METHOD, f'{METHOD}\nof = "x"', "give `of`, a group's label, for best-of-n"),
        (METHOD, "method = ", "is not TOML"),
        (METHOD, f"{METHOD}\nasks = 3", r"a \[\[group\]\] or \[\[comparison\]\] is malformed"),
        ("heldout = [0, 8]", "heldout = [8, 0]", r"must be \[from, to\]"),
        ("votes = 16", "votes = 0", "votes must be a whole number >= 1"),
        ("at = [8, 16]", "at = [0]", "name no number of votes above 0"),
        ('name = "sentiment"', 'name = "../x"', "leave out / and"),
    ],
)
def test_a_plan_that_is_none_is_refused(here, change, says, tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(plans.find("quick").read_text("utf-8").replace(here, change, 1))
    with pytest.raises(UsageError, match=says):
        plans.read(path)


def test_settings_panel_and_reward_are_refused_before_a_cell_starts(tmp_path):
    plan = plans.find("quick").read_text("utf-8")
    for here, change, says in (
        ("subspace.dim=4", "subspace.dmi=4", 'unknown key "dmi"'),
        ('panel = "hostile"', 'panel = "hostil"', 'no panel.kind "hostil"'),
        (METHOD, f'{METHOD}\nreward = "mood"', "reward 'mood': no reward of that name"),
    ):
        path = tmp_path / "plan.toml"
        path.write_text(plan.replace(here, change, 1), encoding="utf-8")
        with pytest.raises(UsageError, match=says):
            compare_command(["--plan", str(path), "--folder", str(tmp_path / "new")])
        assert not (tmp_path / "new" / "cells").exists()
    with pytest.raises(StorageError, match="is no folder"):
        compare_command(["--preset", "quick", "--folder", str(path)])


def test_a_group_stands_for_several_rewards_and_a_star_for_their_comparisons(tmp_path):
    path = tmp_path / "plan.toml"
    group = """
[[group]]
part = "X"
name = "{}"
method = "regression"
seeds = "0"
votes = 8
at = [8]
rewards = {{ few = "taste:few commas", slow = "taste:slow" }}
"""
    pair = """
[[comparison]]
ours = "ours-*-regression"
theirs = "theirs-*-regression"
votes = 8
"""
    groups = group.format("ours") + group.format("theirs")
    path.write_text(plans.find("quick").read_text("utf-8") + groups + pair, encoding="utf-8")
    found = plans.read(path)
    assert found.group("ours-slow-regression").reward == "taste:slow"
    assert [(each.ours, each.theirs) for each in found.comparisons[-2:]] == [
        (f"ours-{name}-regression", f"theirs-{name}-regression") for name in ("few", "slow")
    ]


def test_parts_and_seeds_choose_cells(quick, tmp_path):
    for part in ("B", "hostile"):  # a part, or what one group alone begins with
        assert [c.label for c in plans.cells(quick, [part])] == ["hostile-regression"]
    assert [c.spec["seed"] for c in plans.cells(quick, ["A"], [1])] == [1]
    assert plans.Group(part="A", name="x", method="dpo", votes=4, seeds=5).seeds == (5,)
    best_of = plans.cell(quick, quick.groups[3], 0).spec
    with pytest.raises(UsageError, match="let its cell end first"):
        cells.run_best_of(best_of, tmp_path, print)


@pytest.mark.full
def test_a_cell_is_measured_where_its_ledger_recommends(quick, ran):
    found = ran.read(plans.cell(quick, quick.groups[0], 0))
    assert [r["votes"] for r in found["rows"]] == [8, 16]
    assert [r["steps"] for r in found["rows"]] == [2, 4]
    first, last = found["rows"]
    assert found["resumed"] is False and found["setup"]["cpu_seconds"] > 0
    for cost in ("seconds", "cpu_seconds"):
        assert 0 < first[cost] < last[cost]
    # What its host wrote, apart from its set-up; that is 64 answers and those that measure KL.
    assert last["answers_read"] / 2 < first["tokens"] < last["tokens"]
    assert found["setup"]["origin"] != "made" or found["setup"]["tokens"] > 64
    assert len(first["by_prompt"]) == 8 and first["peak_bytes"] > 0
    assert np.mean(last["by_prompt"]) == pytest.approx(last["gain"])
    with Ledger.open(next(ran.folder.glob("ledgers/*.db")), readonly=True) as ledger:
        facts = of_ledger.read_results(ledger).table
        beta = ledger.spec["config"]["panel"]["beta"]
    one = plans.cell(quick, quick.groups[0], 0).spec  # its panel is that of batches of eight
    fitted = cell_start.load(one, ran.folder)[1]
    assert beta == fitted["batch"] != fitted["pair"]
    assert last["answers_read"] == sum(fact.answers_read for fact in facts)
    assert len(list((ran.folder / "base").iterdir())) == 1


@pytest.mark.full
def test_what_is_finished_is_shown(ran, capsys):
    words = ["--preset", "quick", "--show", "--only", "A", "--json", "--folder", str(ran.folder)]
    assert compare_command(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [line["checkpoint"] for line in found["lines"][:2]] == [8, 16]
    assert found["unfinished"] == ["unfinished: sentiment-regression has 1 of 2 seeds"]
    assert found["failed"] == []
    with (ran.folder / "cells.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [each["votes"] for each in rows[:2]] == ["8", "16"]
    gains = np.array(rows[1]["by_prompt"].split(), float)
    assert gains.mean() == pytest.approx(float(rows[1]["gain"]), abs=1e-5)
    for name in ("compare-quick.json", "compare-quick-costs.csv"):
        assert (ran.folder / name).stat().st_size > 0


@pytest.mark.full
def test_a_killed_cell_goes_on_and_measures_only_what_is_left(quick, ran, monkeypatch):
    one = plans.cell(quick, quick.groups[0], 0)
    path = cells.ledger_path(ran.folder, one.name)
    with Ledger.open(path, readonly=True) as ledger:
        head = of_ledger.read_results(ledger).head
    first = ran.read(one)["rows"]
    (ran.folder / "rows" / one.name / "16.json").unlink()
    measured = []
    measure = heldout.measure

    def counting(*some, **more):
        measured.append(1)
        return measure(*some, **more)

    monkeypatch.setattr(heldout, "measure", counting)
    again = cells.run_cell(one.spec, ran.folder, one.name, lambda share: None)
    assert again["resumed"] is True and len(measured) == 1
    figures = ("votes", "gain", "kl", "logprob", "margin", "by_prompt")
    now, before = ([[r[f] for f in figures] for r in rows] for rows in (again["rows"], first))
    assert now == before
    with Ledger.open(path, readonly=True) as ledger:
        assert of_ledger.read_results(ledger).head == head


@pytest.mark.full
def test_an_improved_cell_says_what_votes_showed_and_whom_the_panel_prefers(
    quick, tmp_path, monkeypatch
):
    """As the ledger has it; how much a policy gains is not asked of so few votes."""
    monkeypatch.setattr(policy_search, "CHECKED", 8)
    monkeypatch.setattr(policy_search, "START_ANSWERS", 1)
    spec = plans.cell(quick, quick.groups[0], 0).spec
    more = ["subspace.kind=none", "optimizer.D=1", "improve.nats=1"]
    spec = {**spec, "sets": [*spec["sets"], *more], "votes": 48, "at": [8, 48]}
    with wide_guards.wide():
        first, last = cells.run_cell(spec, tmp_path, "improved", lambda share: None)["rows"]
        again = cells.run_cell(spec, tmp_path, "improved", lambda share: None)["rows"]
    assert [row.get("preferred") for row in again] == [None, last["preferred"]]
    with Ledger.open(cells.ledger_path(tmp_path, "improved"), readonly=True) as ledger:
        found = [taught_taste.last_findings(ledger, row["steps"]) for row in (first, last)]
        assert len(orders.orders(ledger, "final")) == 1
        pairs = blind.read(ledger)
    assert [row["factor"] for row in (first, last)] == [round(each.factor, 3) for each in found]
    assert [row["words"] for row in (first, last)] == [taught_taste.words(each) for each in found]
    assert last["factor"] > math.log(9) and last["words"].startswith("more positive in tone")
    assert last["kl"] > 0 and "preferred" not in first
    assert last["preferred"] == pairs.preferred.value
    assert last["preferred_true"] == pairs.true.value


@pytest.mark.full
def test_best_of_n_chooses_from_the_pool(quick, ran):
    rows = ran.read(plans.cell(quick, quick.groups[3], 0))["rows"]
    by = {(r["by"], r["n"]): r for r in rows}
    for n in (2, 4):
        assert by["true reward", n]["gain"] >= by["fitted direction", n]["gain"]
        assert by["true reward", n]["kl"] == pytest.approx(math.log(n) - (n - 1) / n)
    assert by["true reward", 4]["gain"] > by["true reward", 2]["gain"] > 0
    assert by["fitted direction", 2]["votes"] == 16


def test_comparisons_resample_prompts_beside_seeds(quick):
    """Seeds agree, prompts differ by .4 and 0, so that one prompt drawn twice is an end."""
    asked = quick.comparisons[0]
    rows = {
        label: [{**row(seed, share, sum(by) / 2), "by_prompt": by}
                for seed in (0, 1) for share in (0.5, 1.0)]
        for label, by in ((asked.ours, [0.5, 0.1]), (asked.theirs, [0.1, 0.1]))
    }  # fmt: skip
    rows["sentiment-iterative-dpo"] = []
    (found,) = summary.compare_pairs(quick, rows)
    ends = [found["difference"][name] for name in ("mean", "low", "high")]
    assert ends == pytest.approx([0.2, 0.0, 0.4])


def test_comparisons_are_paired_by_seed(quick):
    """Ours .30 and .10 against .10 and .05 on shared seeds: ratio .4/.15, difference .125; at
    half a nat .1 · .5/1 and so on, interpolated from the start.
    """
    ours, theirs = quick.comparisons[0].ours, quick.comparisons[0].theirs
    rows = {
        ours: [row(0, 0.5, 0.15, 0.5), row(1, 0.5, 0.0, 0.5), row(0, 1.0, 0.3, 1.0),
               row(1, 1.0, 0.1, 1.0)],
        theirs: [row(0, 1.0, 0.1, 1.0), row(1, 1.0, 0.05, 1.0), row(7, 1.0, 9.0, 1.0)],
        "sentiment-iterative-dpo": [row(0, 0.5, 0.1, 0.25), row(0, 1.0, 0.2, 0.75)],
    }  # fmt: skip
    at_votes, at_kl = summary.compare_pairs(quick, rows)
    assert at_votes["seeds"] == 2
    assert at_votes["ratio"]["mean"] == pytest.approx(8 / 3)
    difference = at_votes["difference"]  # its interval: the worse and the better seed
    assert [difference[n] for n in ("mean", "low", "high")] == pytest.approx([0.125, 0.05, 0.2])
    assert at_kl["mean_ours"] == pytest.approx(0.15)  # where it was measured
    assert at_kl["mean_theirs"] == pytest.approx(0.15)  # half-way between .1 and .2
