import os
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from szpo import files
from szpo.errors import IntegrityError, LeaseError, RunError, StorageError, UsageError
from szpo.ledger import canonical, connection
from szpo.ledger.creation import NewRun
from szpo.ledger.database import Ledger
from szpo.ledger.theta import starting_theta, stored_tensors, theta_digest
from szpo.optim import parameters as optim_parameters
from szpo.types import Answer, Prompt, Query, Row
from szpo.voting import lease, step_states
from tests.support.quadratic import LAYOUT, new_ledger, settings_of
from tests.support.tampering import APPEND_ONLY, small_run


@pytest.fixture
def run(tmp_path):
    with new_ledger(tmp_path / "run.db", settings_of()) as found:
        yield found


def plan_step(run, step=0, epoch=None):
    if epoch is None:
        epoch = lease.acquire(run, "test").epoch
    step_states.record_plan(
        run, epoch, settings_of(), Query(step, (), 0.5, None), theta_digest(run)
    )
    return epoch


def test_what_was_created_is_read_back(tmp_path):
    start = np.arange(4, dtype=np.float32)
    basis = np.ones((3, 4), np.float64)
    made = Ledger.create(
        tmp_path / "a.db",
        NewRun(
            {"x": {"b": 1}},
            root_seed=2**63 - 1,
            layout=LAYOUT,
            basis_sha256="b" * 64,
            tensors={"theta0/z": start, "basis/layer": basis},
        ),
    )
    made.close()
    with Ledger.open(tmp_path / "a.db", readonly=True) as found:
        assert found.root_seed == 2**63 - 1 and found.layout == LAYOUT
        assert found.spec["x"] == {"b": 1}
        assert starting_theta(found)["z"].tolist() == [0, 1, 2, 3]
        assert stored_tensors(found)["basis/layer"].tolist() == basis.tolist()
        assert theta_digest(found) == optim_parameters.digest({"z": start}, LAYOUT, "b" * 64)


def test_the_file_is_private_and_synced_in_full(tmp_path, monkeypatch, syncing):
    monkeypatch.setattr(connection, "_PRAGMAS", syncing)
    with new_ledger(tmp_path / "run.db", settings_of()) as run:
        assert run.path.stat().st_mode & 0o777 == 0o600
        assert run.query("PRAGMA synchronous")[0]["synchronous"] == 2
        assert run.query("PRAGMA journal_mode")[0]["journal_mode"] == "wal"
        assert run.query("PRAGMA foreign_keys")[0]["foreign_keys"] == 1
        assert run.query("PRAGMA recursive_triggers")[0]["recursive_triggers"] == 1


def test_tables_are_strict_and_a_row_belongs_to_one_that_exists(run):
    for row in run.query("PRAGMA table_list"):
        if (row["schema"], row["type"]) == ("main", "table") and "sqlite_" not in row["name"]:
            assert row["strict"], row["name"]
    with pytest.raises(IntegrityError), run.transaction():
        row = {"vote": 1, "action": "exclude", "reason": "x", "actor": "a", "at_us": 1}
        run.append("amendments", row)


def test_an_existing_file_is_never_overwritten(run):
    with pytest.raises(StorageError, match="already exists"):
        new_ledger(run.path, settings_of())
    assert not list(run.path.parent.glob(".*"))


def test_a_file_system_without_hard_links_serves_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with new_ledger(tmp_path / "run.db", settings_of()) as found:
        assert found.run == "run-1"
    assert found.path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(StorageError, match="already exists"):
        new_ledger(tmp_path / "run.db", settings_of())
    draft = tmp_path / "draft"
    draft.write_bytes(b"new")
    with pytest.raises(FileExistsError):  # somebody was faster, after the first look
        files.publish(draft, tmp_path / "run.db")
    Ledger.open(tmp_path / "run.db").close()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("value", [object(), float("nan")])
def test_a_spec_that_is_not_json_leaves_no_file(tmp_path, value):
    with pytest.raises(UsageError, match="plain JSON"):
        Ledger.create(tmp_path / "a.db", NewRun({"x": value}, root_seed=1, layout=LAYOUT))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("version", [0, -5])
def test_a_schema_that_never_was_is_damage(run, version):
    run.execute(f"PRAGMA user_version={version}")
    run.close()
    with pytest.raises(IntegrityError, match=f"schema {version}, which no szpo wrote"):
        Ledger.open(run.path)


def test_missing_places_are_storage_errors(tmp_path):
    with pytest.raises(StorageError, match="no such ledger"):
        Ledger.open(tmp_path / "none.db")
    with pytest.raises(StorageError, match="not a folder"):
        new_ledger(tmp_path / "none" / "a.db", settings_of())


def test_a_forked_process_must_open_its_own(run):
    run._pid += 1
    with pytest.raises(UsageError, match="open it again in the child"):
        theta_digest(run)
    run._pid -= 1


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_append_only_tables_refuse_update_delete_and_replace(tmp_path, table):
    with small_run(tmp_path / "full.db") as run:
        if not run.query(f"SELECT 1 FROM {table} LIMIT 1"):
            pytest.fail(f"the small run has no row in {table}")
        found = run.query(f"SELECT name FROM pragma_table_info('{table}')")
        columns = [each["name"] for each in found]
        guarded = canonical.CHAINED.get(table, tuple(columns))
        with pytest.raises(IntegrityError):
            run.execute(f"DELETE FROM {table}")
        for column in guarded:
            with pytest.raises(IntegrityError):
                run.execute(f"UPDATE {table} SET {column} = {column}")
        with pytest.raises(IntegrityError):
            run.execute(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}")


def test_a_failed_transaction_leaves_nothing(run):
    before = run.query("SELECT count(*) AS n FROM events")
    with pytest.raises(ValueError), run.transaction():
        run.record_event("note", "test", {"x": 1})
        with run.transaction():
            run.append("tensors", tensor("a"))
        raise ValueError
    assert run.query("SELECT count(*) AS n FROM events") == before
    assert stored_tensors(run) == {}


def tensor(name):
    plain = {"dtype": "<f4", "shape": "[0]", "bytes": b""}
    return {"sha256": canonical.sha256(b"x"), "name": name, **plain}


def test_append_needs_a_transaction_finite_numbers_and_marks_what_utf8_cannot_hold(run):
    with pytest.raises(UsageError, match="open a transaction"):
        run.append("tensors", tensor("a"))
    with pytest.raises(RunError, match=r"updates\.coef is nan"), run.transaction():
        run.append("updates", {"coef": float("nan")})
    assert str(canonical.plain_value("updates", "coef", -0.0)) == "0.0"
    with run.transaction():
        run.append("tensors", tensor("half \ud800 pair"))
    assert list(stored_tensors(run)) == ["half ? pair"]
    with pytest.raises(UsageError):
        run.record_event("rows", "test", {})
        run.record_event("rows", "test", {})


def test_a_step_only_goes_forward(run):
    epoch = plan_step(run)
    for state in ("open", "applied"):
        with pytest.raises(IntegrityError, match="only goes forward"):
            step_states._move(run, epoch, 0, state)
    step_states.begin(run, epoch, 0, n=3)
    step_states.begin(run, epoch, 0, n=4)  # again, after a crash
    assert run.step(0)["n"] == 3
    step_states.open_step(run, epoch, 0)
    with pytest.raises(IntegrityError, match="only goes forward"):
        step_states.begin(run, epoch, 0)
    with pytest.raises(IntegrityError, match="plan of a step is fixed"):
        run.execute("UPDATE steps SET mu = 3")
    with pytest.raises(IntegrityError, match="size of a step is fixed"):
        run.execute("UPDATE steps SET n = 4")
    assert step_states.close(run, 0, "deadline", epoch=epoch)
    with pytest.raises(IntegrityError, match="stays as it was closed"):
        run.execute("UPDATE steps SET last_vote = 9")
    with pytest.raises(IntegrityError):
        run.execute("DELETE FROM steps")


def test_steps_leave_no_gap_and_take_answers_of_their_own_weights_alone(run):
    epoch = plan_step(run)
    with pytest.raises(IntegrityError, match="no gap"):
        plan_step(run, 2, epoch)
    with pytest.raises(IntegrityError, match="UNIQUE"):
        plan_step(run, 1, epoch)
    step_states.begin(run, epoch, 0)
    with pytest.raises(IntegrityError, match="planned from"):
        step_states.store(run, epoch, 0, (), "f" * 64, then_open=True)


def test_a_lease_runs_out_and_the_old_holder_is_fenced(run):
    old = lease.acquire(run, "one:1:a", ttl_us=60_000_000)
    plan_step(run, 0, old.epoch)
    run.clock.now += 61_000_000
    new = lease.acquire(run, "two:1:b")
    for act in (
        lambda: lease.renew(run, old),
        lambda: step_states.begin(run, old.epoch, 0),
        lambda: plan_step(run, 1, old.epoch),
    ):
        with pytest.raises(LeaseError, match="taken this run over"):
            act()
    lease.release(run, old)  # must not take the run from its new holder
    assert lease.controller(run)["lease"] == "two:1:b"
    step_states.begin(run, new.epoch, 0)


def test_a_renewed_lease_holds_for_its_whole_length_again(run):
    held = lease.acquire(run, "one:1:a", ttl_us=60_000_000)
    run.clock.now += 50_000_000
    lease.renew(run, held)
    run.clock.now += 50_000_000
    with pytest.raises(LeaseError, match="driven by one:1:a"):
        lease.acquire(run, "two:1:b")
    run.clock.now += 11_000_000
    lease.acquire(run, "two:1:b")


@pytest.mark.parametrize("space", [":0123abcd", ":", ""])
def test_a_process_of_another_container_is_not_taken_for_dead(run, space):
    """The same host name, and a process id that means nothing here; or a name of before."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    host = lease.holder_name().split(":")[0]
    other = f"{host}:{child.pid}:x{space}"
    lease.acquire(run, other)
    with pytest.raises(LeaseError, match=f"driven by {other}, whose lease lasts 60 s"):
        lease.acquire(run)
    run.clock.now += 60_000_001
    lease.acquire(run)  # its lease ran out


@pytest.mark.skipif(os.name != "posix", reason="elsewhere an open file keeps its name")
def test_a_run_is_read_where_no_file_can_be_written_beside_it_unless_it_has_a_log(run, tmp_path):
    """A run read without its log would lack its newest votes."""
    run.record_event("note", "test", {})
    logged, path = tmp_path / "logged.db", tmp_path / "copy.db"
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{run.path}{suffix}", f"{logged}{suffix}")
    run.close()
    shutil.copyfile(run.path, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(StorageError, match="nothing was stored"):
            Ledger.open(logged, readonly=True)
        with Ledger.open(path, readonly=True) as ledger:
            assert ledger.run == run.run
        path.with_name("copy.db-wal").touch()  # an empty log holds nothing
        with Ledger.open(path, readonly=True) as ledger:
            assert ledger.run == run.run
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_hash_of_a_comparison_covers_each_part_of_its_rows():
    row = Row(Prompt.user("?"), Answer("yes"), Answer("no"))
    others = (
        replace(row, prompt=Prompt.user("!")),
        *(replace(row, **{side: Answer("other")}) for side in ("plus", "minus")),
        replace(row, plus=Answer("yes", "length")),
        replace(row, minus=Answer("no", "length")),
        replace(row, plus=row.minus, minus=row.plus),
    )
    assert len({canonical.rows_sha256([each]) for each in (row, *others)}) == 7


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="needs two users")
def test_a_file_that_another_user_may_not_read_is_said_to_be_so():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.db")
        new_ledger(path, settings_of()).close()
        path.chmod(0o600)
        Path(folder).chmod(0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(StorageError, match="you have no right to read it"):
                Ledger.open(path, readonly=True)
        finally:
            os.seteuid(0)
