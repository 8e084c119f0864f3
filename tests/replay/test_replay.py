import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from szpo import seeds
from szpo.errors import IntegrityError, SzpoError, UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digest
from szpo.optim import parameters as optim_parameters
from szpo.replay import replay, verification
from szpo.voting import counting
from szpo.voting.recorded_step import read_step
from szpo.voting.service import VoteService
from tests.support import named_run
from tests.support.named_run import MarkedPolicy
from tests.support.quadratic import (
    LAYOUT,
    WIDE,
    ValueJudge,
    drive,
    go,
    history,
    kl,
    new_ledger,
    panel_of,
    settings_of,
    start,
    started,
)
from tests.support.tampering import APPEND_ONLY, forge, small_run

LEDGERS = Path(__file__).parents[1] / "ledgers"


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        (LAYOUT, {}),
        (LAYOUT, {"rule": "sign", "M": 3, "pairing": "forward"}),
        (WIDE, {"rule": "known", "K": 2, "warmup": 2, "horizon": 9.0}),
        (LAYOUT, {"rule": "known", "horizon": 2.0, "narrows": True, "K": 3}),
    ],
)
def test_the_fold_is_what_the_policy_holds(tmp_path, layout, changes):
    settings, ledger, policy = start(tmp_path, layout=layout, **changes)
    seen = []
    with ledger:
        go(settings, ledger, policy, until_step=5, on_step=lambda _: seen.append(policy.digest()))
        assert [h[2] for h in history(ledger)] == seen
        for until, digest in enumerate(seen, start=1):
            assert digest_of(ledger, replay.fold(ledger, until)) == digest
        report = verification.verify(ledger)
        assert report.ok, str(report)
        assert {c.promise for c in report.steps} == {"exact"}
        assert len(report.lines) == 5 and "verified" in str(report)
        with pytest.raises(UsageError, match="5 steps are applied, not 6; give fewer"):
            replay.fold(ledger, 6)


KINDS = {
    "known": (start, go, {"rule": "known", "warmup": 2, "N": 4, "M": 3}),
    "sign": (start, go, {"rule": "sign", "pairing": "forward", "N": 4}),
    "measured": (started, drive, {"kl_budget": 2.0}),
    "voters who weigh": (started, drive, {"weighting": "skill"}),
}


@pytest.fixture(params=[*KINDS, "named features"])
def voted_run(request, tmp_path):
    """A run of five panelists with a vote excluded."""
    if request.param == "named features":
        settings, ledger = named_run.start(tmp_path)
        step = functools.partial(named_run.drive, settings, ledger, MarkedPolicy(settings))
    else:
        begin, go_on, changes = KINDS[request.param]
        settings, ledger, policy = begin(tmp_path, **changes)
        step = functools.partial(go_on, settings, ledger, policy, measured_kl=kl)
    with ledger:
        step(until_step=2)
        VoteService(ledger).amend(1, "exclude", "too late to change anything", "op")
        step(until_step=4)
        yield ledger


def digest_of(ledger, theta):
    return optim_parameters.digest(theta, ledger.layout, ledger.basis_sha256)


def test_the_votes_of_all_panelists_give_the_point_of_the_run(voted_run):
    voters = [row["panelist"] for row in voted_run.query("SELECT panelist FROM panelists")]
    theta, votes = replay.fold_votes(voted_run, voters)
    assert digest_of(voted_run, theta) == digest_of(voted_run, replay.fold(voted_run))
    counted = [counting.counted(voted_run, step) for step in range(4)]
    assert votes == sum(map(len, counted))
    some = voters[:1]
    other, fewer = replay.fold_votes(voted_run, some)
    assert fewer == sum(v.panelist in some for votes in counted for v in votes) < votes
    assert digest_of(voted_run, other) != digest_of(voted_run, theta)
    nothing, none = replay.fold_votes(voted_run, ())
    assert none == 0 and not nothing["z"].any()


def test_what_was_measured_for_all_is_not_taken_for_somebody_who_voted_alone_later(tmp_path):
    """Her own point is another one, also in rounds of which all votes are hers."""
    settings, ledger, policy = started(tmp_path, kl_budget=2.0)
    with ledger:
        drive(settings, ledger, policy, measured_kl=kl, until_step=1)
        alone = panel_of(ledger, 1, ValueJudge(20.0))
        go(settings, ledger, policy, alone, measured_kl=kl, until_step=3)
        noted = [read_step(ledger, step).inputs(ledger, settings).reach for step in range(3)]
        assert any(noted[1:])
        (her,) = {vote.panelist for vote in counting.counted(ledger, 2)}
        for state, _ in replay.retell(ledger, settings, {her}):
            assert state.carried.reach is None and state.carried.kl_scale == 1


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_replay_is_the_same_at_any_number_of_threads(threads):
    code = (
        "import sys; from szpo.replay import replay, verification; "
        "from szpo.ledger.database import Ledger; "
        "ledger = Ledger.open(sys.argv[1], readonly=True); replay.fold(ledger); "
        "report = verification.verify(ledger); print(report); sys.exit(not report.ok)"
    )
    env = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "PYTHONHASHSEED": str(threads),
        "TZ": "Asia/Tokyo",
    }
    subprocess.run([sys.executable, "-c", code, str(LEDGERS / "known.db")], check=True, env=env)


@pytest.mark.parametrize("path", sorted(LEDGERS.glob("*.db")), ids=lambda path: path.name)
def test_recorded_ledgers_still_verify(path, tmp_path):
    copy = tmp_path / path.name  # a reader of a WAL file makes files beside it
    copy.write_bytes(path.read_bytes())
    with Ledger.open(copy, readonly=True) as ledger:
        report = verification.verify(ledger)
        assert report.ok, str(report)
        expected = json.loads((LEDGERS / f"{path.stem}.json").read_text())
        assert [list(h) for h in history(ledger)] == expected["history"]
        assert theta_digest(ledger) == expected["head"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "run.db"
    with small_run(path) as ledger:
        assert verification.verify(ledger).ok
        for table in APPEND_ONLY:
            assert ledger.query(f"SELECT 1 FROM {table}"), table
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


def test_a_fold_that_is_not_the_recorded_weights_is_refused(original, tmp_path):
    path = tmp_path / "run.db"
    path.write_bytes(original)
    forge(path, "UPDATE updates SET theta_sha256 = ?", ("f" * 64,))
    with Ledger.open(path) as ledger, pytest.raises(IntegrityError, match="recorded ffffffffffff"):
        replay.fold(ledger)


def test_quick_verification_says_what_it_left_out(original, tmp_path):
    path = tmp_path / "run.db"
    path.write_bytes(original)
    with Ledger.open(path) as ledger:
        report = verification.verify(ledger, deep=False)
    assert report.ok and {c.promise for c in report.steps} == {"not recomputed"}


@pytest.mark.spine
def test_a_damaged_page_is_never_taken_for_a_sound_run(original, tmp_path):
    """Flip one byte at many places: an error in words, or a report; the same rows if it is ok."""
    path = tmp_path / "run.db"
    draws = seeds.bits(seeds.derive(1, "damage"), 60)
    found = 0
    for draw in draws:
        place = int(draw) % len(original)
        damaged = bytearray(original)
        damaged[place] ^= 1 << (int(draw) >> 60) % 8
        for rest in tmp_path.glob("run.db*"):
            rest.unlink()
        path.write_bytes(bytes(damaged))
        try:
            with Ledger.open(path) as ledger:
                report = verification.verify(ledger)
                digest = theta_digest(ledger)
        except SzpoError as error:
            assert error.exit_code in (2, 4, 5)  # 2: the byte of the schema's version
            found += 1
            continue
        found += not report.ok
        if report.ok:  # the byte was in unused space, or outside what the chain covers
            path.write_bytes(original)
            with Ledger.open(path) as ledger:
                assert theta_digest(ledger) == digest
    assert found > 8  # most of so small a file is unused space


def test_the_wal_of_another_file_is_an_integrity_error(original, tmp_path):
    path, other = tmp_path / "run.db", tmp_path / "other.db"
    path.write_bytes(original)
    with new_ledger(other, settings_of()) as ledger:
        ledger.record_event("note", "test", {})
        wal = other.with_name("other.db-wal").read_bytes()
    assert wal
    path.with_name("run.db-wal").write_bytes(wal)
    with pytest.raises(IntegrityError, match="damaged") as caught:
        Ledger.open(path)
    assert caught.value.exit_code == 5
