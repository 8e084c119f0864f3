"""The small pair scorer: PairRM's numbers, symmetry, what it learns, its file, its votes."""

import json
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from szpo.cli.app import call
from szpo.config.judge import Judge
from szpo.errors import IntegrityError, UsageError
from szpo.evaluators.checks import check_judge
from szpo.judges import pair_scorer, scorer, training_pairs
from szpo.judges.training_pairs import Lesson
from szpo.ledger.database import Ledger
from szpo.models import loading
from szpo.models import tiny as tiny_model
from szpo.policies.responder import LocalHost
from szpo.types import Answer, Prompt
from tests.support import folder_run, yard_run
from tests.support.judging import comparison

GOOD = set(tiny_model.MOODS["good"]["mood"]) | set(tiny_model.MOODS["good"]["verb"])


HELLO = {"role": "assistant", "content": "Hello."}


@pytest.fixture(scope="module")
def tiny():
    return loading.load("tiny", dtype="fp32")


def held(loaded):
    return LocalHost(loaded).beside(loaded.name)


def load_model(name):
    return held(loading.load(name, dtype="fp32"))


def is_good(text):
    return bool(GOOD & set(text.replace(".", "").split()))


@cache
def moods(count):
    """Pairs of answers to one request of which exactly one is in a good mood; that one is chosen.

    z says which stands first, half and half.
    """
    good, bad = {}, {}
    for ask, text in tiny_model.corpus(5, 3000):
        (good if is_good(text) else bad).setdefault(ask, []).append(text)
    found = []
    for ask in good:
        for a, b in zip(good[ask], bad.get(ask, []), strict=False):
            first = len(found) % 2 == 0
            shown = (Answer(a), Answer(b)) if first else (Answer(b), Answer(a))
            found.append(Lesson(((Prompt.user(ask), *shown),), float(first), 1))
    return found[:count]


@pytest.fixture(scope="module")
def trained(tiny):
    return scorer.train(tiny, moods(300))


# ---- the loss ----


def test_pairrms_worked_numbers():
    """z = (1, 0) and a confidence of .9: −log σ(.9) = .34115; of −.9: −log σ(−.9) = 1.24115."""
    s = torch.tensor([0.9, -0.9], dtype=torch.float64)
    loss = pair_scorer.pair_loss(s, -s, torch.ones(2, dtype=torch.float64))
    assert [round(value, 5) for value in loss.tolist()] == [0.34115, 1.24115]
    # The same pairs seen from the other side: z = (0, 1) and s_ji = −s_ij.
    other = pair_scorer.pair_loss(-s, s, torch.zeros(2, dtype=torch.float64))
    assert torch.equal(loss, other)
    # The difference of the two is the confidence itself: −log σ(−x) = −log σ(x) + x.
    assert round(float(loss[1] - loss[0]), 12) == 0.9


# ---- symmetry ----


@given(seed=st.integers(0, 2**31 - 1), width=st.integers(1, 6), units=st.integers(1, 4))
def test_swapping_the_candidates_changes_the_sign_and_nothing_else(seed, width, units):
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64) * 3

    head = {
        "mean": normal(width), "scale": normal(width).abs() + 0.1, "linear": normal(width),
        "mix": normal(units, 2 * width), "bias": normal(units), "out": normal(units),
    }  # fmt: skip
    one, other = normal(7, width), normal(7, width)
    assert torch.equal(pair_scorer.score(head, one, other), -pair_scorer.score(head, other, one))
    assert torch.equal(pair_scorer.score(head, one, one), torch.zeros(7, dtype=torch.float64))


# ---- learning ----


@pytest.mark.full
def test_it_learns_a_mood_from_pairs_and_knows_it_in_new_requests(trained):
    print(f"held-out accuracy of the pair scorer on moods: {trained}")
    facts = trained.facts
    assert facts["trained_on"] + facts["decided"] == 300 and facts["decided"] >= 30
    assert facts["right"] / facts["decided"] > 0.9


@pytest.mark.full
def test_the_same_pairs_and_seed_give_the_same_head(tiny):
    one, again, other = (scorer.train(tiny, moods(40), seed=s).head for s in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["mix"], other["mix"])


def test_features_do_not_depend_on_what_shares_their_batch(tiny):
    prompts = [Prompt.user("Describe the sea."), Prompt.user("How was the rain?")]
    texts = [Answer("The sea was bright."), Answer("")]
    together = pair_scorer.features(*held(tiny), prompts, texts)
    for i in range(2):
        alone = pair_scorer.features(*held(tiny), prompts[i : i + 1], texts[i : i + 1])
        assert torch.allclose(alone[0], together[i], atol=1e-4)
    assert together.shape == (2, 128)


def test_ties_pull_towards_zero_and_batches_count_all_rows(tiny):
    shown = tuple(
        (Prompt.user(f"How was day {i}?"), Answer("nice"), Answer("bad")) for i in range(2)
    )
    both = pair_scorer.material(*held(tiny), [Lesson(shown, 0.5, 4), Lesson(shown[:1], 0.5, 1)])
    head = {k: v.double() for k, v in pair_scorer.train(both).items()}
    assert both.scores(head).abs().max() < 1e-3
    each = pair_scorer.score(head, both.first, both.second)
    assert torch.allclose(both.scores(head), torch.stack([(each[0] + each[1]) / 4, each[2]]))
    assert both.accuracy(head) == (0, 0)


# ---- its file and its votes ----


def test_a_scorer_is_stored_and_judges(tiny, trained, tmp_path):
    path = tmp_path / "moods.safetensors"
    pair_scorer.save(path, trained.head, trained.facts)
    made = scorer.load(path, Judge(kind="scorer", model=str(path)), load_model)
    check_judge(made)
    which = comparison(("The sea was lovely.", "The sea was awful."), ("same", "same"))
    for side in ("A", "B"):
        found = made.opinion(which, panelist="p", plus_side=side, key=bytes(16))
        assert found.choice == side
        assert found.details["judge"] == "moods.safetensors"
    mirrored = made.opinion(which, panelist="p", plus_side="A", key=bytes(16))
    assert found.details["score"] == -mirrored.details["score"]
    pair_scorer.save(path, trained.head, {**trained.facts, "model_sha256": "0" * 64})
    with pytest.raises(IntegrityError, match="was trained on another tiny"):
        scorer.load(path, Judge(kind="scorer", model=str(path)), load_model)


def test_a_broken_file_is_refused(trained, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\x00" * 4)
    with pytest.raises(UsageError):
        pair_scorer.load(path)
    fewer = {**trained.head, "bias": trained.head["bias"][:1]}
    pair_scorer.save(path, fewer, trained.facts)
    with pytest.raises(UsageError, match="no pair scorer of this version"):
        pair_scorer.load(path)


@pytest.mark.full
def test_a_run_teaches_a_scorer_that_judges_the_next_run(tmp_path, capfd):
    """Votes of a simulated panel → szpo scorer → panel.kind = judge, from the command line."""
    folder = folder_run.model(tmp_path)
    path = folder_run.make(tmp_path, "run.votes=16", model_folder=folder)
    with Ledger.open(path, readonly=True) as ledger:
        taught = training_pairs.of_ledger(ledger)
        counted = [row for row in ledger.votes() if row["kind"] == "train"]
    assert len(taught) == len(counted) and {each.z for each in taught} <= {0.0, 0.5, 1.0}
    assert all(each.rows == 2 for each in taught)
    out = tmp_path / "s.safetensors"
    line = ["scorer", str(path), "--out", str(out), "--model", str(folder)]
    capfd.readouterr()
    assert call(line) == 0
    assert "pairs; right on" in capfd.readouterr().out
    assert call(line) == 4 and "exists; give another --out" in capfd.readouterr().err
    again = tmp_path / "again"
    again.mkdir()
    sets = ["panel.kind=judge", "judge.kind=scorer", f"judge.model={out}"]
    with Ledger.open(folder_run.make(again, *sets, model_folder=folder), readonly=True) as ledger:
        assert {row["kind"] for row in ledger.query("SELECT kind FROM panelists")} == {"judge"}
        assert all("score" in json.loads(row["details"]) for row in ledger.votes())
    bare = yard_run.arguments(tmp_path / "c", "panel.kind=judge", "judge.kind=scorer")
    assert call(bare) == 2
    assert "is not a file; train one with: szpo scorer" in capfd.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        {
            "chosen": "\n\nHuman: Hi?\n\nAssistant: Hello.",
            "rejected": "\n\nHuman: Hi?\n\nAssistant: No.",
        },
        {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."},
        {"chosen": [{"role": "user", "content": "Hi?"}, HELLO],
         "rejected": [{"role": "user", "content": "Hi?"}, {**HELLO, "content": "No."}]},
    ],
)  # fmt: skip
def test_files_of_pairs_are_read_in_their_common_forms(line, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(line) + "\n\n", encoding="utf-8")
    (found,) = training_pairs.of_file(file)
    assert found == Lesson(((Prompt.user("Hi?"), Answer("Hello."), Answer("No.")),), 1.0, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1 is not JSON"),
        ('{"chosen": "x"}', 'line 1: give {"chosen"'),
        ('{"chosen": "x", "rejected": "y"}', "a dialogue of Human and Assistant"),
        ('{"chosen": "\\n\\nHuman: a\\n\\nAssistant: b", '
         '"rejected": "\\n\\nHuman: c\\n\\nAssistant: d"}', "different requests"),
        ("", "no pair to learn from"),
    ],
)  # fmt: skip
def test_files_that_are_none_are_refused_with_their_place(text, words, tmp_path, tiny):
    file = tmp_path / "pairs.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        scorer.train(tiny, training_pairs.of_file(file))
    assert words in str(caught.value)
