"""Comparisons of methods: the same setup for all, costs as promised, honest summaries."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from rich.console import Console

from szpo.baselines.asking import JudgesAsk, Survey, ask_round
from szpo.baselines.costs import Meter
from szpo.baselines.reward_model import scale_reward
from szpo.baselines.validation import require_finite
from szpo.data.pairs import Pair
from szpo.errors import RunError, UsageError
from szpo.ledger.database import Ledger
from szpo.training import results as of_ledger
from szpo.types import Answer, Prompt, Row
from szpo_simulators.compare import (
    cell_store,
    checkpoints,
    command,
    machine_meter,
    methods,
    presets,
    shared_setup,
    summary,
)
from szpo_simulators.compare.cell_process import run_cell
from szpo_simulators.compare.cell_store import Cell, CellStore
from szpo_simulators.panels import heldout
from szpo_simulators.panels import panel as panels
from szpo_simulators.panels.heldout import Measurement
from tests.support import yard_run
from tests.support.pairs import new_ledger

compare_command = partial(command.command, standalone_mode=False)

QUIET = Console(quiet=True)
PROMPTS = tuple(Prompt.user(f"Question {i}?") for i in range(4))
START = {"base": "base-both-0-x", "beta": {"batch": 9.0, "pair": 3.0}}


class Says:
    def __init__(self, *answers):
        self.answers = answers

    def sample(self, prompts, samples, *, seed):
        assert samples == 2
        return [
            [Answer(text, tokens=len(text)) for text in self.answers[i]]
            for i in range(len(prompts))
        ]


def ask_votes(*answers, votes, rows):
    """Ask a panel that is nearly always right about how often the answer says good."""
    meter = Meter()
    of = [panels.build("bt70", reward="keyword:good", size=5, rows=n, beta=1e6) for n in (2, 1)]
    ask = JudgesAsk(*(panel.judges for panel in of), shared_setup.alternate_sides)
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

    ask = JudgesAsk(panel.judges, (Judge(),) * 5, shared_setup.alternate_sides)
    question = (Row(PROMPTS[0], Answer("a"), Answer("b")),)
    verdicts = ask([question] * 20, True, b"1")
    assert verdicts.count("plus") == verdicts.count("minus") == 10
    assert [who for who, _, _ in seen[:6]] == [f"panel-{i}" for i in (0, 1, 2, 3, 4, 0)]
    for i in range(5):
        assert sorted(side for who, side, _ in seen if who == f"panel-{i}") == list("AABB")
    assert len({key for _, _, key in seen}) == 20


@pytest.mark.parametrize("name", list(presets.PRESETS))
def test_all_methods_share_one_setup(name):
    """Model, prompts, panel, budget and yardstick are those of everybody; none has more trials."""
    preset = presets.find_preset(name)
    cells = command.order_cells(preset, presets.select_methods(preset), preset.seeds, START)
    own = {"method", "ask", "seed", "settings", "points"}
    shared = [{k: v for k, v in cell.spec.items() if k not in own} for cell in cells]
    assert all(each == shared[0] for each in shared)
    assert len({cell.name for cell in cells}) == len(cells)
    for method in preset.methods:
        tried = presets.METHODS[method]
        assert preset.reported_settings(tried) in preset.trials_of(tried)
        untuned = {"rm+ppo-free", *presets.LADDER} - {"szpo"}
        assert len(preset.trials_of(tried)) <= 4 == len(tried.trials) or method in untuned
        for seed in preset.seeds:
            ours = [c for c in cells if (c.kind[0], c.spec["seed"]) == (method, seed)]
            asks = preset.asks.get(method, tried.asks)
            assert sorted(c.spec["ask"] for c in ours) == sorted(asks)
    assert not set(preset.tuning) & set(preset.seeds)


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

    def kl(self, prompts, *, seed):
        return 1.5, 0.25


def test_points_lie_at_even_shares_and_the_start_costs_nothing():
    start = measured(np.full((4, 2), 0.1))
    yardstick = checkpoints.Yardstick(PROMPTS, 2, 0, lambda p, a: len(a.text) / 10, start)
    course = checkpoints.Checkpoints(
        yardstick, machine_meter.MachineMeter(), 2, proxy=lambda p, answers: [7.0] * len(answers)
    )
    course.record_start()
    course.record_start({"votes": 8, "answers_read": 64, "tokens": 9})
    for share, text in ((0.25, "x"), (0.5, "xxxx"), (0.75, "y"), (1.0, "xxxxxxxx")):
        course.record(Parrot(text), share, {"votes": 8, "answers_read": 64, "tokens": 10})
    assert [row["share"] for row in course.rows] == [0.0, 0.0, 0.5, 1.0]
    assert [row["votes"] for row in course.rows] == [0, 8, 8, 8]
    # Rewards .1 at the start, .4 and .8 then: every answer beats every one of the base's.
    assert [row["win_rate"] for row in course.rows] == [0.5, 0.5, 1.0, 1.0]
    assert [row["gain"] for row in course.rows] == pytest.approx([0, 0, 0.3, 0.7])
    assert [row["proxy"] for row in course.rows] == [None, None, 7.0, 7.0]
    assert course.rows[-1]["kl"] == 1.5 and len(course.rows[-1]["guards"]) == 3


def test_votes_asked_before_the_first_step_are_not_earned_back_by_a_line():
    """Who asks for 100 votes and then trains to +.3 needed all hundred, and in the second round
    two hundred. A policy that moves with every few votes was at +.15 half-way.
    """
    rows = [row(0, 0.0), row(100, 0.1), row(200, 0.3)]

    def cost_to_target(method, by):
        return summary.find_where(
            summary.rows_by_cost(cell(method, 0, *rows), by), "gain", 0.15, by
        )

    assert cost_to_target("iterative-dpo", "votes") == 200
    assert cost_to_target("iterative-dpo", "answers_read") == 3200
    assert cost_to_target("szpo", "votes") == pytest.approx(125)
    stairs = summary.mean_curve([cell("rm+ppo", 0, *rows)], "votes")
    assert stairs["x"] == [0, 100, 100, 200, 200]
    assert [one["mean"] for one in stairs["rows"]] == [0, 0, 0.1, 0.1, 0.3]
    assert summary.mean_curve([cell("rm+ppo", 0, *rows)], "tokens")["x"] == [1000.0] * 3


def row(votes, gain, proxy=None, share=1.0):
    return {
        "share": share, "votes": votes, "answers_read": 16 * votes, "tokens": 1000.0,
        "seconds": 2.0, "cpu_seconds": 1.0, "peak_bytes": 300 * 2**20, "reward": 0.1 + gain,
        "gain": gain, "interval": [gain - 0.1, gain + 0.1], "kl": 1.0, "kl_stderr": 0.1,
        "length": 9.0, "logprob": -2.0, "distinct2": 0.5, "guards": [{"ok": gain < 0.25}],
        "proxy": proxy, "figures": {}, "win_rate": 0.5 + gain, "margin": None,
    }  # fmt: skip


def cell(method, seed, *rows, stopped=None, ask="batch"):
    return {
        "asked": {"method": method, "ask": ask, "seed": seed}, "course": list(rows),
        "stopped": stopped, "bytes": {"peak": 300 * 2**20, "before": 200 * 2**20},
    }  # fmt: skip


RECORDS = {
    ("szpo", "batch"): [
        cell("szpo", 0, row(0, 0.0), row(100, 0.3)),
        cell("szpo", 1, row(0, 0.0), row(100, 0.1)),
    ],
    ("dpo", "batch"): [
        cell("dpo", 0, row(0, 0.0), row(100, 0.0), row(100, 0.2)),
        cell("dpo", 1, row(0, 0.0), row(100, 0.0), stopped="dpo: loss is nan at step 3: training "
             "diverged; lower the learning rate"),
    ],
}  # fmt: skip


def test_rows_say_gains_costs_and_who_stopped():
    ours, theirs = summary.summarise(RECORDS, {"szpo": "SZPO", "dpo": "DPO"})
    assert ours["mean"] == pytest.approx(0.2) and ours["n"] == 2
    # Differences of .2 around their mean: s.e. .1, t(.975, 1) = 12.706.
    assert ours["high"] - ours["mean"] == pytest.approx(1.2706, abs=1e-4)
    assert ours["votes_to_target"] == [50.0, None] and ours["median_votes_to_target"] is None
    assert ours["guards_held"] == 1 and ours["added_bytes"] == 100 * 2**20
    assert theirs["seeds"] == [0] and theirs["stopped"][0]["votes"] == 100
    # Who stopped did not get there: one of two is no median.
    assert theirs["answers_read_to_target"] == [1600.0, None]
    assert theirs["median_answers_read_to_target"] is None
    assert summary.differences([ours, theirs]) == []  # they share one seed


def test_differences_are_gains_beyond_ours_and_seeds_count_once():
    cells = {
        key: [cell(key[0], seed, row(9, gain)) for seed, gain in enumerate(gains)]
        for key, gains in {("szpo", "batch"): (0.1, 0.2), ("dpo", "pair"): (0.3, 0.3)}.items()
    }
    cells[("dpo", "pair")] = [
        {**one, "reward_model_agrees": [0.5, 0.7]} for one in cells["dpo", "pair"]
    ]
    rows = summary.summarise(cells, {"szpo": "SZPO", "dpo": "DPO"})
    (apart,) = summary.differences(rows)
    assert (apart["method"], apart["n"]) == ("dpo", 2) and apart["mean"] == pytest.approx(0.15)
    assert rows[1]["win_rate"] == pytest.approx(0.8) and rows[1]["agreement"] == pytest.approx(0.6)
    assert "agreement" not in rows[0]


def test_over_optimisation_is_seen_only_where_both_intervals_say_so():
    def runs(ends):
        return [
            [row(9, 0.1, 1.0, 0.25), row(9, 0.4, 2.0, 0.5), row(9, end, 3.0 + end, 1.0)]
            for end in ends
        ]

    found = summary.find_over_optimisation(runs([0.1, 0.11, 0.12]))
    assert found["seen"] and found["at"] == 0.5 and found["true"][0] == pytest.approx(-0.29)
    assert not summary.find_over_optimisation(runs([0.1, 0.39, 0.36]))["seen"]
    assert not summary.find_over_optimisation(runs([0.5, 0.5, 0.5]))["seen"]  # highest at the end
    assert summary.find_over_optimisation([[row(1, 0.1)]]) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "give --preset tiny, published or smollm2, or two runs"),
        ("--preset huge", 'no preset "huge"'),
        ("--preset smollm2 --methods simpo", 'has no method "simpo"'),
        ("--preset tiny --asks all", "--asks all"),
        ("one --preset tiny", "a preset or runs, not both"),
        ("--preset tiny --seeds 0", "chosen on seed 0"),
        ("--preset tiny --tune --asks pair", "--tune has seeds of its own"),
        ("--preset tiny --collect", "nothing is finished in .*; leave out --collect"),
    ],
)
def test_wrong_words_get_a_line(tmp_path, words, message):
    with pytest.raises(UsageError, match=message):
        compare_command([*words.split(), "--folder", str(tmp_path)])


def test_a_missing_extra_is_named_before_anything_starts(tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *some: None if name == "trl" else there(name)
    )
    # Telling what is finished needs no trainer.
    for words, message in (
        ("--methods dpo", r"dpo need trl: .*\.\[baselines\].*, or"), ("--collect", "finished in"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            compare_command(["--preset", "tiny", *words.split(), "--folder", str(tmp_path)])
    assert not (tmp_path / "cells").exists()


@pytest.mark.full
def test_runs_are_compared_by_their_ledgers(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "220")
    one = yard_run.finished(tmp_path / "a")
    two = yard_run.make(tmp_path / "b", "optimizer.votes=2", "run.votes=48")
    two = two.rename(two.with_name("other.db"))
    capsys.readouterr()
    assert compare_command([str(one), str(two), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    for found, path in ((first, one), (second, two)):
        with Ledger.open(path, readonly=True) as ledger:
            total = of_ledger.read(ledger)
        assert (found["votes"], found["answers_read"]) == (total.votes, total.answers_read)
        curve = found["curves"]["better"]
        assert curve[-1][:2] == [total.votes, total.answers_read]
        assert all(0.5 <= value <= 1 for _, _, value in curve)
    assert 24 < second["votes"] <= 48 and first["votes"] <= 24
    assert compare_command([str(one), str(two)]) == 0
    out = capsys.readouterr().out
    assert str(second["answers_read"]) in out and "from the base on held-out prompts" in out
    assert (one.parent / "compare-yard-other.svg").exists()
    for runs, words in (([one, one], "the same run is named twice"), ([one], "one run alone")):
        with pytest.raises(UsageError, match=words):
            compare_command([*map(str, runs)])
    # Without votes both are refused; one of two gets a line beside the table.
    empty = [tmp_path / "b.db", tmp_path / "c.db"]
    for path in empty:
        with new_ledger(path):
            pass
    with pytest.raises(RunError, match="no votes in a closed step of b, c; collect some, or"):
        compare_command([str(path) for path in empty])
    assert compare_command([str(one), str(empty[0])]) == 0
    assert capsys.readouterr().err == "compare: no votes in a closed step of b\n"


def test_a_learned_reward_is_scaled_within_prompts_and_in_spreads():
    """Prompts differ by 100, answers by 2: what is followed is ±1 for either prompt."""
    worth = {"good": 1.0, "bad": -1.0, "best": 3.0}

    def score_learned(prompts, answers):
        return [
            100.0 * (p == PROMPTS[1]) + worth[a.text]
            for p, a in zip(prompts, answers, strict=True)
        ]

    pairs = [Pair(p, Answer("good"), Answer("bad")) for p in PROMPTS[:2]]
    score = scale_reward(score_learned, pairs)
    # Gaps of 2 are √2 spreads of √2: the spread is √2, and 1 over it is .7071.
    assert score(PROMPTS[:2], [Answer("good")] * 2) == pytest.approx([0.7071, 0.7071], abs=1e-4)
    assert score(PROMPTS[1:2], [Answer("best")]) == pytest.approx([2.1213], abs=1e-4)
    # An unknown prompt's level is the mean of all, 50.
    assert score(PROMPTS[2:3], [Answer("good")]) == pytest.approx([-49 / 2**0.5])
    flat = scale_reward(lambda p, a: [5.0] * len(a), pairs)
    assert list(flat(PROMPTS[:1], [Answer("x")])) == [0]


CELLS = [
    Cell({"method": method, "ask": "batch", "seed": seed}, 10.0)
    for seed in range(3)
    for method in ("a", "b")
]

CHILD = """
import json, os, pathlib, sys
spec, record = json.load(sys.stdin), pathlib.Path(sys.argv[1])
with open(os.environ["STARTED"], "a") as file:
    file.write(record.stem + "\\n")
print("0.5", flush=True)
if spec["method"] == os.environ.get("BREAKS"):
    sys.exit("no such wonder")
if spec["method"] == os.environ.get("WAITS"):
    print("0.75", flush=True)
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
    return CellStore(tmp_path / "kept", (sys.executable, str(script)))


def read_started(store):
    return (store.folder.parent / "started").read_text().split()


def test_two_at_once_share_the_cells_and_do_each_once(store):
    """Both return only when all is done, also what the other was at."""
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(cell_store.run_cells, QUIET, store, CELLS) for _ in range(2)]
        assert [each.result() for each in both] == [[], []]
    assert sorted(read_started(store)) == sorted(cell.name for cell in CELLS)
    assert [store.read(cell)["gain"] for cell in CELLS] == [0, 0, 1, 1, 2, 2]


@pytest.mark.full
def test_a_cell_that_fails_is_named_in_a_line_and_the_others_go_on(store, monkeypatch):
    monkeypatch.setenv("BREAKS", "a")
    console = Console(record=True, file=io.StringIO(), width=200)
    failures = cell_store.run_cells(console, store, CELLS)
    assert len(failures) == 3 and all("no such wonder" in line for line in failures)
    assert [store.read(cell) is None for cell in CELLS] == [True, False] * 3
    said = [line for line in console.export_text().splitlines() if CELLS[1].name in line]
    assert [line.split()[2] for line in said] == ["50%,", "done,"]
    monkeypatch.delenv("BREAKS")
    assert cell_store.run_cells(QUIET, store, CELLS) == []
    assert len(read_started(store)) == 3 + 3 + 3  # those that were done are not done again


def test_after_a_kill_the_cell_is_free_and_the_rest_stays(store, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = (
        "import pathlib; from rich.console import Console; "
        "from szpo_simulators.compare.cell_store import Cell, CellStore, run_cells; "
        f"store = CellStore(pathlib.Path({str(store.folder)!r}), {tuple(store.command)!r}); "
        f"run_cells(Console(), store, [Cell(s) for s in {[dict(c.spec) for c in CELLS]!r}])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "WAITS": "b", "FIFO": str(fifo)},
    ) as running:  # fmt: skip
        assert any(" 75%" in line for line in running.stdout)
        with store.claim(CELLS[1]) as lock:
            assert lock is None  # somebody is at it
        os.killpg(running.pid, signal.SIGKILL)
    assert store.read(CELLS[0]) is not None and store.read(CELLS[1]) is None
    assert cell_store.run_cells(QUIET, store, CELLS) == []
    assert [store.read(cell)["gain"] for cell in CELLS] == [0, 0, 1, 1, 2, 2]
    assert [read_started(store).count(cell.name) for cell in CELLS[:2]] == [1, 2]


SETS = (
    "optimizer.comparisons=2", "generation.max_new_tokens=6", "subspace.dim=4",
    "subspace.samples=16",
)  # fmt: skip
PRESET = presets.Preset(
    "small", "tiny", ("szpo", "iterative-dpo"), (3,), {}, votes=4, D=2, prompts=4, samples=2,
    points=2, sets=SETS,
)  # fmt: skip


@pytest.fixture(scope="module")
def base():
    found = run_cell(
        {**command.make_shared_spec(PRESET), "method": "base", "ask": "both", "seed": 0}
    )
    beta = {name: fitted["beta"] for name, fitted in found["panel"].items()}
    return found["measurement"], {"base": "x", "beta": beta}


def run(base, method, ask, **settings):
    start, setup = base
    cell = command.make_cell(PRESET, presets.METHODS[method], ask, 3, setup, settings)
    return run_cell(cell.spec, start)


@pytest.mark.full
@pytest.mark.parametrize(("ask", "votes", "rows"), [("batch", 4, 2), ("pair", 8, 1)])
def test_szpo_is_charged_for_every_vote_and_every_token(base, ask, votes, rows):
    """Two steps of two comparisons of two rows, or of four comparisons of one: as many answers."""
    found = run(base, "szpo", ask, rule="known")
    last = found["course"][-1]
    assert 0 < last["votes"] <= votes and last["answers_read"] <= 2 * rows * last["votes"]
    # Two steps with 2 · 2 · 2 answers of at most six tokens, and the set-up before them.
    assert 0 < last["tokens"] - found["setup"]["tokens"] <= 2 * 8 * 6
    assert found["setup"]["tokens"] > 16  # its sixteen answers, and those that measure KL
    assert [row["share"] for row in found["course"]] == [0.0, 0.5, 1.0]
    assert found["stopped"] is None and found["bytes"]["peak"] > 0


@pytest.mark.full
def test_what_cannot_go_on_is_a_result_with_one_line(base, monkeypatch):
    """A panel that always ties teaches nothing; a rate without measure diverges."""

    def tie(questions, single, key):
        return ["tie"] * len(questions)

    monkeypatch.setattr(methods.shared_setup, "build_ask", lambda spec: tie)
    found = run(base, "dpo", "batch", batch=4)
    assert found["stopped"].startswith("dpo: no pair to learn from: all 4 answers were ties")
    assert found["course"][-1]["votes"] == 4
    monkeypatch.undo()

    def diverges(*some, **more):
        require_finite({"loss": float("nan")}, "dpo", 2)

    monkeypatch.setitem(methods.RUNNERS, "dpo", methods.make_offline(diverges, "dpo"))
    found = run(base, "dpo", "batch")
    assert "loss is nan at step 2: training diverged" in found["stopped"]


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
    stored = json.loads(json.dumps(checkpoints.measurement_to_json(found)))
    again = checkpoints.measurement_from_json(stored)
    assert np.array_equal(found.rewards, again.rewards)
    assert again.texts == found.texts and again.logprob == found.logprob


def test_gains_are_paired_by_prompt_and_their_interval_covers_and_repeats():
    """A constant gain has no spread, however different the prompts are."""
    base = np.linspace(-1, 1, 40)[:, None] * np.ones((1, 8))
    mean, low, high = heldout.gain(measured(base), measured(base + 0.25))
    assert (mean, low, high) == pytest.approx((0.25, 0.25, 0.25))
    rng = np.random.default_rng(1)
    hits = 0
    for i in range(200):
        diff = rng.normal(0.1, 1.0, size=(64, 1))
        mean, low, high = heldout.gain(
            measured(np.zeros((64, 1))), measured(diff), seed=i, draws=1000
        )
        hits += low <= 0.1 <= high
        assert low < mean < high
    # Of 200 intervals that cover 93.5 %, fewer than 178 hit with a chance below 1e-2.
    assert hits >= 178
    pair = measured(np.zeros((64, 1))), measured(rng.normal(size=(64, 1)))
    assert heldout.gain(*pair, seed=5) == heldout.gain(*pair, seed=5)
