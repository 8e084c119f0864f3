"""The frontier of gain against KL: plans, cells that resume, figures that follow from rows."""

import math
from dataclasses import replace

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.training import results as of_ledger
from szpo_simulators.compare import frontier as command
from szpo_simulators.compare import frontier_base as base
from szpo_simulators.compare import frontier_cell as cell_process
from szpo_simulators.compare import frontier_plan as plan
from szpo_simulators.compare import frontier_summary as summary
from szpo_simulators.compare.cell_store import CellStore
from szpo_simulators.panels import heldout
from szpo_simulators.study import write_record

METHOD = 'method = "regression"'


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
        write_record(store.record_path(one), one.spec, {**found, "commit": None})
    return store


def row(seed, share, gain, kl, ok=(True,) * 4):
    guards = [{"name": "", "value": 1.0, "limit": "", "ok": held} for held in ok]
    return {
        "seed": seed, "share": share, "gain": gain, "kl": kl, "guards": guards,
        "cpu_seconds": 1.0, "gain_unseen": gain, "votes": 240 * share, "furthest": kl,
        "answers_read": 3840 * share, "logprob": -2.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("here", "change", "says"),
    [
        ('name = "hostile"', 'name = "sentiment"', "two groups are called sentiment-regression"),
        (METHOD, 'method = "ppo"', "ppo is no method"),
        (METHOD, f"{METHOD}\nspeed = 3", "speed"),
        (METHOD, f'{METHOD}\nof = "x"', "give `of`, a group's label, for best-of-n"),
        (METHOD, "method = ", "is not TOML"),
    ],
)
def test_a_plan_that_is_none_is_refused(here, change, says, tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(command.QUICK.read_text().replace(here, change, 1))
    with pytest.raises(UsageError, match=says):
        plan.read(path)


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
    path.write_text(command.QUICK.read_text("utf-8") + groups + pair, encoding="utf-8")
    found = plan.read(path)
    assert found.group("ours-slow-regression").reward == "taste:slow"
    assert [(each.ours, each.theirs) for each in found.comparisons[-2:]] == [
        (f"ours-{name}-regression", f"theirs-{name}-regression") for name in ("few", "slow")
    ]


def test_parts_and_seeds_choose_cells(quick, tmp_path):
    assert [c.label for c in plan.cells(quick, ["B"])] == ["hostile-regression"]
    assert [c.spec["seed"] for c in plan.cells(quick, ["A"], [1])] == [1]
    best_of = plan.cell(quick, quick.groups[3], 0).spec
    for make, words in (
        (lambda: plan.cells(quick, ["Z"]), "no part Z"),
        (lambda: plan.cells(quick, ["B"], [7]), "no cell is left"),
        (lambda: plan.read_seeds("2000-x"), "2000-x"),
        (lambda: cell_process.run_best_of(best_of, tmp_path, print), "let its cell end first"),
    ):
        with pytest.raises(UsageError, match=words):
            make()


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
        facts = of_ledger.read(ledger).table
        beta = ledger.spec["config"]["panel"]["beta"]
    one = plan.cell(quick, quick.groups[0], 0).spec  # its panel is that of batches of eight
    assert beta == base.load(one, ran.folder)[1]["batch"] != base.load(one, ran.folder)[1]["pair"]
    assert found["rows"][1]["answers_read"] == sum(fact.answers_read for fact in facts)
    assert len(list((ran.folder / "base").iterdir())) == 1


@pytest.mark.full
def test_a_killed_cell_goes_on_and_measures_only_what_is_left(quick, ran, monkeypatch):
    """The ledger is whole and one of two rows is there: nothing is voted on or measured again."""
    one = plan.cell(quick, quick.groups[0], 0)
    path = cell_process.ledger_path(ran.folder, one.name)
    with Ledger.open(path, readonly=True) as ledger:
        head = of_ledger.read(ledger).head
    first = ran.read(one)["rows"]
    (ran.folder / "rows" / one.name / "16.json").unlink()
    measured = []
    measure = heldout.measure

    def counting(*some, **more):
        measured.append(1)
        return measure(*some, **more)

    monkeypatch.setattr(heldout, "measure", counting)
    again = cell_process.run_cell(one.spec, ran.folder, one.name, lambda share: None)
    assert again["resumed"] is True and len(measured) == 1
    figures = ("votes", "gain", "kl", "logprob", "margin", "by_prompt")
    assert [[r[f] for f in figures] for r in again["rows"]] == [
        [r[f] for f in figures] for r in first
    ]
    with Ledger.open(path, readonly=True) as ledger:
        assert of_ledger.read(ledger).head == head


def test_best_of_n_chooses_from_the_pool(quick, ran):
    rows = ran.read(plan.cell(quick, quick.groups[3], 0))["rows"]
    by = {(r["by"], r["n"]): r for r in rows}
    for n in (2, 4):
        assert by["true reward", n]["gain"] >= by["fitted direction", n]["gain"]
        assert by["true reward", n]["kl"] == pytest.approx(math.log(n) - (n - 1) / n)
    assert by["true reward", 4]["gain"] > by["true reward", 2]["gain"] > 0
    assert by["fitted direction", 2]["votes"] == 16


def test_targets_are_open_until_every_seed_is_there_and_then_met_or_missed(quick):
    group = quick.groups[0]  # two seeds; at 16 votes: gain 0, KL 4 and 5, three guards on one
    half = [row(0, 0.5, 0.1, 1.0), row(1, 0.5, 0.1, 1.0)]
    short = {group.label: [*half, row(0, 1.0, 0.2, 3.0)]}
    assert {v[""] for v in summary.judge_targets(quick, short)} == {"open"}
    ok, failed = (True,) * 4, (True, False, True, True)
    whole = {group.label: [*half, row(0, 1.0, 0.2, 3.0, ok), row(1, 1.0, -0.1, 5.5, failed)]}
    found = {v["what"]: (v[""], v["found"]) for v in summary.judge_targets(quick, whole)}
    assert found == {
        "mean gain": ("met", "+0.050 (2 seeds)"),
        "mean KL": ("missed", "4.25 (2 seeds)"),
        "largest KL": ("missed", "5.50 (2 seeds)"),
        "lowest gain": ("met", "-0.100 (2 seeds)"),
        "first 3 guards hold": ("met", "1 (2 seeds)"),
    }


def test_a_gain_up_to_some_nats_is_that_where_a_seed_passes_them(quick):
    """Seed 0 passes 3 nats half-way from .1 at 2 to .3 at 4 nats; seed 1 never does."""
    target = plan.Target(votes=16, gain=0.2, kl=3.0, up_to=3.0)
    group = replace(quick.groups[0], targets=(target,))
    rows = [
        row(0, 0.5, 0.1, 2.0),
        row(1, 0.5, 0.1, 1.0),
        row(0, 1.0, 0.3, 4.0),
        row(1, 1.0, 0.4, 2.5),
    ]
    asked = replace(quick, groups=(group,))
    gain, kl = summary.judge_targets(asked, {group.label: rows})
    assert (gain["found"], kl["found"]) == ("+0.300 (2 seeds)", "2.75 (2 seeds)")


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
    at_votes, at_kl = summary.judge_comparisons(quick, rows)
    assert at_votes["seeds"] == 2 and at_votes["met"] is True
    assert at_votes["ratio"]["mean"] == pytest.approx(8 / 3)
    difference = at_votes["difference"]  # its interval: the worse and the better seed
    assert [difference[n] for n in ("mean", "low", "high")] == pytest.approx([0.125, 0.05, 0.2])
    assert at_kl["mean_ours"] == pytest.approx(0.15)  # where it was measured
    assert at_kl["mean_theirs"] == pytest.approx(0.15)  # half-way between .1 and .2
