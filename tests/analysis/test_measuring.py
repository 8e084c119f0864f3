"""What a run measures on held-out prompts, and which errors of it are more than a warning."""

from types import SimpleNamespace

import numpy as np
import pytest

from szpo.analysis import measuring
from szpo.analysis.measuring import Measuring
from szpo.analysis.model_card import find_doubt
from szpo.config.tables import Guards
from szpo.errors import EngineError, ResourceError, RunError
from szpo.ledger.theta import recommended_digest
from szpo.policies import text_guards
from szpo.runs.guards import read_held_out
from szpo.runs.setup_progress import MEASURING, read
from szpo.types import Answer, Passing, Prompt
from szpo.voting.step_record import Outcome
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


def test_guards_compare_with_answers_of_the_start(tmp_path):
    with new_ledger(tmp_path / "run.db", settings_of()) as ledger:
        policy = Terse(recommended_digest(ledger))
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
            stages.append(read(ledger.path, MEASURING)[-1])

        policy = Terse(recommended_digest(ledger))
        measuring.after(measured(ledger, policy, say), Outcome("finished", "", 1, 8))
        end = measuring.measurements(ledger)[1]
    written = (2, 3, 5, 6, 8, 10, 12)  # of the start, of the policy, two each of the start
    begun = [f"answers written {done}/12" for done in written]
    begun += [f"prompts read {done}/6" for done in range(7)] + ["counting right answers"]
    told = [line.removeprefix("measuring on held-out prompts: ") for line in said]
    assert told[-len(begun) :] == begun and all(isinstance(line, Passing) for line in said)
    assert [(each.done, each.of) for each in stages][-8:-1] == [(done, 6) for done in range(7)]
    assert end["kl"] == pytest.approx(0.5) and read(ledger.path, MEASURING) is None


@pytest.mark.parametrize(("tuned", "doubted"), [(0.0, True), (1.0, False)])
def test_what_is_worse_than_the_base_leaves_a_run_with_that_doubt(tmp_path, tuned, doubted):
    settings, ledger, policy = start(tmp_path)
    with ledger:
        go(settings, ledger, policy, until_step=2)
        for steps, reward in ((0, 0.5), (2, tuned)):
            measuring.record(ledger, "run", steps, 8, [[reward]] * 6, 9.0, None, [])
        assert ("worse than the base on held-out prompts" in find_doubt(ledger)) == doubted


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
            assert said == ["warning: held-out prompts were not measured: no answer"]
        else:
            with pytest.raises(error, match="no answer"):
                measuring.after_step(m, report)
            assert not said
