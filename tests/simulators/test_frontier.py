"""The frontier of gain against KL: plans, cells that resume, figures that follow from rows."""

import json
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from szpo import cache
from szpo.data import preference_files
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.policies import subspace_cache
from szpo.training import summary as of_ledger
from szpo.types import Answer
from szpo_simulators.bench.frontier import (
    base,
    cell_process,
    command,
    plan,
    rivals,
    show,
    summary,
    vote_runs,
    warm_pairs,
)
from szpo_simulators.compare import shared_setup
from szpo_simulators.compare.cell_config import load_config
from szpo_simulators.compare.cell_process import write_record
from szpo_simulators.compare.cell_store import CellStore
from szpo_simulators.panels import flaws
from szpo_simulators.rewards import text_rewards
from szpo_simulators.study import Study

FROZEN = Path(__file__).parents[2] / "experiments" / "frozen" / "frontier.toml"


@pytest.fixture(scope="module")
def quick():
    return plan.read(command.QUICK)


@pytest.fixture(scope="module")
def ran(quick, tmp_path_factory):
    """The folder of the quick plan with the first run of szpo and best-of-n finished."""
    folder = tmp_path_factory.mktemp("frontier")
    store, groups = CellStore(folder), (quick.groups[0], quick.groups[3])
    for group in groups:
        one = plan.cell(quick, group, 0)
        shares = []
        found = cell_process.run_cell(one.spec, folder, one.name, shares.append)
        assert shares == sorted(shares) and 0 < shares[-1] <= 1
        store.record_path(one).parent.mkdir(exist_ok=True)
        write_record(store.record_path(one), one.spec, found)
    return store


def row(seed, share, gain, kl, ok=(True,) * 4):
    guards = [{"name": "", "value": 1.0, "limit": "", "ok": held} for held in ok]
    return {
        "seed": seed, "share": share, "gain": gain, "kl": kl, "guards": guards,
        "cpu_seconds": 1.0, "gain_unseen": gain, "votes": 240 * share, "furthest": kl,
        "answers_read": 3840 * share, "logprob": -2.0,
    }  # fmt: skip


def test_the_frozen_settings_are_those_that_szpo_ships_and_each_cell_is_one_of_its_own():
    """The rule's own defaults are what is frozen; seeds share five set-ups, none of them seed 0's;
    a rival reads as much as a run of the same votes, and trials share neither seeds nor prompts.
    """
    found = plan.read(FROZEN)
    cells = plan.cells(found)
    assert len({cell.name for cell in cells}) == len(cells)
    first = plan.cell(found, found.group("sentiment-regression"), 2003)
    config = load_config(first.spec)
    assert config.subspace.setup_seed == 1 + 2003 % 5
    assert (config.subspace.samples, config.subspace.redraws) == (384, 3)
    assert (config.dim, config.run.votes) == (8, 240)
    o = config.optimizer
    shipped = load_config({**first.spec, "sets": []}).optimizer
    assert (o.rule, o.kl_radius, o.directions, o.comparisons) == ("regression", 4.5, 8, 1)
    assert o == shipped
    demo = load_config(plan.cell(found, found.group("demo-regression"), 1).spec)
    assert demo.subspace.setup_seed == 0
    rival = plan.cell(found, found.group("sentiment-iterative-dpo"), 2003).spec
    assert rival["votes"] * rival["D"] * 2 == 3840
    for group in found.groups:
        text_rewards.parse(group.reward)
        flaws.read(group.panel)
        if group.part == "T":
            assert max(group.seeds) < 2000 and group.heldout[1] <= found.heldout[0]
        if group.method == "iterative-dpo":  # each pair is learned from once, none is left out
            assert group.settings["memory"] == "round" and "steps" not in group.settings
    assert {cell.spec["heldout"][0] for cell in cells if cell.spec["seed"] >= 2000} == {48}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('name = "sentiment"', "two groups are called sentiment-regression"),
        ('method = "ppo"', "ppo is no method"),
        ('method = "regression"\nspeed = 3', "speed"),
        ('method = "regression"\nof = "x"', "`of` belongs to best-of-n"),
        ('method = "regression"\npairs = { count = 3 }', "`pairs` are the count and reward"),
        ("method = ", "cannot be read"),
    ],
)
def test_a_plan_that_is_none_is_refused(change, says, tmp_path):
    text = command.QUICK.read_text()
    path = tmp_path / "plan.toml"
    if "name" in change:
        path.write_text(text.replace('name = "hostile"', change))
    else:
        path.write_text(text.replace('method = "regression"', change, 1))
    with pytest.raises(UsageError, match=says):
        plan.read(path)


def test_parts_and_seeds_choose_cells(quick):
    assert [c.label for c in plan.cells(quick, ["B"])] == ["hostile-regression"]
    assert [c.spec["seed"] for c in plan.cells(quick, ["A"], [1])] == [1]
    with pytest.raises(UsageError, match="no part Z"):
        plan.cells(quick, ["Z"])
    with pytest.raises(UsageError, match="no cell is left"):
        plan.cells(quick, ["B"], [7])
    with pytest.raises(UsageError, match="2000-x"):
        plan.read_seeds("2000-x")


@pytest.mark.full
def test_a_cell_is_measured_where_its_ledger_recommends(quick, ran):
    """Rows at 8 and 16 votes, from the ledger's steps of 4; the base is measured once."""
    found = ran.read(plan.cell(quick, quick.groups[0], 0))
    assert [r["votes"] for r in found["rows"]] == [8, 16]
    assert [r["steps"] for r in found["rows"]] == [2, 4]
    assert found["resumed"] is False and found["setup"]["cpu_seconds"] > 0
    assert 0 < found["rows"][0]["cpu_seconds"] < found["rows"][1]["cpu_seconds"]
    assert len(found["rows"][0]["by_prompt"]) == 8
    assert np.mean(found["rows"][1]["by_prompt"]) == pytest.approx(found["rows"][1]["gain"])
    with Ledger.open(next(ran.folder.glob("ledgers/*.db")), readonly=True) as ledger:
        facts = of_ledger.steps(ledger)
    assert found["rows"][1]["answers_read"] == sum(fact.answers_read for fact in facts)
    assert len(list((ran.folder / "base").iterdir())) == 1


@pytest.mark.full
def test_gains_are_counted_from_the_bases_many_answers_once_they_are_drawn(quick, ran):
    """Found less the mean of 24 answers a prompt instead of 2: each prompt's gain moves by the
    difference of the two means, which is the same for every cell; the best of n has its own pool.
    """
    found, many = replace(quick, base_answers=24), ran.read(plan.cell(quick, quick.groups[0], 0))
    spec = plan.cell(quick, quick.groups[0], 0).spec
    label = quick.groups[0].label
    assert summary.read_rows(found, ran)[label] == summary.read_rows(quick, ran)[label]
    base.draw_many(spec, ran.folder, 24)
    base.draw_many(spec, ran.folder, 24)  # there already
    (file,) = (ran.folder / "base").glob("*-24.json")
    texts = json.loads(file.read_text())["found"]["measurement"]["texts"]
    assert [len(row) for row in texts] == [24] * 8
    reward = text_rewards.parse("sentiment")
    mean = np.mean([reward.score(None, Answer(text)) for row in texts for text in row])
    counted = summary.read_rows(found, ran)[label]
    for row, stored in zip(counted, many["rows"], strict=True):
        assert row["gain"] == pytest.approx(stored["reward"] - mean)
        assert np.mean(row["by_prompt"]) == pytest.approx(row["gain"])
        assert row["gain_few"] == stored["gain"]
        moved = row["gain"] - stored["gain"]
        assert row["interval"] == pytest.approx([end + moved for end in stored["interval"]])
    best = quick.groups[3].label
    assert summary.read_rows(found, ran)[best] == summary.read_rows(quick, ran)[best]
    file.unlink()


@pytest.mark.full
def test_a_killed_cell_goes_on_and_measures_only_what_is_left(quick, ran, monkeypatch):
    """The ledger is whole and one of two rows is there: nothing is voted on or measured again."""
    one = plan.cell(quick, quick.groups[0], 0)
    path = vote_runs.ledger_path(ran.folder, one.name)
    with Ledger.open(path, readonly=True) as ledger:
        head = of_ledger.summary(ledger).head
    first = ran.read(one)["rows"]
    (ran.folder / "rows" / one.name / "16.json").unlink()
    measured = []
    measure = vote_runs.heldout.measure

    def counting(*some, **more):
        measured.append(1)
        return measure(*some, **more)

    monkeypatch.setattr(vote_runs.heldout, "measure", counting)
    again = cell_process.run_cell(one.spec, ran.folder, one.name, lambda share: None)
    assert again["resumed"] is True and len(measured) == 1
    figures = ("votes", "gain", "kl", "logprob", "margin", "by_prompt")
    assert [[r[f] for f in figures] for r in again["rows"]] == [
        [r[f] for f in figures] for r in first
    ]
    with Ledger.open(path, readonly=True) as ledger:
        assert of_ledger.summary(ledger).head == head


def test_a_set_up_goes_with_the_folder_to_another_machine(quick, ran, tmp_path, monkeypatch):
    """An empty cache there but for the model: the folder's set-up is taken, and none is made."""
    (kept,) = (ran.folder / "setups").iterdir()
    models = [each for each in cache.cache_dir().iterdir() if each.name.startswith("tiny-")]
    monkeypatch.setenv("SZPO_CACHE", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    for model in models:
        (tmp_path / "elsewhere" / model.name).symlink_to(model)
    one = plan.cell(quick, quick.groups[0], 0)
    with vote_runs._shared_setup_file(one.spec, ran.folder / "setups"):
        found = subspace_cache.look_up(
            load_config(one.spec), shared_setup.load_prompts(one.spec).train
        )
    assert found.report["origin"] == "cache"
    assert found.basis_sha256 == subspace_cache.read(kept).basis_sha256


@pytest.mark.full
def test_a_ledger_that_a_kill_left_in_pieces_is_begun_again(quick, ran):
    one = plan.cell(quick, quick.groups[0], 1)
    path = vote_runs.ledger_path(ran.folder, one.name)
    path.write_bytes(b"SQLite format 3\0 and nothing more")
    ledger, parts, resumed = vote_runs._open(one.spec, path, ran.folder)
    with ledger, closing(parts):
        assert resumed is False and ledger.last_applied() is None
        assert ledger.root_seed == 1


@pytest.mark.full
def test_a_run_may_begin_with_pairs_of_a_taste(quick, ran):
    """Sixty pairs for short answers: the shorter of the two is chosen in most, the same seed makes
    the same file, another taste the opposite choice, and the ledger records the file it read.
    """
    group = replace(quick.groups[0], name="warm", votes=4, at=(4,))

    def shorter(weight):
        pairs = {"count": 60, "reward": f"{weight}*feature:length"}
        one = plan.cell(quick, replace(group, pairs=pairs), 0)
        found = preference_files.read(warm_pairs.make(one.spec, ran.folder)).pairs
        assert 50 < len(found) <= 60
        counts = [(len(p.chosen.text.split()), len(p.rejected.text.split())) for p in found]
        return one, np.mean([a < b for a, b in counts if a != b])

    one, share = shorter(-1)
    assert share > 0.6 and shorter(1)[1] < 0.4
    path = warm_pairs.make(one.spec, ran.folder)
    before = path.read_bytes()
    path.unlink()
    assert warm_pairs.make(one.spec, ran.folder).read_bytes() == before
    ledger, parts, _ = vote_runs._open(
        one.spec, vote_runs.ledger_path(ran.folder, one.name), ran.folder
    )
    with ledger, closing(parts):
        assert ledger.spec["prior"]["file"] == path.name


def test_best_of_n_chooses_from_the_pool(quick, ran):
    """Of a pool of 4 the best by the true reward is at least as good as by any fitted direction,
    and all four at n = 4 are the pool's maximum.
    """
    rows = ran.read(plan.cell(quick, quick.groups[3], 0))["rows"]
    by = {(r["by"], r["n"]): r for r in rows}
    for n in (2, 4):
        assert by["true reward", n]["gain"] >= by["fitted direction", n]["gain"]
        assert by["true reward", n]["kl"] == pytest.approx(math.log(n) - (n - 1) / n)
    assert by["true reward", 4]["gain"] > by["true reward", 2]["gain"] > 0
    assert by["fitted direction", 2]["votes"] == 16


def test_the_expected_best_is_the_mean_over_all_choices():
    """Of rewards 3, 1, 2 with keys 0, 1, 2 the pairs' choices are 1, 2 and 2."""
    rewards, keys = np.array([[3.0, 1.0, 2.0]]), np.array([[0.0, 1.0, 2.0]])
    assert rivals.expected_best(rewards, keys, 1) == pytest.approx(2.0)
    assert rivals.expected_best(rewards, keys, 2) == pytest.approx(5 / 3)
    assert rivals.expected_best(rewards, rewards, 3) == pytest.approx(3.0)


def test_best_of_n_waits_for_its_run(quick, tmp_path):
    one = plan.cell(quick, quick.groups[3], 0)
    with pytest.raises(UsageError, match="let its cell end first"):
        rivals.run_best_of(one.spec, tmp_path, lambda share: None)


def test_targets_are_open_until_every_seed_is_there_and_then_met_or_missed(quick):
    group = quick.groups[0]  # two seeds; at 16 votes: gain 0, KL 4 and 5, three guards on one
    half = [row(0, 0.5, 0.1, 1.0), row(1, 0.5, 0.1, 1.0)]
    short = {group.label: [*half, row(0, 1.0, 0.2, 3.0)]}
    assert {v.met for v in summary.judge_targets(quick, short)} == {None}
    ok, failed = (True,) * 4, (True, False, True, True)
    whole = {group.label: [*half, row(0, 1.0, 0.2, 3.0, ok), row(1, 1.0, -0.1, 5.5, failed)]}
    found = {v.what: (v.word, v.found) for v in summary.judge_targets(quick, whole)}
    assert found == {
        "mean gain": ("met", "+0.050 (2 seeds)"),
        "mean KL": ("missed", "4.25 (2 seeds)"),
        "largest KL": ("missed", "5.50 (2 seeds)"),
        "lowest gain": ("met", "-0.100 (2 seeds)"),
        "first 3 guards hold": ("met", "1 (2 seeds)"),
    }


def test_comparisons_are_paired_by_seed(quick):
    """Ours .30 and .10 against .10 and .05 on shared seeds: ratio .4/.15, difference .125; at
    half a nat .1 · .5/1 and so on, interpolated from the start.
    """
    ours, theirs = quick.comparisons[0].ours, quick.comparisons[0].theirs
    rows = {
        ours: [
            row(0, 0.5, 0.15, 0.5),
            row(1, 0.5, 0.0, 0.5),
            row(0, 1.0, 0.3, 1.0),
            row(1, 1.0, 0.1, 1.0),
        ],
        theirs: [row(0, 1.0, 0.1, 1.0), row(1, 1.0, 0.05, 1.0), row(7, 1.0, 9.0, 1.0)],
        "sentiment-iterative-dpo": [row(0, 0.5, 0.1, 0.25), row(0, 1.0, 0.2, 0.75)],
    }
    at_votes, at_kl = summary.judge_comparisons(quick, rows)
    assert at_votes["seeds"] == 2 and at_votes["met"] is True
    assert at_votes["ratio"]["mean"] == pytest.approx(8 / 3)
    assert at_votes["difference"]["mean"] == pytest.approx(0.125)
    low, high = at_votes["difference"]["low"], at_votes["difference"]["high"]
    assert low == pytest.approx(0.05) and high == pytest.approx(0.2)  # the worse and better seed
    assert at_kl["mean_ours"] == pytest.approx(0.15)  # where it was measured
    assert at_kl["mean_theirs"] == pytest.approx(0.15)  # half-way between .1 and .2


def test_a_run_that_never_reaches_the_kl_is_left_out_and_closes_the_comparison(quick):
    (asked,) = (c for c in quick.comparisons if c.kl is not None)  # at half a nat
    two = replace(quick, groups=tuple(replace(g, seeds=(0, 1)) for g in quick.groups))
    two = replace(two, comparisons=(asked,))
    reached = [row(0, 1.0, 0.2, 1.0), row(1, 1.0, 0.3, 1.0)]
    near = [row(0, 1.0, 0.1, 1.0), row(1, 1.0, 0.1, 0.4)]
    (line,) = summary.judge_comparisons(two, {asked.ours: reached, asked.theirs: near})
    assert (line["seeds"], line["of"], line["met"]) == (1, 2, True)
    assert line["difference"]["mean"] == pytest.approx(0.05)  # half of .2 less half of .1
    (line,) = summary.judge_comparisons(two, {asked.ours: reached, asked.theirs: near[:1]})
    assert (line["seeds"], line["met"]) == (1, None)  # its second seed is not finished


@pytest.mark.full
def test_what_is_finished_is_shown_at_any_time(quick, ran, tmp_path):
    empty = Study("frontier", tmp_path / "none")
    assert show.show(empty, quick, CellStore(tmp_path / "none")) == {"lines": []}
    body = show.show(Study("frontier", ran.folder), quick, ran)
    lines = {(line["group"], line["checkpoint"]): line for line in body["lines"]}
    assert lines["sentiment-regression", 16]["seeds"] == 1
    assert lines["sentiment-regression", 16]["of"] == 2
    assert lines["sentiment-regression", 16]["low"] is None  # one seed has no interval
    assert "unfinished: hostile-regression has 0 of 1 seeds" in body["unfinished"]
    rows = [json.loads(line) for line in (ran.folder / "rows.jsonl").read_text().splitlines()]
    assert {"votes", "gain", "kl", "guards", "answers_read", "settings", "commit"} <= set(rows[0])
    assert (ran.folder / "frontier.svg").exists()


def test_an_interval_is_the_same_whenever_it_is_drawn_and_one_seed_has_none():
    values = [0.1, 0.4, 0.2, 0.3]
    found = summary.bootstrap(values)
    assert found["mean"] == pytest.approx(0.25)
    assert 0.1 < found["low"] < 0.25 < found["high"] < 0.4
    assert summary.bootstrap(values) == found
    assert summary.bootstrap(values[:1])["low"] is None


def test_settings_name_a_row_whatever_its_seed(quick):
    group = quick.groups[0]
    specs = [plan.cell(quick, group, seed).spec for seed in (0, 1)]
    assert specs[0]["settings_hash"] == specs[1]["settings_hash"]
    other = plan.cell(quick, replace(group, votes=24), 0).spec
    assert other["settings_hash"] != specs[0]["settings_hash"]
