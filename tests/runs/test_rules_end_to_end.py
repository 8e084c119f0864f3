"""Rules on a small language model, from the command line to the verified file and the adapter."""

import functools
import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from szpo import failpoints
from szpo.cli import run as run_command
from szpo.cli.app import call
from szpo.config import optimizer, schema, settings_file
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.ledger.theta import recommended_digest, recommended_digests, theta_digest, theta_digests
from szpo.optim.optimizer import describe_settings
from szpo.optim.sample_directions import Law
from szpo.replay import replay, verification
from szpo.runs import assemble
from szpo.voting.recorded_step import read_step
from tests.support import children, folder_run

SURE = ("panel.beta=60", "optimizer.kl_budget=40")


def run(folder, *sets, preset=None):
    """The ledger's file of a run of the tiny random model."""
    line = folder_run.arguments(folder, *sets, model_folder=folder_run.model(folder))
    if preset is not None:
        line[1:1] = ["--preset", preset]
    assert call(line) == 0
    return folder / "runs" / "folder.db"


def _killed_at(line, where):
    """In a child: the command, killed at the second hit of a place."""
    with failpoints.arm(f"{where}:kill@2"):
        call(line)


PUBLISHED = {
    "published": ("known", "1e-9", "p = k/M trimmed to [σ(−4), σ(4)]; θ ← θ + α Δ̂/μ v"),
    "published-sign": ("sign", "exact", "θ ← θ + α sign(wins − losses) v"),
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_the_algorithm_as_published_runs_is_killed_resumed_and_verified(tmp_path, preset, capsys):
    rule, promise, equation = PUBLISHED[preset]
    own = ("run.votes=120", "optimizer.K=1", "optimizer.N=8",
           "optimizer.D=1", "optimizer.kl_step=2", "optimizer.kl_radius=1")  # fmt: skip
    line = folder_run.arguments(tmp_path, *own, model_folder=folder_run.model(tmp_path))
    line[1:1] = ["--preset", preset]
    assert children.run(_killed_at, line, "cp11") == children.KILLED
    path = tmp_path / "runs" / "folder.db"
    assert call(["run", "--resume", str(path)]) == 0
    said = capsys.readouterr().err
    with Ledger.open(path) as ledger:
        settings = recorded_settings(ledger)
        o = settings.section
        assert (o.rule, o.pairing, settings.law) == (rule, "forward", Law())
        assert (o.K, o.N, o.M, settings.warmup) == (1, 8, 5, 0)
        assert o.smoothing == "trim"  # also where only its sign counts
        names = [name for name, _ in settings.layout]  # A and B of each adapted module
        assert settings.dim > 100 and {name[-1] for name in names} == {"A", "B"}, names
        report = verification.verify(ledger)
        assert report.ok, str(report)
        assert [step.promise for step in report.steps] == [promise] * 3
        # Minus is the policy at θ itself: the second of each pair has radius 0.
        assert {row["pairing"] for row in ledger.steps()} == {"forward"}
        assert theta_digests(ledger) == recommended_digests(ledger)
        assert theta_digest(ledger) != theta_digests(ledger)[0]
    # Far out KL is measured, not estimated (≈), since the quadratic estimate does not hold there.
    assert re.search(r"step 2: 120 votes, .*KL \d", said), said
    assert equation in describe_settings(settings)[1]


@pytest.mark.parametrize(
    ("rule", "guard", "kl", "words"),
    [
        ("known", "", 2.0, None),  # 70 % of 3 nats are 2.1
        ("known", "", 2.2, "KL is 2.2 nats; at 3 szpo's own rule would stay (guards.kl limits"),
        ("sign", "guards.kl=8", 5.5, None),
        ("sign", "guards.kl=8", 6.0, "KL is 6.0 nats; at 8 guards.kl pauses the run"),
        ("regression", "", 7.9, None),
    ],
)
def test_a_run_without_a_budget_of_its_own_warns_before_it_has_drifted_far(rule, guard, kl, words):
    sets = [f"optimizer.rule={rule}", *([guard] if guard else [])]
    found = run_command.warn_of_drift(settings_file.load(sets=sets), kl)
    assert (words is None) == (found is None) and (words is None or words in found)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    sets = ("optimizer.rule=regression", "optimizer.K=8", "run.votes=24", *SURE)
    with pytest.MonkeyPatch.context() as patch:  # the centre stays behind what is recommended
        patch.setattr(schema, "place", functools.partial(optimizer.place, centre_step=0.4))
        return run(folder, *sets)


@pytest.mark.full
def test_a_regression_measures_kl_where_it_recommends(tuned):
    with Ledger.open(tuned) as ledger:
        settings = recorded_settings(ledger)
        o = settings.section
        assert (o.rule, o.K, o.N) == ("regression", 8, 1)
        report = verification.verify(ledger)
        assert report.ok, str(report)
        noted = [read_step(ledger, step).inputs(ledger, settings) for step in range(3)]
        reaches = [each.reach for each in noted if each.reach is not None]
        assert reaches
        for one in reaches:
            assert 0 < one.readings[0].kl < 10 * one.readings[0].estimate  # of the same order
        assert theta_digest(ledger) != recommended_digest(ledger)


@pytest.mark.full
def test_what_a_regression_exports_and_shows_is_its_recommended_point(tuned, tmp_path, capsys):
    assert call(["export", str(tuned), "--anyway", "--out", str(tmp_path / "lora")]) == 0
    with Ledger.open(tuned) as ledger:
        looked_at = assemble.reopen(ledger, panel=False, say=lambda text: None)
        driven = assemble.reopen(ledger, say=lambda text: None)
        assert looked_at.policy.digest() == recommended_digest(ledger)
        assert driven.policy.digest() == theta_digest(ledger)
        recommended = looked_at.language.factors(replay.fold(ledger))
        digest, centre = recommended_digest(ledger), theta_digest(ledger)
    exported = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    written = np.sort(np.concatenate([value.ravel() for value in exported.values()]))
    wanted = np.sort(np.concatenate([value.ravel() for value in recommended.values()]))
    np.testing.assert_array_equal(written, wanted)
    assert digest in (tmp_path / "lora" / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert call(["show", str(tuned), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["theta_sha256"] == digest
    assert document["findings"]["taste_shown"] == (document["findings"]["odds"] >= 9)
    assert call(["show", str(tuned)]) == 0
    assert call(["report", str(tuned), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "regression" in page
    assert call(["verify", str(tuned), "--head", centre]) == 2
