"""What a run measures on held-out prompts, and which errors of it are more than a warning."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from szpo import seeds
from szpo.analysis import improvement, measuring
from szpo.analysis.exported_weights import find_doubt
from szpo.analysis.measuring import Measuring
from szpo.config.tables import Guards
from szpo.errors import EngineError, ResourceError, RunError
from szpo.ledger import orders
from szpo.ledger.theta import recommended_digest
from szpo.optim.parameters import NO_COORDINATES
from szpo.policies import text_guards
from szpo.runs import setup_progress
from szpo.runs.guards import read_held_out
from szpo.runs.setup_progress import MEASURING
from szpo.types import Answer, Passing, Prompt
from szpo.voting.applied_step import Outcome
from szpo.voting.blind import PAIRS
from tests.support.quadratic import go, new_ledger, settings_of, start

ASKED = tuple(Prompt.user(text) for text in ("why", "how", "when"))


class Terse:
    """A language model that answers in four words, and in one where it is tuned."""

    def __init__(self, digest):
        self.digest, self.sample_tokens = lambda: digest, None

    def sample(self, prompts, samples, *, seed, base=False, places=None):
        words = "so it goes on" if base else "so"
        answer = Answer(words, tokens=len(words.split()))
        return [[answer] * samples for _ in prompts]

    def sample_with_kl(self, prompts, samples, *, seed, places=None):
        own = [{"why": 0.2, "how": 0.5, "when": 0.8}[prompt.text] for prompt in prompts]
        return self.sample(prompts, samples, seed=seed), (sum(own) / len(own), 0.1)

    def logprob_base(self, prompts, answers):
        return np.full(len(answers), -1.0)

    def total_logprob_base(self, prompt, answers):
        return np.full(len(answers), -1.0)


def measured(ledger, policy, say):
    """The measuring of a run that is measured after its first step."""
    config = SimpleNamespace(guards=Guards(), engine=SimpleNamespace(is_local=True))
    parts = SimpleNamespace(policy=policy, panel=None, config=config, settings=settings_of())
    return Measuring(ledger, parts, ASKED, 1, frozenset({1}), None, False, say)


def test_guards_compare_with_answers_of_the_start_also_after_a_stop(tmp_path, monkeypatch):
    def stop(*given):
        raise KeyboardInterrupt

    with new_ledger(tmp_path / "run.db", settings_of()) as ledger:
        policy = Terse(recommended_digest(ledger))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(measuring, "_read", stop)
            measuring.after(measured(ledger, policy, print), Outcome("finished", "", 1, 8))
        measuring.after(measured(ledger, policy, print), Outcome("finished", "", 1, 8))
        found = read_held_out(ledger)
    tokens = next(row for row in found.rows if row["name"] == "tokens per answer")
    assert (float(tokens["before"]), float(tokens["after"])) == (4, 1)
    length = next(guard for guard in found.guards if guard.name == text_guards.LENGTH)
    assert length.value == 0.25 and not length.ok


def test_who_waits_for_a_measurement_is_told_how_many_answers_are_written_and_read(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(measuring, "PART", 2)
    monkeypatch.setattr(measuring, "TELL_S", 0.0)
    said, stages = [], []
    with new_ledger(tmp_path / "run.db", settings_of()) as ledger:

        def say(line):
            said.append(line)
            stages.append(setup_progress.read(ledger.path, MEASURING)[-1])

        policy = Terse(recommended_digest(ledger))
        measuring.after(measured(ledger, policy, say), Outcome("finished", "", 1, 8))
        end = measuring.measurements(ledger)[1]
    written = (2, 3, 5, 6, 8, 10, 12)  # of the start, of the policy, two each of the start
    begun = [f"answers written {done}/12" for done in written]
    begun += ["prompts read", *(f"prompts read {done}/6" for done in range(1, 7))]
    told = [line.removeprefix("measuring on held-out prompts: ") for line in said]
    assert told[-len(begun) :] == begun and all(isinstance(line, Passing) for line in said)
    assert [(each.done, each.of) for each in stages][-7:] == [(done, 6) for done in range(7)]
    assert end["kl"] == pytest.approx(0.5) and setup_progress.read(ledger.path, MEASURING) is None


@pytest.mark.parametrize(("tuned", "doubted"), [(0.0, True), (1.0, False)])
def test_what_is_worse_than_the_base_leaves_a_run_with_that_doubt(tmp_path, tuned, doubted):
    settings, ledger, policy = start(tmp_path)
    with ledger:
        go(settings, ledger, policy, until_step=2)
        for steps, reward in ((0, 0.5), (2, tuned)):
            measuring.record(ledger, "run", steps, 8, [[reward]] * 6, 9.0, None, [])
        doubt = find_doubt(ledger, improvement.read(ledger))
        assert ("worse than the base on held-out prompts" in doubt) == doubted


@pytest.mark.parametrize("error", [EngineError, ResourceError, RunError])
def test_a_measurement_that_fails_is_a_warning_unless_the_run_cannot_go_on(error, tmp_path):
    def fail(*given, **how):
        raise error("no answer")

    said = []
    with new_ledger(tmp_path / "run.db", settings_of()) as ledger:
        m = measured(ledger, SimpleNamespace(rollout=fail), said.append)
        report = SimpleNamespace(step=0, total_votes=8)
        if error is RunError:
            measuring.after_step(m, report)
            assert said[-1] == "warning: held-out prompts were not measured: no answer"
        else:
            with pytest.raises(error, match="no answer"):
                measuring.after_step(m, report)
            assert all(isinstance(line, Passing) for line in said)


class Told(Terse):
    """Answers that say who was asked what; ``calls`` are samples, seed and base of each time."""

    def __init__(self, digest):
        super().__init__(digest)
        self.calls, self.more = [], 0

    def sample(self, prompts, samples, *, seed, base=False, places=None):
        self.calls.append((samples, seed, base))
        who, row = "base" if base else "own", []
        for j in range(samples):
            row.append(
                Answer(" ".join([who, *["so"] * (2 * j + 1 + self.more)]), tokens=3 * j + base)
            )
        return [row for _ in prompts]


def test_every_measurement_is_recorded_as_it_was_drawn_by_one_seed(tmp_path):
    """Of three prompts: two answers at the start and the end, one in between."""
    with new_ledger(tmp_path / "run.db", settings_of()) as ledger:
        policy = Told(recommended_digest(ledger))
        m = replace(
            measured(ledger, policy, print), samples=2,
            score=lambda prompt, answer: len(prompt.text) + answer.text.count("so"),
        )  # fmt: skip
        measuring.before(m)
        policy.more = 1
        for step in (0, 1):
            measuring.after_step(m, SimpleNamespace(step=step, total_votes=8 + step))
        measuring.after(m, Outcome("paused", "", 2, 16))
        for _ in range(2):
            measuring.after(m, Outcome("finished", "", 2, 16))
        seed = seeds.as_seed(seeds.derive(ledger.root_seed, "evaluation"))
        assert policy.calls == [
            (samples, seed, base)
            for samples, base in ((2, False), (1, False), (2, False), (2, True))
        ]
        first, whole = ([[n + len(p.text), 2 + n + len(p.text)] for p in ASKED] for n in (1, 2))
        wanted = [(0, 0, first, 1.5, None), (1, 8, [row[:1] for row in whole], 0.0, None),
                  (2, 16, whole, 1.5, 0.5)]  # fmt: skip
        for event, (steps, votes, rewards, tokens, kl) in zip(
            ledger.events(improvement.MEASURED), wanted, strict=True
        ):
            assert event["body"] == {
                "steps": steps, "votes": votes, "rewards": rewards, "tokens": tokens, "kl": kl,
                "texts": [[p.text, "own so so" if steps else "own so"] for p in ASKED],
            }  # fmt: skip
        found = read_held_out(ledger)
        rows = {row["name"]: (row["before"], row["after"]) for row in found.rows}
        mean = [float(each) for each in rows["mean reward of the panel"]]
        assert mean == pytest.approx([np.mean(first), np.mean(whole)], abs=1e-3)
        assert [float(each) for each in rows["tokens per answer"]] == [2.5, 1.5]
        assert found.theta_sha256 == recommended_digest(ledger)


@pytest.mark.parametrize(("rows", "body"), [(1, {"comparisons": PAIRS}), (2, {})])
def test_a_language_model_that_has_moved_answers_for_its_start_as_the_base(tmp_path, rows, body):
    settings, ledger, quadratic = start(tmp_path, D=rows)
    with ledger:
        go(settings, ledger, quadratic, until_step=1)
        m = measured(ledger, Told(recommended_digest(ledger)), print)
        m = replace(
            m, people=True, parts=SimpleNamespace(**{**vars(m.parts), "settings": settings})
        )
        for _ in range(2):  # people compare the weights, once
            measuring.after(m, Outcome("finished", "", 1, 4))
            (placed,) = orders.orders(ledger, "final")
        assert placed.body == body
        texts = [event["body"]["texts"][0][1] for event in ledger.events(improvement.MEASURED)]
        assert texts == ["base so", "own so"]


def test_measurements_lie_evenly_between_the_start_and_the_end_of_a_run(tmp_path):
    config = SimpleNamespace(
        evaluation=SimpleNamespace(prompts=2, samples=3), steps=10, measured_along=3,
        improve=SimpleNamespace(nats=None), panel=SimpleNamespace(kind="people"),
    )  # fmt: skip
    parts = SimpleNamespace(config=config, prompts=SimpleNamespace(heldout=ASKED))
    with new_ledger(tmp_path / "run.db", settings_of()) as ledger:
        m = measuring.prepare(ledger, parts, None, print)
        assert (m.prompts, m.samples, m.along, m.people) == (ASKED[:2], 3, {2, 5, 8}, True)
        config.steps = 2
        assert measuring.prepare(ledger, parts, None, print).along == {1}
    with new_ledger(
        tmp_path / "still.db", settings_of(NO_COORDINATES, rule="regression", N=1, D=1)
    ) as ledger:
        assert measuring.prepare(ledger, parts, None, print) is None
        config.improve.nats = 3.0
        m = measuring.prepare(ledger, parts, None, print)
        measuring.after(m, Outcome("finished", "", 2, 8))  # nobody waits for the start's own
        assert not measuring.measurements(ledger) and not orders.orders(ledger, "final")
        parts.prompts.heldout = ()
        assert measuring.prepare(ledger, parts, None, print) is None
