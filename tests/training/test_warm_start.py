"""Preferences from elsewhere as a run's prior, on a tiny model."""

import json
from dataclasses import replace

import numpy as np
import pytest

from szpo.cli.app import call
from szpo.config import settings_file
from szpo.data import preferred
from szpo.data.preferred import Preferred
from szpo.errors import UsageError
from szpo.evaluators.panel_evaluator import LedgerEvaluator
from szpo.optim.checked_settings import defaults, settings_from_json, settings_to_json
from szpo.optim.rules import findings, regression
from szpo.optim.rules.all_votes import fit_votes
from szpo.policies.lora_policy import LoraPolicy
from szpo.replay import verification
from szpo.runs import assemble
from szpo.training import guard_moments, warm_start
from szpo.types import Answer, Comparison, Prompt, Row
from szpo.voting import counting, steps
from szpo.voting.casting import VoteRequest
from szpo.voting.service import VoteService
from tests.support import folder_run
from tests.support.policies import SHORT_PROMPTS as PROMPTS
from tests.support.policies import policy_of, small
from tests.support.quadratic import go, start
from tests.support.tiny_models import loaded


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    base = loaded("llama")
    return policy_of(base, small(base))


@pytest.fixture(autouse=True)
def few(tmp_path, monkeypatch):
    monkeypatch.setenv("SZPO_CACHE", str(tmp_path))
    monkeypatch.setattr(guard_moments, "ANSWERS", 36)


def preferences(policy: LoraPolicy, sign: float) -> Preferred:
    """60 pairs of the model's own answers: the one that is further along coordinate 0 wins."""
    drawn = policy.sample(PROMPTS, 10, seed=7, base=True)
    rows = [
        Row(prompt, *pair)
        for prompt, row in zip(PROMPTS, drawn, strict=True)
        for pair in zip(row[::2], row[1::2], strict=True)
    ]
    plain = tuple(Comparison(str(n), -1, 0, n, (row,)) for n, row in enumerate(rows))
    along = sign * policy.score_features(plain)[0, :, 0]
    chosen = [
        row if better else Row(row.prompt, row.minus, row.plus)
        for row, better in zip(rows, along > 0, strict=True)
    ]
    found = tuple(Comparison(str(n), -1, 0, n, (row,)) for n, row in enumerate(chosen))
    return Preferred("pairs.jsonl", "trl", "ab" * 32, found, len(found))


@pytest.mark.full
def test_pairs_of_a_taste_point_along_it_and_of_the_opposite_against_it(policy):
    settings = defaults(1, policy.layout, rule="regression")
    for sign in (1.0, -1.0):
        found, made = warm_start.make(settings, policy, preferences(policy, sign), tuple(PROMPTS))
        mean = np.array(found.prior_mean)
        assert sign * mean[0] > 0.9 * np.linalg.norm(mean)
        # Before any vote the fit is the prior, which weighs as much as twenty votes at most.
        begun = regression.init(found)
        assert sign * fit_votes(found, begun)[0].w[0] > 0
        votes = findings.find(found, begun).prior_votes
        assert votes is not None and 5 < votes <= 18
        assert made.facts["votes"] == pytest.approx(votes, abs=1e-3)
        assert (made.facts["pairs"], made.facts["of"]) == (60, 60)
        assert "60 preferences from pairs.jsonl (trl), worth" in warm_start.describe(made)
        assert settings_from_json(settings_to_json(found)) == found
    # Nothing beyond what two answers of the start differ by counts.
    assert (np.abs(np.clip(made.features, -made.far, made.far)) <= made.far).all()
    assert made.features.shape == (60, policy.dim) and (made.far > 0).all()


@pytest.mark.full
def test_demonstrations_are_preferred_to_the_bases_own_answers(policy, tmp_path):
    settings, means = defaults(1, policy.layout, rule="regression"), {}
    path = tmp_path / "good.jsonl"
    for sign in (1.0, -1.0):
        rows = [c.rows[0] for c in preferences(policy, sign).comparisons]
        lines = [{"prompt": row.prompt.text, "completion": row.plus.text} for row in rows]
        path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        found = preferred.read(path)
        assert (found.kind, found.of) == ("demonstrations", 60)
        warm, made = warm_start.make(settings, policy, found, tuple(PROMPTS))
        means[sign] = np.array(warm.prior_mean)
    gap = means[1.0] - means[-1.0]  # what the base's answers have in common falls out
    assert gap[0] > 0.7 * np.linalg.norm(gap)
    assert "60 preferences from good.jsonl (demonstrations), worth" in warm_start.describe(made)
    again, same = warm_start.make(settings, policy, found, tuple(PROMPTS))
    assert again == warm and (same.features == made.features).all()
    other = warm_start.make(replace(settings, root_seed=2), policy, found, tuple(PROMPTS))[1]
    assert (other.features != made.features).any()


@pytest.mark.full
def test_a_run_begins_with_demonstrations_and_verifies(tmp_path, capsys):
    path = tmp_path / "good.jsonl"
    path.write_text('{"prompt": "w20 w21", "completion": "w30 w31 w32"}\n' * 3, encoding="utf-8")
    run = folder_run.make(tmp_path, f"optimizer.prior={path}")
    assert "prior: 3 preferences from good.jsonl (demonstrations)" in "".join(capsys.readouterr())
    assert call(["verify", str(run)]) == 0


@pytest.mark.full
def test_what_cannot_become_a_prior_is_one_line(policy):
    settings = defaults(1, policy.layout, rule="regression")
    same = Answer("w1 w2", tokens=2)
    for plus, minus, words in (
        (same, Answer("w1  w2", tokens=2), "no preference differs in the run's coordinates"),
        (Answer("w1 " * 5000, tokens=5000), same, r"preference 1 has 5,\d+ tokens"),
    ):
        rows = (Row(Prompt.user("w3"), plus, minus),)
        found = Preferred("p.jsonl", "trl", "ab" * 32, (Comparison("0", -1, 0, 0, rows),), 1)
        with pytest.raises(UsageError, match=words) as caught:
            warm_start.make(settings, policy, found, tuple(PROMPTS))
        assert "\n" not in str(caught.value) and "p.jsonl" in str(caught.value)


def test_other_rules_take_no_preferences(tmp_path):
    for own in ("rule=sign", "rule=known", "kl_step=0.05"):  # with the last, auto is known
        config = settings_file.load(sets=[f"optimizer.{own}", "optimizer.prior=p.jsonl"])
        with pytest.raises(UsageError, match=r"optimizer\.prior belongs to the rule regression"):
            warm_start.read(config)
    assert warm_start.read(settings_file.load()) is None
    assert warm_start.read(settings_file.load(sets=["optimizer.rule=regression"])) is None
    config = settings_file.load(sets=["optimizer.rule=regression", "optimizer.prior=p.jsonl"])
    with pytest.raises(UsageError, match="needs the scores of texts"):
        warm_start.read(config, scored=False)
    config = settings_file.load(
        sets=["optimizer.rule=regression", f"optimizer.prior={tmp_path / 'gone.jsonl'}"]
    )
    with pytest.raises(UsageError, match="is not a file"):
        warm_start.read(config)


def test_a_bad_prior_ends_a_run_before_a_model_is_loaded(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    sets = ["optimizer.rule=regression", f"optimizer.prior={tmp_path / 'p.jsonl'}"]
    line = ["run", "--preset", "tiny", "--folder", str(tmp_path / "runs")]
    assert call([*line, *(word for text in sets for word in ("--set", text))]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "p.jsonl:1: its format is none of hh, trl" in error
    assert not list((tmp_path / "runs").glob("*"))


def test_settings_that_the_rule_ignores_are_refused_in_new_runs_only():
    for name, value in (("kl_step", "0.1"), ("smoothing", "trim")):
        sets = ["optimizer.rule=regression", f"optimizer.{name}={value}"]
        config = settings_file.load(sets=sets)  # as a recorded run is opened
        config.optimizer_settings((("z", (4,)),), 1.0)
        with pytest.raises(UsageError, match=f"optimizer.{name} plays no part") as caught:
            assemble.check(config)
        assert "\n" not in str(caught.value)
    settings_file.load(sets=["optimizer.kl_step=0.05"]).require_used()
    settings_file.load(sets=["optimizer.rule=regression"]).require_used()


def voted(service, people, each):
    """``each`` of the open step's comparisons are answered by each of them."""
    with service.ledger.transaction("votes"):
        for name in people:
            who = service.enroll("person", name)
            for _ in range(each):
                seat = service.assign(who)
                service.cast(VoteRequest(seat.id, "A", idem=seat.id))


def test_what_came_between_the_look_and_the_lock_is_counted_again(tmp_path):
    settings, ledger, policy = start(tmp_path, N=2, D=1, M=1)
    service, seen = VoteService(ledger), []

    def wait():
        if not seen:
            voted(service, ["ann"], 2)
            last = ledger.query("SELECT max(vote) AS vote FROM votes")[0]["vote"]
            reader = counting.StepVotes(ledger, 0)

            def look():  # the first look finds all votes; then one is excluded
                del reader.look
                seen.append(reader.look().missing)
                service.amend(last, "exclude", "a slip", "ann")
                return reader

            reader.look = look
            seen.append(steps.close(ledger, 0, steps.Closing("rule"), votes=reader))
            seen.append(reader.missing)
            service.amend(last, "reinstate", "it was none", "ann")

    go(settings, ledger, policy, LedgerEvaluator(service), until_step=1, wait=wait)
    assert seen == [0, False, 1]


@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_reader_that_follows_a_step_says_what_one_says_that_begins_anew(tmp_path, m):
    settings, ledger, policy = start(tmp_path, N=5, D=1, M=m)
    service, script = VoteService(ledger), []
    readers = []

    def same():
        (reader,) = readers
        fresh, reader = counting.StepVotes(ledger, 0), reader.look()
        assert reader.standing == fresh.standing
        assert reader.counted == fresh.counted == service.counted(0)
        assert reader.missing == fresh.missing == 5 * m - len(fresh.counted)
        assert reader.ids() == fresh.ids()
        return reader

    def wait():
        readers.append(counting.StepVotes(ledger, 0))
        people = [service.enroll("person", f"p{i}") for i in range(m + 1)]
        held = []
        for turn in range(5 * (m + 1)):
            who = people[turn % len(people)]
            seat = service.assign(who)
            if seat is None:
                continue
            held.append(seat.id)
            choice = ("skip", "A", "tie", "B")[turn % 4]
            service.cast(VoteRequest(seat.id, choice, idem=f"first {seat.id}".replace(" ", "-")))
            script.append(choice)
            same()
            if turn % 3 == 1:  # an earlier answer is changed, a skip among them
                service.cast(
                    VoteRequest(held[turn // 3], "B", idem=f"again-{turn}-{held[turn // 3]}")
                )
                same()
            if turn % 5 == 2:
                vote = ledger.query("SELECT max(vote) AS vote FROM votes")[0]["vote"]
                service.amend(vote, "exclude", "a test", "ann")
                assert vote not in same().ids()[0]
                if turn % 2:
                    service.amend(vote, "reinstate", "a test", "ann")
                    assert vote in same().ids()[0]
        with pytest.raises(ZeroDivisionError), ledger.transaction("votes"):
            service.cast(VoteRequest(held[0], "tie", idem=f"undone-{held[0]}"))
            within = same().standing
            raise ZeroDivisionError
        assert same().standing != within
        steps.close(ledger, 0, steps.Closing("operator", reason="enough", actor="ann"))
        before = same().counted
        service.amend(min(same().ids()[1]), "exclude", "too late", "ann")
        assert same().counted == before

    go(settings, ledger, policy, LedgerEvaluator(service), until_step=1, wait=wait)
    assert "skip" in script and ledger.step(0)["state"] == "applied"
    assert verification.verify(ledger).ok
