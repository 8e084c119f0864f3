"""What is no recipe is refused where it is made: method, field, value and range in one line."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from szpo.baselines import NAMES, dpo, recipes
from szpo.baselines.asking import Meter, Trained, read_recorded_pairs
from szpo.config.optimizer import make_settings
from szpo.data import preference_files
from szpo.data.preference_formats import Pair, Preferences
from szpo.errors import RunError, UsageError
from szpo.ledger.database import Ledger
from szpo.models.loading import encode
from szpo.types import Answer, Choice, Comparison, Prompt, Row, Verdict
from szpo.voting import counting, step_states
from szpo.voting.service import VoteService
from tests.support import quadratic
from tests.support.asking import ROW, open_run
from tests.support.baseline_actors import TRAIN, pairs, tiny_actor
from tests.support.cases import case

FIELDS = [
    ("dpo", {"steps": 0}, "dpo: steps must be a whole number >= 1 (got 0)"),
    ("sft", {"epochs": math.inf}, "sft: epochs must be a finite number > 0 (got inf)"),
    ("simpo", {"learning_rate": math.nan}, "learning_rate must be a finite number > 0"),
    ("reward-model", {"schedule": "foo"}, 'reward-model: schedule must be one of "constant"'),
    ("dpo", {"optimizer": "foo"}, "dpo: optimizer: no optimizer 'foo'; there are: adamw_torch"),
    ("dpo", {"dropout": 1.0}, "dropout must be a finite number >= 0 and < 1 (got 1.0)"),
    ("dpo", {"loss": "exo_pair"}, "dpo: label_smoothing must be above 0 for exo_pair"),
    ("iterative-dpo", {"rows": 0}, "iterative-dpo: rows must be a whole number >= 1"),
    ("iterative-dpo", {"steps": "0"}, "iterative-dpo: steps must be a whole number >= 1"),
    ("simpo", {"gamma": -0.5}, "gamma must be a finite number >= 0"),
    ("grpo", {"loss": "foo"}, 'grpo: loss must be one of "grpo", "bnpo"'),
    ("rloo", {"prompts": 3, "samples": 3, "passes": 2}, "9 answers of a step do not"),
    ("ppo", {"gamma": 1.5}, "gamma must be a finite number >= 0 and <= 1"),
    ("ppo", {"minibatches": 99}, "99 minibatches of 32 answers"),
    ("self-rewarding", {"candidates": 1}, "candidates must be a whole number >= 2"),
]


def test_fields_of_one_method():
    for method, given, words in FIELDS:
        with case(method, given), pytest.raises(UsageError, match=re.escape(words)):
            recipes.make(method, given)
    assert tuple(recipes.RECIPES) == NAMES
    for method in NAMES:
        assert recipes.make(method, {}) == recipes.make(method, {})
    with pytest.raises(UsageError, match="notebook-dpo: steps must be a whole number >= 1"):
        recipes.make("notebook-dpo", {"steps": "0"})  # looked at again
    assert recipes.NOTEBOOK.steps == 50
    with pytest.raises(UsageError, match=r"^steps must be a whole number >= 1"):
        recipes.Dpo(steps=0)


LONG = Prompt.user(" ".join(f"w{i}" for i in range(20, 80)))
HOW = {"steps": 1, "batch": 4, "learning_rate": 1e-3}


OF_PAIRS = ("dpo", "simpo", "reward-model", "sft")


def train(method: str, data: Sequence[Pair], limit: int) -> tuple[Trained, Any]:
    """What a step on these pairs gives, and the weights after it."""
    actor, fields = tiny_actor(), {"batch": 4, "max_length": limit}
    done = TRAIN[method](actor, 1e-3, 1, data=data, fields=fields)
    if method != "reward-model":
        return done, actor.theta()
    model, done = done
    return done, {**model.factors, "head": model.head}


@pytest.mark.parametrize("method", OF_PAIRS)
def test_what_has_no_room_is_left_out_and_counted(method):
    """A prompt as long as the limit changes nothing: not the weights, not the loss."""
    size = len(encode(tiny_actor().loaded.tokenizer, LONG))
    short = pairs()[:4]
    long = Pair(LONG, short[0].chosen, short[0].rejected)
    plain, weights = train(method, short, size)
    done, others = train(method, [*short[:2], long, *short[2:]], size)
    assert done.remark == "1 of 5 do not fit into max_length and were left out"
    assert plain.remark == "" and done.pairs == plain.pairs == 4
    assert done.log[0]["loss"] == plain.log[0]["loss"]
    assert all(np.array_equal(value, weights[name]) for name, value in others.items())


def prefer_first(questions: Sequence[tuple[Row, ...]], single: bool, key: bytes) -> list[Verdict]:
    return ["plus"] * len(questions)


def test_iterative_dpo_says_so_of_the_pairs_of_its_last_round():
    size = len(encode(tiny_actor().loaded.tokenizer, LONG))
    plan = recipes.Rounds(rounds=2, questions=4, recipe=recipes.Dpo(**HOW, max_length=size))
    prompts = [LONG, *(pair.prompt for pair in pairs()[:3])]  # each once in each round
    done = dpo.iterative(tiny_actor(), prompts, prefer_first, plan, seed=0)
    left_out, still = done.remark.split("; ", 1)
    assert left_out == "2 of 8 do not fit into max_length and were left out"
    assert still.startswith("it ends within")  # after two steps at a low rate
    assert done.pairs == 8  # asked for, and paid for


@pytest.mark.parametrize("method", OF_PAIRS)
def test_where_nothing_fits_a_line_says_how_long_the_shortest_is(method):
    words = rf"{method}: nothing to learn from: none of 4 fits into max_length 2; the shortest "
    with pytest.raises(RunError, match=words + r"needs \d+ tokens; raise max_length$"):
        train(method, pairs()[:4], 2)


ROWS = (
    Row(Prompt.user("How was the sea?"), Answer("Warm."), Answer("Cold.", "length", 2)),
    Row(Prompt.user("And the bus?"), Answer("Late."), Answer("Late.")),
    Row(Prompt.user("And the soup?"), Answer("Good."), Answer("Salty.")),
)
ASKED = tuple(Comparison(f"c{n}", 0, 0, n, ROWS) for n in range(2))


def vote(ledger: Ledger, who: str, comparison: str, wish: str, notes: Any = None) -> None:
    """Cast a vote of ``who``: ``wish`` is plus, minus or tie, and so is each row's note."""
    service = VoteService(ledger)
    panelist = service.enroll("simulated", who)
    seat = service.assign_to(comparison, panelist)
    assert seat is not None
    letter: dict[str, Choice] = {
        "plus": seat.plus_side, "minus": "B" if seat.plus_side == "A" else "A", "tie": "tie",
    }  # fmt: skip
    given = {str(i): letter[w] for i, w in (notes or {}).items()}
    details = {"notes": given, "rows": 2}
    service.cast(seat.id, letter[wish], idem=f"{who}-{comparison}-0123456789", details=details)


@pytest.fixture
def ledger(tmp_path):
    """A ledger with one open step of two comparisons with two votes each."""
    settings = make_settings(7, (("z", (2,)),), K=1, N=2, D=3, M=2)
    with quadratic.new_ledger(tmp_path / "run.db", settings) as made:
        quadratic.open_step(made, settings, ASKED)
        yield made


def close(ledger: Ledger, meter: Meter | None = None) -> Preferences:
    step_states.close(ledger, 0, "operator", epoch=1, reason="enough")
    return read_recorded_pairs(ledger, meter)


def words(found: Preferences) -> list[tuple[str, str, str, int]]:
    return [(p.chosen.text, p.rejected.text, p.source, p.votes) for p in found.pairs]


def test_a_batch_verdict_is_a_pair_for_each_row_that_differs(ledger):
    for who in ("ann", "ben"):
        vote(ledger, who, "c0", "minus")
    vote(ledger, "ann", "c1", "plus")
    vote(ledger, "ben", "c1", "tie")
    meter = Meter()
    found = close(ledger, meter)
    assert words(found) == [
        ("Cold.", "Warm.", "batch", 2), ("Salty.", "Good.", "batch", 2),
        ("Warm.", "Cold.", "batch", 2), ("Good.", "Salty.", "batch", 2),
    ]  # fmt: skip
    assert (found.pairs[0].chosen.end, found.pairs[0].rejected.end) == ("length", "stop")
    # Four votes, each on two rows of two answers; the identical row is not read.
    assert (meter.votes, meter.answers_read) == (4, 16)
    assert (found.records, found.ties) == (2, 0)


def test_votes_that_cancel_are_a_tie_excluded_ones_none_and_open_rounds_say_nothing(ledger):
    vote(ledger, "ann", "c0", "plus")
    vote(ledger, "ben", "c0", "minus")
    vote(ledger, "ann", "c1", "plus")
    excluded = ledger.votes(0)[-1]["vote"]
    VoteService(ledger).amend(excluded, "exclude", "by mistake", "ann")
    assert read_recorded_pairs(ledger).pairs == ()
    found = close(ledger)
    assert (words(found), found.ties, found.records) == ([], 1, 1)


def test_a_note_goes_before_the_verdict_on_the_batch(ledger):
    vote(ledger, "ann", "c0", "plus", {0: "minus"})
    vote(ledger, "ben", "c0", "plus", {0: "minus", 2: "tie"})
    vote(ledger, "ann", "c1", "plus", {2: "minus"})
    vote(ledger, "ben", "c1", "plus", {2: "plus"})
    found = close(ledger)
    assert words(found) == [
        ("Cold.", "Warm.", "note", 2),  # c0, row 2: noted as a tie, so no pair
        ("Warm.", "Cold.", "batch", 2),  # c1, row 2: the notes cancel
    ]


def test_rows_that_nobody_judged_singly_are_left_out_where_they_are_not_asked_for(ledger):
    vote(ledger, "ann", "c0", "plus", {0: "minus"})
    vote(ledger, "ben", "c0", "plus")
    vote(ledger, "ann", "c1", "tie")
    close(ledger)
    found = read_recorded_pairs(ledger, rows_of_batches=False)
    assert words(found) == [("Cold.", "Warm.", "note", 1)]
    assert (found.records, found.ties, found.unused) == (2, 1, 2)


def test_verdicts_on_rows_are_pairs_and_no_other_row_is(tmp_path):
    with open_run(tmp_path, n=7, m=1, rows=1) as ledger:
        service = VoteService(ledger)
        first, second, *others = service.sheet(service.enroll("person", "ada"), 6)
        same, unjudged, harmful, changed = others  # and the seventh is shown to nobody
        said = [(first, "A"), (second, "B"), (same, "tie"), (unjudged, "skip"), (changed, "A")]
        for i, (seat, choice) in enumerate([*said, (changed, "B")]):
            service.cast(seat.id, choice, f"key-{i}-0123456789")
        hide = {"skip_reason": counting.HARMFUL}
        service.cast(harmful.id, "skip", "key-7-0123456789", **hide)
        found = close(ledger)
        wins = {
            seat.comparison: ROW.plus if seat.plus_side == choice else ROW.minus
            for seat, choice in ((first, "A"), (second, "B"), (changed, "B"))
        }
        assert [(p.chosen, p.source, p.votes) for p in found.pairs] == [
            (wins[name], "pair", 1) for name in sorted(wins)
        ]
        assert (found.records, found.ties) == (4, 1)
        assert read_recorded_pairs(ledger, rows_of_batches=False) == found


def test_pairs_go_out_in_trls_format_and_come_back(ledger, tmp_path):
    vote(ledger, "ann", "c0", "plus", {2: "minus"})
    found = close(ledger)
    preference_files.write(tmp_path / "pairs.jsonl", found.pairs)
    again = preference_files.read(tmp_path / "pairs.jsonl")
    assert words(again) == words(found)
    assert [p.prompt for p in again.pairs] == [p.prompt for p in found.pairs]
