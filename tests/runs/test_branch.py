"""A branch begins with the parent's weights after a step, bit for bit, and leaves it alone."""

import numpy as np
import pytest

from szpo import seeds
from szpo.cli.app import call
from szpo.errors import StorageError, UsageError
from szpo.ledger import run_spec
from szpo.ledger.database import Ledger
from szpo.ledger.theta import starting_theta, theta_digest, theta_digests
from szpo.replay import replay, verification
from szpo.runs import branch
from szpo.voting import steps
from tests.support import folder_run, voiding, yard_run
from tests.support.quadratic import WIDE, QuadraticPolicy, go, history, start


def rows(path, but=("events", "sqlite_sequence")):
    """Every row of a ledger's tables."""
    with Ledger.open(path, readonly=True) as ledger:
        names = [
            row["name"]
            for row in ledger.query("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {n: ledger.query(f"SELECT * FROM {n}") for n in names if n not in but}


def placed(settings, ledger):
    """The quadratic policy of a ledger's seed at its θ₀."""
    policy = QuadraticPolicy(settings)
    policy.theta_now = starting_theta(ledger)
    return policy


@pytest.mark.parametrize(
    ("layout", "changes"),
    [((("z", (4,)),), {}), (WIDE, {"rule": "sign", "alpha_decay": 0.5, "K": 2})],
    ids=["known", "sign"],
)
def test_a_branch_starts_with_the_parents_weights_bit_for_bit(tmp_path, layout, changes):
    settings, ledger, policy = start(tmp_path, layout=layout, **changes)
    go(settings, ledger, policy)
    before = rows(ledger.path)
    with branch.branch(ledger.path, 1, tmp_path / "two.db", by="op") as child:
        theta, wanted = starting_theta(child), replay.fold(ledger, 2)
        assert all(theta[name].tobytes() == wanted[name].tobytes() for name in wanted)
        assert theta_digests(child) == [theta_digests(ledger)[2]]
        assert (child.row["parent"], child.row["parent_step"]) == (ledger.run, 1)
        assert child.root_seed == seeds.branch_seed(ledger.root_seed, 1, "two")
        own = run_spec.recorded_settings(child)
        assert own.root_seed == child.root_seed
        assert go(own, child, placed(own, child), until_step=3).steps == 3
        report = verification.verify(child)
        assert report.ok, str(report)
        assert history(child)[0] != history(ledger)[2]  # its own seed, its own directions
    assert rows(ledger.path) == before
    (event,) = ledger.events("branch")
    assert event["body"] == {"after": 1, "run": child.run, "name": "two"}
    assert event["actor"] == "op" and verification.verify(ledger).ok
    assert go(settings, ledger, policy, until_step=6).steps == 6  # the parent goes on


def test_a_branch_of_a_branch_and_of_the_last_step(tmp_path):
    settings, ledger, policy = start(tmp_path)
    go(settings, ledger, policy, until_step=2)
    with branch.branch(ledger.path, 1, tmp_path / "two.db", by="op", seed=77) as child:
        assert child.root_seed == 77
        own = run_spec.recorded_settings(child)
        policy = placed(own, child)
        go(own, child, policy, until_step=1)
        with branch.branch(child.path, 0, tmp_path / "three.db", by="op") as grandchild:
            assert theta_digests(grandchild)[0] == policy.digest() == theta_digest(child)
            assert np.array_equal(starting_theta(grandchild)["z"], policy.theta()["z"])
            assert verification.verify(grandchild).ok


def test_people_vote_while_the_branch_is_written(tmp_path, monkeypatch):
    settings, ledger, policy = start(tmp_path)
    go(settings, ledger, policy, until_step=1)
    create, wrote = Ledger.create, []

    def slow(path, *rest, **named):
        ledger.execute("PRAGMA busy_timeout=0")
        ledger.record_event("note", "ann", {})  # a vote that comes at this moment
        wrote.append(path)
        return create(path, *rest, **named)

    monkeypatch.setattr(Ledger, "create", slow)
    branch.branch(ledger.path, 0, tmp_path / "two.db", by="op").close()
    assert wrote == [tmp_path / "two.db"] and len(list(ledger.events("branch"))) == 1


def test_a_branch_that_cannot_be_recorded_is_not_left_behind(tmp_path, monkeypatch):
    settings, ledger, policy = start(tmp_path)
    go(settings, ledger, policy, until_step=1)

    def full(self, kind, *rest):
        raise StorageError("the disk is full")

    monkeypatch.setattr(Ledger, "record_event", full)
    with pytest.raises(StorageError, match="full"):
        branch.branch(ledger.path, 0, tmp_path / "two.db", by="op")
    assert not (tmp_path / "two.db").exists()


def test_a_step_that_is_not_applied_is_one_clear_line(tmp_path):
    settings, ledger, policy = start(tmp_path)
    new = tmp_path / "two.db"
    with pytest.raises(UsageError, match="step 0 does not exist; no step is applied yet"):
        branch.branch(ledger.path, 0, new, by="op")
    go(settings, ledger, policy, until_step=2, lag=1)
    with pytest.raises(UsageError, match="step 2 is generating; the last applied is 1"):
        branch.branch(ledger.path, 2, new, by="op")
    with pytest.raises(UsageError, match="step -1 does not exist"):
        branch.branch(ledger.path, -1, new, by="op")
    with pytest.raises(UsageError, match="seed: -5 is out of range"):
        branch.branch(ledger.path, 1, new, by="op", seed=-5)
    assert not new.exists()
    new.write_text("mine")
    with pytest.raises(StorageError, match="exists"):
        branch.branch(ledger.path, 1, new, by="op")
    assert not list(ledger.events("branch")) and new.read_text() == "mine"


def test_steps_that_were_given_up_count_in_the_name_and_not_in_the_weights(tmp_path):
    settings, ledger, policy = start(tmp_path)
    go(settings, ledger, policy, until_step=1)
    ledger.execute("UPDATE controller SET epoch = epoch + 1")
    epoch = ledger.query("SELECT epoch FROM controller")[0]["epoch"]
    from szpo.optim import optimizer

    query = optimizer.ask(replay.replay_state(ledger, settings))
    steps.record_plan(ledger, epoch, settings, query, theta_digest(ledger))
    voiding.void(ledger, 1, "wrong prompts", "ann")
    go(settings, ledger, policy, until_step=3)
    with pytest.raises(UsageError, match="step 1 is void"):
        branch.branch(ledger.path, 1, tmp_path / "two.db", by="op")
    with branch.branch(ledger.path, 2, tmp_path / "two.db", by="op") as child:
        assert theta_digests(child)[0] == theta_digest(ledger)


@pytest.mark.spine
def test_the_command_line_branches_resumes_verifies_and_reports(tmp_path, capsys):
    path = yard_run.finished(tmp_path)
    folder = str(path.parent)
    assert call(["branch", "yard", "--step", "0", "--name", "yard-b", "--folder", folder]) == 0
    assert "begins after step 0 of yard" in capsys.readouterr().out
    new = path.with_name("yard-b.db")
    with Ledger.open(path, readonly=True) as parent, Ledger.open(new, readonly=True) as child:
        assert theta_digests(child) == [theta_digests(parent)[1]]
        first = theta_digests(parent)
    assert call(["run", "--resume", str(new)]) == 0
    assert "of 24 votes spent" in capsys.readouterr().out
    for command in ("verify", "replay", "show", "report"):
        assert call([command, str(new)]) == 0, command
    with Ledger.open(path, readonly=True) as parent:
        assert theta_digests(parent) == first
    assert call(["verify", str(path)]) == 0
    capsys.readouterr()
    assert call(["branch", str(path), "--step", "9"]) == 2
    assert capsys.readouterr().err.strip() == (
        "error: yard.db: step 9 does not exist; the last applied is 2"
    )
    assert call(["branch", str(path), "--step", "0", "--name", "Bad Name"]) == 2
    assert '"Bad Name" is not a valid run name' in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.parametrize("kind", ["score", "full"])
def test_a_language_models_branch_exports_what_the_parent_had_then(tmp_path, kind):
    path = folder_run.make(
        tmp_path,
        f"subspace.kind={kind}",
        "optimizer.rule=known",
        "optimizer.warmup=0",
        "optimizer.alpha=0.1",
    )
    new = path.with_name("two.db")
    branch.branch(path, 0, new, by="op").close()
    adapters = []
    for ledger, extra in ((path, ["--step", "1"]), (new, [])):
        out = tmp_path / f"{ledger.stem}-adapter"
        assert call(["export", str(ledger), "--anyway", "--out", str(out), *extra]) == 0
        adapters.append((out / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]
    assert call(["run", "--resume", str(new)]) == 0
    with Ledger.open(new, readonly=True) as child:
        assert child.last_applied() == 1 and theta_digests(child)[2] != theta_digests(child)[0]
    for command in ("verify", "report", "sample"):
        assert call([command, str(new)]) == 0
    out = tmp_path / "tuned"
    assert call(["export", str(new), "--anyway", "--out", str(out)]) == 0
    assert (out / "adapter_model.safetensors").read_bytes() != adapters[0]
    assert "| begun with | run `" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "rule", "warmup"),
    [
        ({}, "sign", 0),
        ({"weighting": "rationality", "M": 2}, "sign", 0),
        ({"rule": "sign"}, "known", 0),
    ],
)
def test_a_branch_goes_on_by_another_rule(tmp_path, changes, rule, warmup):
    """From the inverted link to a rule that needs none; the warm-up is that of a new run."""
    settings, ledger, policy = start(tmp_path, **changes)
    go(settings, ledger, policy, until_step=2)
    with branch.branch(ledger.path, 1, tmp_path / "two.db", by="op", rule=rule) as child:
        own = run_spec.recorded_settings(child)
        assert (own.rule, own.warmup) == (rule, warmup)
        assert own.weighting == settings.weighting
        assert theta_digests(child) == [theta_digests(ledger)[2]]
        go(own, child, placed(own, child), until_step=2)
        assert verification.verify(child).ok


def test_a_rule_that_does_not_fit_leaves_no_file(tmp_path):
    settings, ledger, policy = start(tmp_path, rule="sign", K=2, layout=WIDE)
    go(settings, ledger, policy, until_step=1)
    for rule, words in (("loud", "choose known, sign"), ("regression", "one tensor")):
        with pytest.raises(UsageError, match=words):
            branch.branch(ledger.path, 0, tmp_path / "two.db", by="op", rule=rule)
    assert not (tmp_path / "two.db").exists() and not list(ledger.events("branch"))
