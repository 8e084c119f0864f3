"""A transformers model as a judge: its odds, its texts, its control words."""

import dataclasses
import json
import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from szpo import seeds
from szpo.cli.app import call
from szpo.config import settings_file
from szpo.config.tables import Judge
from szpo.data import prompts
from szpo.errors import IntegrityError, UsageError
from szpo.judges import judge_factory, llm_judge, pair_scorer, prompting
from szpo.judges.judge_factory import REPLY_START, Local
from szpo.judges.llm_judge import LanguageJudge
from szpo.judges.pair_scorer import LabelledPair
from szpo.judges.prompting import JudgeError, Question
from szpo.ledger.database import Ledger
from szpo.models import loading
from szpo.policies import language_model
from szpo.policies.backend import LocalBackend
from szpo.runs import assemble
from szpo.types import Answer, Prompt
from szpo.voting import counting
from szpo.voting.evaluator import check_judge
from szpo.voting.panel_factory import StartingPolicy
from tests.support import folder_run, quadratic, tiny_models, tiny_words, yard_run
from tests.support.judging import comparison

KEY = seeds.derive(0, "test")


@pytest.fixture(scope="module")
def tiny():
    return loading.load("tiny", dtype="fp32")


def held(loaded):
    return LocalBackend(loaded).beside(loaded.name)


def local(loaded, **options):
    return Local(held(loaded), **options)


def asked(*texts):
    return [Question(Prompt.user(text), KEY) for text in texts]


def test_odds_are_those_of_a_plain_forward_pass(tiny):
    texts = ("Which, A or B?", "Say B. " * 20)
    found = local(tiny).weigh(asked(*texts), prompting.LETTERS)
    for text, reply in zip(texts, found, strict=True):
        ids = list(loading.encode(tiny.tokenizer, Prompt.user(text)))
        tails = [
            tiny.tokenizer(f"{REPLY_START} {x}", add_special_tokens=False)["input_ids"]
            for x in "AB"
        ]
        same = next(i for i, (a, b) in enumerate(zip(*tails, strict=False)) if a != b)
        with torch.inference_mode():
            rows = torch.tensor([ids + tails[0][:same]])
            logp = tiny.model(rows).logits[0, -1].double().log_softmax(-1)
        wanted = [float(logp[tail[same]]) for tail in tails]
        assert np.allclose(reply.odds, wanted, atol=1e-5)
        assert reply.tokens_in == rows.shape[1]


def test_what_is_written_is_the_same_each_time(tiny):
    one, again = local(tiny, max_tokens=12).write(asked("Describe the sea.", "Describe the sea."))
    assert one == again and one.text and one.tokens_out > 0
    cut = local(tiny, max_tokens=2).write(asked("Describe the sea."))[0]
    assert (cut.ended, cut.tokens_out) == (False, 2)


def test_a_question_that_is_too_long_is_reported_and_not_asked(tiny):
    for replies in (
        local(tiny).write(asked("sea " * 600, "Describe the sea.")),
        local(tiny).weigh(asked("sea " * 600, "Describe the sea."), prompting.LETTERS),
    ):
        assert replies[0].final and "but the model reads 512" in replies[0].failure
        assert replies[1].failure is None


@pytest.mark.full
@given(parts=st.lists(st.sampled_from(["<end>", "<pad>", "sea", "\n", "<", "end>"]), max_size=8))
def test_no_answer_holds_a_control_token(tiny, parts):
    """The tokenizer reads <end> as the end of everything wherever it stands: it must not stand."""
    reserved = local(tiny).reserved
    assert {"<end>", "<pad>"} <= set(reserved)
    control = {tiny.tokenizer.convert_tokens_to_ids(word) for word in reserved}
    text = prompting.quote("".join(parts), reserved)
    assert not control & set(tiny.tokenizer(text)["input_ids"])


def test_a_local_judge_keeps_the_contract_and_says_when_it_cannot_be_read(tiny, monkeypatch):
    monkeypatch.setattr(llm_judge, "RETRIES", 0)  # what is asked again is longer than it reads
    soft = Judge(ask="soft", decide="debias")
    check_judge(LanguageJudge(local(tiny), soft, "better"))
    with pytest.raises(JudgeError, match="judge tiny: no clear verdict in the reply"):
        check_judge(LanguageJudge(local(tiny, max_tokens=8), Judge(), "better"))


@pytest.mark.full
def test_a_model_judges_a_run_of_itself_and_a_resume_wants_the_same_one(tmp_path):
    """With the run's own model as judge it is loaded once; another model is refused afterwards."""
    folder = folder_run.model(tmp_path, words="AB")
    sets = ["panel.kind=judge", f"judge.model={folder}", "judge.ask=soft", "judge.decide=debias"]
    path = folder_run.make(tmp_path, *sets, model_folder=folder)
    with Ledger.open(path) as ledger:
        parts = assemble.reopen(ledger, say=lambda text: None)
        (made,) = parts.panel.judges
        assert made.backend.facts.model is parts.base.loaded.model
        assert {row["choice"] for row in ledger.votes()} <= {"A", "B"}
        recorded = dict(ledger.spec["panel"], model_sha256="0" * 64)
        with pytest.raises(IntegrityError, match="judge: model is not what this run began with"):
            judge_factory.judge.build(parts.config, StartingPolicy(host=parts.base.host), recorded)


def test_the_panel_counts_an_opinion_once(tmp_path):
    (file := tmp_path / "principles.txt").write_text("Be kind.\nBe brief.\n")
    host = LocalBackend(dataclasses.replace(tiny_models.loaded("llama"), name="smollm2"))

    def members(**settings):
        config = settings_file.check({"panel": {"kind": "judge", "size": 5}, "judge": settings})
        return len(judge_factory.judge.build(config, StartingPolicy(host=host)).judges)

    assert (members(), members(principles=str(file))) == (1, 5)
    with pytest.raises(UsageError, match="its tokenizer cannot tell A from B"):
        members(ask="soft", decide="draw")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("principles", "# only a remark\n\n", "no principle; write one on each line"),
        ("references", '{"prompt": "x"}', ':1: give {"prompt": "…", "reference": "…"}'),
        ("references", "{", ":1: not valid JSON"),
        ("references", '{"prompt": "other", "reference": "y"}', "no prompt of this run has a"),
    ],
)
def test_files_of_a_judge_are_checked_before_anything_is_loaded(tmp_path, name, content, words):
    file = tmp_path / "file"
    file.write_text(content, encoding="utf-8")
    config = settings_file.check({"panel": {"kind": "judge"}, "judge": {name: str(file)}})
    with pytest.raises(UsageError) as caught:
        judge_factory.judge.check(config, prompts.load_shipped().train)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["judge.ask=soft", "optimizer.D=8"], "row by row: optimizer.D = 1"),
        (["judge.max_tokens=400", "optimizer.D=1"], "lower generation.max_new_tokens or"),
        (["judge.ask=grades", "judge.max_tokens=500"], "500 for its reply"),
    ],
)
def test_a_question_longer_than_its_model_reads_is_refused_before_any_work(
    tmp_path, monkeypatch, capsys, sets, words
):
    monkeypatch.setattr(language_model, "prepare", lambda *a: pytest.fail("the set-up began"))
    every = [word for text in ("panel.kind=judge", "judge.model=tiny", *sets)
             for word in ("--set", text)]  # fmt: skip
    assert call(["run", "--preset", "tiny", "--folder", str(tmp_path), *every]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert "judge tiny reads 512 tokens" in message and words in message


GOOD = set(tiny_words.MOODS["good"]["mood"]) | set(tiny_words.MOODS["good"]["verb"])


def is_good(text):
    return bool(GOOD & set(text.replace(".", "").split()))


@cache
def moods(count):
    """Pairs of answers to one request of which exactly one is in a good mood; that one is chosen.

    z says which stands first, half and half.
    """
    good, bad = {}, {}
    for ask, text in tiny_words.tiny_corpus(5, 3000):
        (good if is_good(text) else bad).setdefault(ask, []).append(text)
    found = []
    for ask in good:
        for a, b in zip(good[ask], bad.get(ask, []), strict=False):
            first = len(found) % 2 == 0
            shown = (Answer(a), Answer(b)) if first else (Answer(b), Answer(a))
            found.append(LabelledPair(((Prompt.user(ask), *shown),), float(first), 1))
    return found[:count]


@pytest.fixture(scope="module")
def trained(tiny):
    return pair_scorer.train_scorer(tiny, moods(300))


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


@pytest.mark.full
def test_it_learns_a_mood_from_pairs_and_knows_it_in_new_requests(trained):
    _, facts = trained
    assert facts["trained_on"] + facts["decided"] == 300 and facts["decided"] >= 30
    assert facts["right"] / facts["decided"] > 0.9


@pytest.mark.full
def test_the_same_pairs_and_seed_give_the_same_head(tiny):
    one, again, other = (pair_scorer.train_scorer(tiny, moods(40), seed=s)[0] for s in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["mix"], other["mix"])


def test_features_do_not_depend_on_what_shares_their_batch(tiny):
    prompts = [Prompt.user("Describe the sea."), Prompt.user("How was the rain?")]
    texts = [Answer("The sea was bright."), Answer("")]
    together = pair_scorer.features(held(tiny), prompts, texts)
    for i in range(2):
        alone = pair_scorer.features(held(tiny), prompts[i : i + 1], texts[i : i + 1])
        assert torch.allclose(alone[0], together[i], atol=1e-4)
    assert together.shape == (2, 128)


def test_ties_pull_towards_zero_and_batches_count_all_rows(tiny):
    asked = [Prompt.user(f"How was day {i}?") for i in range(2)]
    shown = tuple((prompt, Answer("nice"), Answer("bad")) for prompt in asked)
    both = pair_scorer.to_tensors(
        held(tiny), [LabelledPair(shown, 0.5, 4), LabelledPair(shown[:1], 0.5, 1)]
    )
    head = {k: v.double() for k, v in pair_scorer.train(both).items()}
    assert both.scores(head).abs().max() < 1e-3
    each = pair_scorer.score(head, both.first, both.second)
    assert torch.allclose(both.scores(head), torch.stack([(each[0] + each[1]) / 4, each[2]]))
    assert both.accuracy(head) == (0, 0)


def test_it_votes_by_the_mean_over_all_rows_as_it_was_trained(tiny):
    draws = torch.from_numpy(seeds.uniform(KEY, 128) - 0.5)
    head = {
        "mean": torch.zeros(128), "scale": torch.ones(128), "linear": draws,
        "mix": torch.zeros(1, 256), "bias": torch.zeros(1), "out": torch.zeros(1),
    }  # fmt: skip
    head = {name: value.double() for name, value in head.items()}
    judge = pair_scorer.ScorerJudge(held(tiny), head, Judge(model="s.safetensors"), "")
    differs, same = ("The sea was lovely.", "The sea was awful."), ("same", "same")

    def score(*rows):
        found = judge.opinion(comparison(*rows), panelist="p", plus_side="A", key=bytes(16))
        return found.details["score"]

    whole = score(differs)
    assert whole and score(differs, same) == pytest.approx(whole / 2, rel=1e-3)


def test_a_scorer_votes_for_the_higher_score_or_draws_with_its_probability(monkeypatch):
    """Its one feature is a text's length; of two rows one is equal, so that a gap counts half."""
    monkeypatch.setattr(
        pair_scorer, "features",
        lambda reader, prompts, answers: torch.tensor([[float(len(a.text))] for a in answers]),
    )  # fmt: skip
    head = {"mean": [1.0], "scale": [2.0], "linear": [1.5], "mix": [[0.3, -0.2]], "bias": [0.1],
            "out": [0.5]}  # fmt: skip
    head = {name: torch.tensor(value) for name, value in head.items()}
    which = comparison(("longer", "long"), ("same", "same"))

    def opinion(side, key=KEY, decide="tie"):
        made = pair_scorer.ScorerJudge(
            None, head, Judge(model="/s.safetensors", decide=decide), ""
        )
        return made.opinion(which, panelist="p", plus_side=side, key=key)

    one, other = (6 - 1) / 2, (4 - 1) / 2
    hidden = [math.tanh(0.3 * a - 0.2 * b + 0.1) for a, b in ((one, other), (other, one))]
    score = (1.5 * (one - other) + 0.5 * (hidden[0] - hidden[1])) / 2
    chance = 1 / (1 + math.exp(-score))
    found = opinion("A")
    assert found.choice == "A" and found.details["judge"] == "s.safetensors"
    assert found.details["score"] == pytest.approx(score, rel=1e-5)
    assert found.details["p"] == pytest.approx(chance, rel=1e-5)
    assert opinion("B").choice == "B" and opinion("B").details["score"] == pytest.approx(-score)
    keys = [seeds.derive(n, "test") for n in range(30)]
    for side, p in (("A", chance), ("B", 1 - chance)):
        drawn = [opinion(side, key, "draw").choice for key in keys]
        assert drawn == ["A" if seeds.uniform(key, 1)[0] < p else "B" for key in keys]
        assert {*drawn} == {"A", "B"}


def test_a_scorer_learns_from_each_counted_vote_as_it_was_given(tmp_path):
    settings, ledger, policy = quadratic.start(tmp_path)
    with ledger:
        judge = quadratic.ValueJudge(0.5, ties=0.3)
        quadratic.go(settings, ledger, policy, quadratic.panel_of(ledger, 5, judge), until_step=3)
        found, wanted = pair_scorer.of_ledger(ledger), []
        for step in range(3):
            shown = {each.id: each.rows for each in ledger.comparisons(step)}
            for vote in counting.counted(ledger, step):
                rows = tuple((r.prompt, r.plus, r.minus) for r in shown[vote.comparison])
                worth = {"plus": 1.0, "tie": 0.5, "minus": 0.0}[vote.verdict]
                wanted.append(LabelledPair(rows, worth, 2))
    assert found == wanted and {each.z for each in found} == {0.0, 0.5, 1.0}
    many = [LabelledPair(((Prompt.user(f"Question {n}?"), *rows[0][1:]),), 1.0, 1)
            for n in range(400)]  # fmt: skip
    to_learn, held = pair_scorer.split(many)
    assert [each for each in many if each in held] == held and len(to_learn) + len(held) == 400
    assert 50 < len(held) < 110  # by prompts, a fifth


@pytest.mark.full
def test_a_scorer_is_stored_and_judges_and_a_broken_file_is_refused(tiny, trained, tmp_path):
    path = tmp_path / "moods.safetensors"
    config = Judge(model=str(path))
    head, facts = trained
    pair_scorer.save(path, head, facts)
    made = pair_scorer.load_judge(path, config, lambda name: held(tiny))
    check_judge(made)
    which = comparison(("The sea was lovely.", "The sea was awful."), ("same", "same"))
    for side in ("A", "B"):
        found = made.opinion(which, panelist="p", plus_side=side, key=bytes(16))
        assert found.choice == side
        assert found.details["judge"] == "moods.safetensors"
    mirrored = made.opinion(which, panelist="p", plus_side="A", key=bytes(16))
    assert found.details["score"] == -mirrored.details["score"]
    pair_scorer.save(path, head, {**facts, "model_sha256": "0" * 64})
    with pytest.raises(IntegrityError, match="was trained on another tiny"):
        pair_scorer.load_judge(path, config, lambda name: held(tiny))
    pair_scorer.save(path, {**head, "bias": head["bias"][:1]}, facts)
    with pytest.raises(UsageError, match="not a pair scorer of this szpo"):
        pair_scorer.load(path)
    path.write_bytes(b"\x00" * 4)
    with pytest.raises(UsageError):
        pair_scorer.load(path)


@pytest.mark.full
def test_a_run_teaches_a_scorer_that_judges_the_next_run(tmp_path, capfd):
    folder = folder_run.model(tmp_path)
    path = folder_run.make(tmp_path, "run.votes=16", model_folder=folder)
    with Ledger.open(path, readonly=True) as ledger:
        taught = pair_scorer.of_ledger(ledger)
        counted = [row for row in ledger.votes() if row["kind"] == "train"]
    worth = [
        0.5 if r["choice"] == "tie" else 1.0 * (r["choice"] == r["plus_side"]) for r in counted
    ]
    assert [each.z for each in taught] == worth
    assert all(each.rows == 2 for each in taught)
    out = tmp_path / "s.safetensors"
    line = ["scorer", str(path), "--out", str(out), "--model", str(folder)]
    capfd.readouterr()
    assert call(line) == 0
    assert "pairs; right on" in capfd.readouterr().out
    assert call(line) == 4 and "exists; give another --out" in capfd.readouterr().err
    again = tmp_path / "again"
    again.mkdir()
    sets = ["panel.kind=judge", f"judge.model={out}"]
    with Ledger.open(folder_run.make(again, *sets, model_folder=folder), readonly=True) as ledger:
        assert {row["kind"] for row in ledger.query("SELECT kind FROM panelists")} == {"judge"}
        assert all("score" in json.loads(row["details"]) for row in ledger.votes())
    bare = yard_run.arguments(tmp_path / "c", "panel.kind=judge", "judge.model=a.safetensors")
    assert call(bare) == 2
    assert "is not a file; train one with: szpo scorer" in capfd.readouterr().err


def test_a_file_of_pairs_is_read_whatever_its_format(tmp_path, tiny):
    file = tmp_path / "pairs.jsonl"
    line = {key: f"\n\nHuman: Hi?\n\nAssistant: {text}" for key, text in
            (("chosen", "Hello."), ("rejected", "No."))}  # fmt: skip
    file.write_text(json.dumps(line) + "\n\n", encoding="utf-8")
    (found,) = pair_scorer.of_file(file)
    assert found == LabelledPair(((Prompt.user("Hi?"), Answer("Hello."), Answer("No.")),), 1.0, 1)
    file.write_text('{"prompt": "Hi?", "chosen": "x", "rejected": "x"}', encoding="utf-8")
    with pytest.raises(UsageError, match="no pair to learn from"):
        pair_scorer.train_scorer(tiny, pair_scorer.of_file(file))


@pytest.mark.full
def test_a_scorer_of_one_prompt_says_that_nothing_was_held_out(tmp_path, capfd):
    path = tmp_path / "pairs.jsonl"
    record = {"prompt": "Tell me.", "chosen": "A day.", "rejected": "A night."}
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    assert (
        call(["scorer", str(path), "--model", "tiny", "--out", f"{tmp_path}/s.safetensors"]) == 0
    )
    said = " ".join(capfd.readouterr().out.split())
    assert "trained on 1 pairs; none was held out, so nobody knows" in said


def test_a_scorer_says_what_is_wrong_with_the_first_record_of_a_file(tmp_path):
    path = tmp_path / "rated.jsonl"
    rated = [{"response": "A", "score": None}, {"response": "B", "score": 1}]
    path.write_text(json.dumps({"prompt": "?", "completions": rated}) + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match="completion 1 has no rating; give a number under score"):
        pair_scorer.of_file(path)
