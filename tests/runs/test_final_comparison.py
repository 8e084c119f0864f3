"""Base against tuned on held-out prompts, blind; answers before and after."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest

from szpo import metrics
from szpo.analysis import improvement, measuring, overview, vote_rows
from szpo.cli import run
from szpo.config import settings_file
from szpo.data.prompts import PromptSet
from szpo.errors import UsageError
from szpo.ledger import orders, run_spec
from szpo.ledger.database import Ledger
from szpo.ledger.theta import append_adopted, theta_digest, theta_digests
from szpo.replay import verification
from szpo.runs import assemble, controller, driver, samples
from szpo.runs.callbacks import read_facts
from szpo.voting import blind
from szpo.voting.blind import PAIRS as PAIRS_AT_END
from szpo.voting.panel_evaluator import PanelEvaluator
from szpo.voting.service import VoteService
from szpo_simulators.panels.panel import build
from tests.support import asking, folder_run, yard_run
from tests.support.quadratic import (
    PROMPTS,
    QuadraticPolicy,
    ValueJudge,
    drive,
    go,
    new_ledger,
    panel_of,
    parts_of,
    settings_of,
    start,
    started,
)

TRAIN, HELDOUT = PROMPTS[:21], PROMPTS[21:]


@pytest.fixture
def tuned(tmp_path):
    settings, ledger, policy = start(tmp_path)
    go(settings, ledger, policy, until_step=3)
    yield ledger, parts_of(settings, policy, PromptSet(TRAIN, HELDOUT))
    ledger.close()


def made(ledger, source, count=4):
    number = orders.place_order(ledger, "final", "op", {"comparisons": count})
    driver.fulfil(ledger, source, lambda _: None)
    order = orders.get(ledger, number)
    return order, [ledger.comparison(c) for c in orders.comparisons(order)]


def count_votes(ledger):
    """The counts of the latest final comparison, open or closed."""
    return blind.read(ledger, live=True)


def seat_and_vote(ledger, comparison, name, choices, plus_side="A"):
    """A person's answers to a comparison of no step; the number of the last vote."""
    panelist = VoteService(ledger).enroll("person", name)
    return asking.seat_and_vote(ledger, comparison, panelist, choices, plus_side)[1]


def test_plus_is_tuned_minus_is_base_and_prompts_taught_nothing(tuned):
    ledger, source = tuned
    order, found = made(ledger, source)
    assert len(found) == 4 and all(len(c.rows) == 2 and c.kind == "final" for c in found)
    assert {c.step for c in found} == {-1}  # of no step: NULL in the table
    assert {row.prompt for c in found for row in c.rows} <= set(HELDOUT)
    value = {
        side: [float(getattr(row, side).text.split()[1]) for c in found for row in c.rows]
        for side in ("plus", "minus")
    }
    head = -float(((source.policy.theta()["z"] - 1) ** 2).mean())
    assert all(abs(v - head) <= 0.1 + 1e-6 for v in value["plus"])
    assert all(-1 - 1e-6 <= v <= -0.9 + 1e-6 for v in value["minus"])
    # Independent draws: the noise of one side says nothing of that of the other.
    noise = [(p - head, m + 1) for p, m in zip(value["plus"], value["minus"], strict=True)]
    assert all(abs(a - b) > 1e-6 for a, b in noise)
    assert order.result["tuned_sha256"] == theta_digest(ledger) == source.policy.digest()
    assert order.result["base_sha256"] == theta_digests(ledger)[0] and order.result["after"] == 2
    assert verification.verify(ledger).ok


def test_a_final_comparison_that_is_not_its_answers_is_found(tuned):
    ledger, source = tuned
    found = made(ledger, source)[1][0]
    with ledger.transaction():
        ledger.append_comparison(replace(found, id="forged"))
    assert verification.verify(ledger).ok
    with ledger.transaction():
        plain = ledger.append

        def altered(table, row):
            if table == "comparisons":
                row = {**row, "identical": 1}
            return plain(table, row)

        ledger.append = altered
        ledger.append_comparison(replace(found, id="altered"))
    ledger.append = plain
    assert "comparisons row altered: identical does not fit" in str(verification.verify(ledger))


def test_pairs_that_a_simulated_panel_judges_at_the_end_are_counted_for_the_policy(tmp_path):
    """Its answers are worth 0 or more and the start's -.9 or less, and the panel is sure."""
    settings, ledger, policy = started(tmp_path, D=1)
    with ledger:
        drive(settings, ledger, policy, until_step=1)
        append_adopted(ledger, {"z": np.ones(4, np.float32)}, {"steps": 1})
        source = parts_of(settings, policy, PromptSet(TRAIN, HELDOUT))
        source = replace(source, panel=panel_of(ledger, judge=ValueJudge(beta=100)))
        for _ in range(2):  # as after a kill
            measuring.compare_blind(
                ledger, source, lambda prompt, answer: float(answer.text.split()[1])
            )
        last = improvement.read(ledger).last
        assert (last.pairs, last.new, last.start, last.same) == (PAIRS_AT_END, PAIRS_AT_END, 0, 0)
        assert (last.true.hits, last.true.of) == (PAIRS_AT_END, PAIRS_AT_END)


def test_a_second_final_has_its_own_comparisons_and_a_repeated_run_the_same(tuned, tmp_path):
    ledger, source = tuned
    first, second = made(ledger, source)[1], made(ledger, source)[1]
    assert not {c.id for c in first} & {c.id for c in second}
    assert [c.rows for c in first] != [c.rows for c in second]
    settings, again, policy = start(tmp_path, "again.db")
    go(settings, again, policy, until_step=3)
    orders.place_order(again, "samples", "op")  # other orders before it change nothing
    other = parts_of(settings, policy, source.prompts)
    assert made(again, other)[1] == first


def test_who_ends_a_run_is_told_where_its_open_final_comparison_is_answered(tuned, capsys):
    ledger, source = tuned

    def said():
        capsys.readouterr()
        run.say_result(ledger)
        return "".join(capsys.readouterr())

    assert "szpo vote" not in said()
    order, _ = made(ledger, source, 20)
    assert f"  szpo vote {ledger.path}  # asks 20 blind pairs of start and end here" in said()
    orders.close(ledger, order.id, "op")
    assert "szpo vote" not in said()


def test_who_ends_a_run_that_nobody_compared_is_told_where_that_is_ordered(tmp_path, capsys):
    settings = settings_of()
    each = settings.section.K * settings.section.N * settings.section.M
    sets = ["panel.kind=people", f"run.votes={2 * each}"]
    spec = {"config": settings_file.load(sets=sets).model_dump(mode="json")}
    path, policy, orders_it = tmp_path / "run.db", QuadraticPolicy(settings), []
    with new_ledger(path, settings, spec=spec, base_sha256="a" * 64) as ledger:
        for until in (1, 2):  # while votes are left, the run orders it itself at its end
            go(settings, ledger, policy, until_step=until)
            capsys.readouterr()
            run.say_result(ledger)
            said = capsys.readouterr().out
            orders_it.append(
                f"  szpo serve {path}  # its operator's page orders blind pairs" in said
            )
    assert orders_it == [False, True] and "final comparison" not in said


def test_a_final_comparison_says_nothing_of_weights_that_moved_since(tuned):
    ledger, source = tuned
    order, found = made(ledger, source, 20)
    for comparison in found:
        seat_and_vote(ledger, comparison, "new", ["A"])
    orders.close(ledger, order.id, "op")
    assert improvement.read(ledger).short == "100 % [84, 100]"
    order, found = made(ledger, source, 4)  # of the same weights: they count together
    for comparison in found:
        seat_and_vote(ledger, comparison, "newer", ["B"])
    orders.close(ledger, order.id, "op")
    helped = improvement.read(ledger)
    assert helped.share is not None and (helped.share.hits, helped.share.of) == (20, 24)
    shown = overview.overview(vote_rows.read_evidence(ledger))["blind"].preferred
    assert (shown.hits, shown.of) == (20, 24), "the operator's page counts as the verdict does"
    with contextlib.suppress(LookupError), ledger.transaction("op"):
        append_adopted(ledger, {"b": np.ones(1, np.float32)}, {"steps": 3})
        helped = improvement.read(ledger)
        assert helped.share is None and "step 2, and it has moved since" in helped.lack
        raise LookupError("only tried")
    go(run_spec.recorded_settings(ledger), ledger, source.policy, until_step=4)
    same, helped = theta_digests(ledger)[-2:], improvement.read(ledger)
    assert same[0] == same[1] and helped.share is not None  # a step that moved nothing
    go(run_spec.recorded_settings(ledger), ledger, source.policy, until_step=6)
    helped = improvement.read(ledger)
    assert helped.share is None
    assert helped.lack.startswith("it was compared after step 2, and it has moved since")


def test_the_last_line_is_about_the_weights_that_would_be_exported(tmp_path):
    settings, ledger, policy = start(tmp_path, D=1)
    with ledger:
        go(settings, ledger, policy, until_step=3)
        source = parts_of(settings, policy, PromptSet(TRAIN, HELDOUT))
        order, found = made(ledger, source, 8)
        VoteService(ledger).enroll("person", "both")
        seat_and_vote(ledger, ledger.comparisons(0)[0], "both", ["A"])
        choices = ["A", "A", "A", "B", "tie", "A"]
        for comparison, choice in zip(found, choices, strict=False):
            seat_and_vote(ledger, comparison, "new", [choice])
        for comparison in found[:2]:
            seat_and_vote(ledger, comparison, "both", ["B"])
        assert improvement.read(ledger).last is None  # while it is open
        orders.close(ledger, order.id, "op")
        last = improvement.read(ledger).last
        assert (last.pairs, last.new, last.start, last.same) == (8, 4, 3, 1)
        assert last.line == (
            "the tuned answer was preferred in 57 % [25, 84] of 7 votes on 8 pairs, 1 more the "
            "same; in 80 % [38, 96] by those who had not voted before; 16 answers read for this"
        )
        go(settings, ledger, policy, until_step=9)
        assert improvement.read(ledger).last is None


def test_final_votes_are_counted_by_side_and_by_who_tuned(tuned):
    ledger, source = tuned
    order, found = made(ledger, source)
    seat_and_vote(ledger, found[0], "new-1", ["B", "A"])  # changed their mind: tuned
    seat_and_vote(ledger, found[1], "new-1", ["A"], plus_side="B")  # base
    seat_and_vote(ledger, found[2], "new-1", ["tie"])
    seat_and_vote(ledger, found[3], "new-1", ["skip"])
    seat_and_vote(ledger, found[0], "new-2", ["A"])
    without = seat_and_vote(ledger, found[1], "new-2", ["A"])
    VoteService(ledger).amend(without, "exclude", "asked to", "op")
    result = count_votes(ledger)
    assert result.preferred == result.fresh == metrics.share(2, 3)  # the tie is in neither
    made_for = [ledger.comparison(c) for c in orders.comparisons(order)]
    assert (result.same, len(made_for), sum(c.identical for c in made_for)) == (1, 4, 0)
    # The operator's page says the same; while people vote, only to those who turned the live view
    # on.
    assert overview.overview(vote_rows.read_evidence(ledger))["blind"] is None
    assert vote_rows.read_evidence(ledger).run.hidden_final == 6
    live = vote_rows.read_evidence(ledger, live=True)
    assert live.run.hidden_final == 0
    shown = overview.overview(live)["blind"]
    assert shown == result
    assert orders.get(ledger, order.id).closed_us is None
    orders.close(ledger, order.id, "op")
    assert orders.get(ledger, order.id).closed_us is not None
    assert overview.overview(vote_rows.read_evidence(ledger))["blind"] == shown


def test_what_a_final_lacks_is_named(tuned, tmp_path):
    ledger, source = tuned
    number = orders.place_order(ledger, "final", "op")
    bare = parts_of(source.settings, source.policy, PromptSet(TRAIN, ()))
    driver.fulfil(ledger, bare, lambda _: None)
    order = orders.get(ledger, number)
    assert "no held-out prompts" in order.error
    with pytest.raises(UsageError, match="has no comparisons"):
        orders.close(ledger, order.id, "op")
    number = orders.place_order(ledger, "samples", "op")
    driver.fulfil(ledger, replace(source, maker=None), lambda _: None)
    assert "no `move_to`" in orders.get(ledger, number).error


def test_samples_show_the_base_a_step_and_the_head(tuned):
    ledger, source = tuned
    number = orders.place_order(ledger, "samples", "op", {"prompts": 2, "step": 0})
    driver.fulfil(ledger, source, lambda _: None)
    result = orders.get(ledger, number).result
    assert result["prompts"] == [prompt.text for prompt in HELDOUT[:2]]
    columns = {column["name"]: column for column in result["columns"]}
    assert list(columns) == ["base", "step 0", "current"]
    known = [theta_digests(ledger)[i] for i in (0, 1, 3)]
    assert [c["theta_sha256"] for c in columns.values()] == known
    assert [c["step"] for c in columns.values()] == [None, 0, 2]
    assert len({tuple(text for text, _ in c["answers"]) for c in columns.values()}) == 3


@pytest.mark.full
def test_a_language_model_answers_as_it_was_and_stays_where_it_is(tmp_path):
    path = folder_run.finished(tmp_path)
    with Ledger.open(path) as ledger:
        parts = assemble.reopen(ledger, panel=False, say=lambda _: None)
        number = orders.place_order(ledger, "samples", "op", {"prompts": 3, "step": 0})
        order, found = made(ledger, parts, count=2)
        columns = [c["answers"] for c in orders.get(ledger, number).result["columns"]]
        policy, asked = parts.language, parts.prompts.heldout[:3]
        for column, base in ((columns[0], True), (columns[2], False)):
            wanted = policy.likeliest(asked, base=base)  # for readers: greedy, and whole
            assert column == [[answer.text, answer.end] for answer in wanted]
        assert columns[0] != columns[1] != columns[2]
        assert policy.digest() == theta_digest(ledger)
        assert order.error is None and all(len(c.rows) == 2 for c in found)
        assert verification.verify(ledger).ok


def config_of(folder, *sets):
    words = yard_run.arguments(folder, "run.name=yard", "run.votes=16", *sets)
    settings = [word for word in words if "=" in word]
    return settings_file.load(sets=[*settings, f"run.folder={folder / 'runs'}"])


def people_run(folder, *sets, lives=1):
    """A run for people in the yard, with a panel that answers from outside; the open ledger."""
    config = config_of(folder, "panel.kind=people", *sets)
    path = assemble.new_path(config)
    assemble.create_ledger(assemble.build(config, say=lambda _: None), path).close()
    judges = build("bt70", reward="walk", size=5, beta=5.0).judges
    for life in range(1, lives + 1):
        ledger = Ledger.open(path)
        samples.accept_samples(ledger, "test")
        parts = assemble.reopen(ledger, say=lambda _: None)
        panel = PanelEvaluator(VoteService(ledger), judges)

        def vote(ledger=ledger, panel=panel, last=life == lives):
            if not last:
                raise KeyboardInterrupt
            for row in ledger.steps():
                if row["state"] == "open":
                    panel.submit(ledger.comparisons(row["step"]))

        try:
            controller.run(replace(driver.prepare(ledger, parts), wait=vote))
        except KeyboardInterrupt:
            ledger.close()
    return ledger


def sides(ledger):
    """The side of plus at each seat of training, and where a final comparison will have it."""
    seats = ledger.query(
        "SELECT plus_side FROM assignments JOIN comparisons USING (comparison) "
        "WHERE kind = 'train' ORDER BY step, k, n, panelist"
    )
    later = [blind.planned_sides(ledger.root_seed, 1, 6, pair) for pair in (0, 2, 4)]
    return [seat["plus_side"] for seat in seats], later


def test_who_knows_settings_and_prompts_cannot_work_out_sides(tmp_path):
    """With defaults: the seed was 0, and sides follow from it."""
    with people_run(tmp_path / "a") as ledger, people_run(tmp_path / "b") as other:
        assert ledger.root_seed != other.root_seed and min(ledger.root_seed, other.root_seed) > 0
        assert sides(ledger) != sides(other)
        seed, expected = ledger.root_seed, sides(ledger)
        assert ledger.spec["config"]["run"]["seed"] == seed and verification.verify(ledger).ok
        assert read_facts(ledger).settings["run.seed"] is None  # trackers' pages have readers
    with people_run(tmp_path / "again", f"run.seed={seed}") as again:
        assert sides(again) == expected
    with Ledger.open(yard_run.finished(tmp_path)) as simulated:
        assert simulated.root_seed == 0
