"""What verification reads beyond the chain: the table steps, the header, what the seed gives."""

import contextlib
import itertools
import sqlite3
import tracemalloc

import numpy as np
import pytest

from szpo.cli.app import call
from szpo.errors import SzpoError
from szpo.ledger import canonical
from szpo.ledger.database import Ledger
from szpo.optim import parameters as optim_parameters
from szpo.optim.schedule import mu_at
from szpo.replay import verification
from szpo.voting import step_states
from szpo.voting.counting import StepVotes
from szpo.voting.service import VoteService
from tests.support.cases import case
from tests.support.quadratic import QuadraticPolicy, go, new_ledger, panel_of, settings_of, start
from tests.support.tampering import CHANGES, change_event, failure_of, forge, refit, rewrite


def drive(ledger, settings, until=3, **how):
    policy = QuadraticPolicy(settings, ledger.basis_sha256)
    return go(settings, ledger, policy, until_step=until, **how)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Three steps that were closed by the rule."""
    path = tmp_path_factory.mktemp("original") / "run.db"
    settings = settings_of(N=2, rule="sign")
    with new_ledger(path, settings) as ledger:
        drive(ledger, settings)
        assert verification.verify(ledger).ok
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


@pytest.fixture
def path(original, tmp_path):
    """A copy of that run."""
    copy = tmp_path / "run.db"
    copy.write_bytes(original)
    return copy


@pytest.mark.spine
def test_one_changed_value_in_any_column_of_steps_is_found(original, path):
    for (column, value), step in itertools.product(CHANGES.items(), (0, 1, 2)):
        with case(column, step):
            path.write_bytes(original)
            assert forge(path, f"UPDATE steps SET {column} = {value} WHERE step = {step}") == 1
            failure = failure_of(path)
            assert failure is not None and failure.table in ("steps", "votes"), str(failure)


@pytest.mark.parametrize(("step", "state"), [(0, "closed"), (1, "closed"), (2, "open")])
def test_a_changed_state_is_found(path, step, state):
    assert forge(path, f"UPDATE steps SET state = '{state}' WHERE step = {step}") == 1
    failure = failure_of(path)
    assert (failure.table, failure.row) == ("steps", str(step))


WHO = ("operator", "deadline", "auto", "rule")


@pytest.mark.parametrize("by", WHO)
def test_who_closed_a_step_is_known_by_an_event_alone(tmp_path, by):
    path = tmp_path / "run.db"
    settings = settings_of(N=2, rule="sign")
    with new_ledger(path, settings) as ledger:
        policy = QuadraticPolicy(settings)
        policy.dead = by == "auto"

        class Closing:
            service = panel_of(ledger)

            def submit(self, comparisons):
                if by in ("operator", "deadline"):
                    step_states.close(ledger, 0, by, reason="a test", actor="ann")
                else:
                    self.service.submit(comparisons)

            def poll(self, step):
                self.service.poll(step)

        go(settings, ledger, policy, Closing(), until_step=1)
        assert ledger.step(0)["closed_by"] == by
        report = verification.verify(ledger)
        assert report.ok, str(report)
    for other in {*WHO} - {by}:
        forge(path, f"UPDATE steps SET closed_by = '{other}'")
        failure = failure_of(path, deep=False)
        assert failure is not None and failure.table == "steps", other


@pytest.mark.full
def test_a_lagging_run_whose_radius_falls_verifies_and_its_radii_are_checked(tmp_path):
    path = tmp_path / "run.db"
    settings = settings_of(N=2, D=1, rule="sign", horizon=9.0, narrows=True)
    with new_ledger(path, settings) as ledger:
        drive(ledger, settings, until=4, lag=1)
        radii = [row["mu"] for row in ledger.steps()]
        assert radii[:4] == [mu_at(settings, step) for step in range(4)]
        assert radii[1] < radii[0]
        report = verification.verify(ledger)
        assert report.ok, str(report)
    for step, value in ((1, radii[2]), (2, radii[1])):
        forge(path, "UPDATE steps SET mu = ? WHERE step = ?", (value, step))
        failure = failure_of(path)
        assert (failure.table, failure.row) == ("steps", str(step))
        forge(path, "UPDATE steps SET mu = ? WHERE step = ?", (radii[step], step))
    assert failure_of(path) is None
    forge(path, "UPDATE steps SET mu = ? WHERE step = 1", (radii[2],))
    refit(path)  # with its event and all hashes
    assert failure_of(path).problem == f"mu is {radii[2]}, the run gives {radii[1]}"


def test_epochs_of_updates_only_grow(tmp_path):
    path = tmp_path / "run.db"
    settings = settings_of(N=2, rule="sign")
    with new_ledger(path, settings) as ledger:
        drive(ledger, settings, until=1)
        drive(ledger, settings, until=2)  # another controller: epoch 2
        rows = ledger.update_rows()
        assert [row["epoch"] for row in rows] == [1, 2]
    prev = rows[0]["prev_sha256"]
    for row, epoch in zip(rows, (2, 1), strict=True):
        row |= {"epoch": epoch, "prev_sha256": prev}
        prev = row["row_sha256"] = canonical.update_sha256(row)
        forge(
            path,
            "UPDATE updates SET epoch = ?, prev_sha256 = ?, row_sha256 = ? WHERE step = ?",
            (epoch, row["prev_sha256"], prev, row["step"]),
        )
        forge(path, "UPDATE steps SET epoch = ? WHERE step = ?", (epoch, row["step"]))
    refit(path)
    failure = failure_of(path)
    assert failure.table == "updates" and "epoch 1 comes after epoch 2" in failure.problem


@pytest.mark.parametrize("rule", ["sign", "known"])
def test_n_votes_is_counted_again(tmp_path, rule):
    path = tmp_path / "run.db"
    settings = settings_of(N=2, rule=rule)
    with new_ledger(path, settings) as ledger:
        drive(ledger, settings, until=1)
        (row,) = ledger.update_rows()
    row["n_votes"] += 1
    digest = canonical.update_sha256(row)
    forge(path, "UPDATE updates SET n_votes = ?, row_sha256 = ?", (row["n_votes"], digest))
    rewrite(path)
    failure = failure_of(path)
    assert failure.table == "updates" and "n_votes is 3.0, the votes give 2.0" in failure.problem


@pytest.mark.parametrize("case", ["right", "wrong", "missing", "unnamed"])
def test_the_basis_is_hashed_again(tmp_path, case):
    basis = {"layer.a": np.arange(12, dtype=np.float32).reshape(3, 4)}
    stored = {f"basis/{name}": value for name, value in basis.items()}
    digest = optim_parameters.basis_sha256(basis)
    if case == "wrong":
        stored["basis/layer.a"] = stored["basis/layer.a"] + np.float32(1)
    elif case == "missing":
        stored = {}
    elif case == "unnamed":
        digest = None
    settings = settings_of(N=2, rule="sign")
    given = {"basis_sha256": digest, "tensors": stored}
    with new_ledger(tmp_path / "run.db", settings, **given) as ledger:
        drive(ledger, settings, until=1)
        report = verification.verify(ledger, deep=False)
    assert report.ok == (case == "right")
    if case != "right":
        assert report.failure.table == "runs" and "basis_sha256" in report.failure.problem


@pytest.mark.parametrize(
    ("change", "words"),
    [("dtype = '<f8'", "shape and dtype"), ("shape = '[3,5]'", "shape and"),
     ("bytes = zeroblob(17)", "not the hash of the bytes")],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_its_bytes_is_found(tmp_path, change, words):
    path = tmp_path / "run.db"
    basis = {"layer.a": np.ones((3, 4), np.float32)}
    settings, digest = settings_of(N=2, rule="sign"), optim_parameters.basis_sha256(basis)
    stored = {"basis/layer.a": basis["layer.a"]}
    with new_ledger(path, settings, basis_sha256=digest, tensors=stored) as ledger:
        drive(ledger, settings, until=1)
    forge(path, f"UPDATE tensors SET {change}")
    rewrite(path)
    failure = failure_of(path)
    assert failure.table == "tensors" and words in failure.problem


def test_a_row_recorded_a_second_time_is_found(path):
    """A later event of sound form must not bless a changed row."""
    forge(path, "UPDATE votes SET choice = 'tie' WHERE vote = 1")
    with Ledger.open(path) as ledger:
        row = ledger.query("SELECT * FROM votes WHERE vote = 1")[0]
        with ledger.transaction():
            ledger._pending.append(["votes", "1", canonical.row_sha256("votes", row)])
        failure = verification.verify(ledger).failure
    assert (failure.table, failure.row) == ("votes", "1")
    assert "recorded again" in failure.problem


@pytest.mark.parametrize(
    ("sql", "table"),
    [
        ("UPDATE panelists SET kind = 'person' WHERE pseudonym = 'panel-1'", "panelists"),
        ("UPDATE panelists SET kind = 'judge' WHERE pseudonym = 'panel-1'", "panelists"),
        ("UPDATE panelists SET pseudonym = 'ann' WHERE pseudonym = 'panel-1'", "panelists"),
        ("UPDATE assignments SET prompt_order = CASE prompt_order WHEN '[0,1]' THEN '[1,0]' "
         "ELSE '[0,1]' END", "assignments"),
        ("UPDATE votes SET dwell_ms = 5 WHERE vote = 1", "votes"),
        ("UPDATE votes SET payload_sha256 = 'f' || substr(payload_sha256, 2)", "votes"),
        ("UPDATE assignments SET plus_side = CASE plus_side WHEN 'A' THEN 'B' ELSE 'A' END",
         "steps"),
        ("UPDATE votes SET late = 1 WHERE vote = 2", "votes"),
        ("UPDATE answers SET plus = plus || '!' WHERE i = 0", "comparisons"),
        ("UPDATE comparisons SET identical = 1", "comparisons"),
        ("UPDATE votes SET revision = 3 WHERE vote = 2", "votes"),
        ("UPDATE updates SET estimate = estimate + 0.25", "updates"),
        ("UPDATE updates SET coef = -coef", "updates"),
        ("UPDATE steps SET mu = 1.5 * mu", "steps"),
        ("UPDATE runs SET layout_sha256 = spec_sha256", "runs"),
    ],
)  # fmt: skip
def test_a_forger_who_fits_the_hashes_is_found_by_the_meaning(path, sql, table):
    assert forge(path, sql)
    rewrite(path)
    failure = failure_of(path)
    assert failure is not None and failure.table == table, str(failure)


@pytest.mark.parametrize(
    ("name", "table", "words"),
    [
        ("votes", "events", "votes"),
        ("total_votes", "events", "total_votes"),
        ("votes_sha256", "events", "votes_sha256"),
        ("theta_sha256", "events", "theta_sha256"),
        ("votes_sha256", "updates", "counted votes"),
        ("theta_sha256", "updates", "not what the updates add up to"),
    ],
)
def test_the_event_of_a_step_and_an_update_that_agrees_are_checked(path, name, table, words):
    wrong = 3 if name.endswith("votes") else "f" * 64
    change_event(path, "step", 0, lambda body: body.update({name: wrong}))
    if table == "updates":
        forge(path, f"UPDATE updates SET {name} = ? WHERE step = 0", (wrong,))
    rewrite(path)
    failure = failure_of(path)
    assert failure.table == table and words in failure.problem


@pytest.mark.parametrize(
    "name",
    [
        "alpha", "capped", "delta.0", "extra.alpha", "length", "moved", "norm", "stderr.0",
        "warmup",
    ],
)  # fmt: skip
def test_a_changed_figure_of_a_step_is_named(path, name):
    *inside, last = (int(part) if part.isdigit() else part for part in name.split("."))

    def change(body):
        for part in inside:
            body = body[part]
        body[last] = not body[last] if type(body[last]) is bool else body[last] * 1.001

    change_event(path, "step", 1, change)
    rewrite(path)
    failure = failure_of(path)
    assert str(failure).startswith(f"events row step 1: {name} is not what"), str(failure)


@pytest.mark.parametrize("column", ["prev_sha256", "row_sha256"])
def test_updates_are_a_chain_of_their_own(path, column):
    forge(path, f"UPDATE updates SET {column} = ? WHERE step = 2", ("f" * 64,))
    rewrite(path, chained=False)
    failure = failure_of(path)
    assert failure.table == "updates" and "chain of updates" in failure.problem


@pytest.mark.parametrize("command", ["verify", "export --votes votes.jsonl", "report", "show"])
def test_what_is_written_meanwhile_is_no_fault(path, tmp_path, monkeypatch, capsys, command):
    """At each look of a reader at the file somebody new comes and votes, late."""
    monkeypatch.chdir(tmp_path)
    plain, looks = Ledger.query, itertools.count()
    with Ledger.open(path) as writer:
        service = VoteService(writer)

        def query(self, sql, parameters=()):
            found = plain(self, sql, parameters)
            if self.readonly:
                name = f"P-{next(looks)}"
                new = service.enroll("person", name)
                with writer.transaction():
                    seat = service.make_seat(writer.comparisons(0)[0].id, "A", new, None)
                key = f"key-of-{name:>12}".replace(" ", "0")
                service.cast(seat.id, "A", idem=key)
            return found

        monkeypatch.setattr(Ledger, "query", query)
        first, *rest = command.split()
        assert call([first, str(path), *rest]) == 0, capsys.readouterr().err
    assert next(looks) > 3


@pytest.fixture
def waiting(tmp_path):
    """An open step of which every vote is cast: it is about to be closed by its rule."""
    settings = settings_of(N=2, rule="sign")
    path = tmp_path / "run.db"
    with new_ledger(path, settings) as ledger:
        cast = step_states.close

        def leave(*given, **more):
            raise KeyboardInterrupt

        step_states.close = leave
        try:
            with pytest.raises(KeyboardInterrupt):
                drive(ledger, settings, until=1)
        finally:
            step_states.close = cast
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def flips(path, name):
    """Turn one bit of an index on disk at a time, in leaf pages."""
    whole = path.read_bytes()
    with contextlib.closing(sqlite3.connect(path)) as look:
        size = look.execute("PRAGMA page_size").fetchone()[0]
        leaves = look.execute(
            "SELECT pageno FROM dbstat JOIN sqlite_master USING (name) WHERE type = 'index' "
            "AND name = ? AND pagetype = 'leaf'", (name,),
        ).fetchall()  # fmt: skip
    for (page,) in leaves:
        first = (page - 1) * size
        begin = int.from_bytes(whole[first + 5 : first + 7], "big")
        for at in range(first + begin, first + size):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            yield
    path.write_bytes(whole)


BY_INDEX = (
    "SELECT v.vote FROM comparisons c CROSS JOIN assignments a USING (comparison) "
    "CROSS JOIN votes v USING (assignment)"
)


def test_a_vote_that_an_index_hides_is_named_and_counted(waiting, capsys):
    with Ledger.open(waiting) as ledger:
        assert ledger.find_damage() is None
        whole = StepVotes(ledger, 0).counted
    for _ in flips(waiting, "sqlite_autoindex_assignments_2"):
        with contextlib.suppress(SzpoError), Ledger.open(waiting) as ledger:
            if len(ledger.query(BY_INDEX)) < len(whole):
                break
    failure = failure_of(waiting)
    assert failure.table == "file" and "index" in failure.problem
    assert (call(["verify", str(waiting)]), call(["doctor", str(waiting)])) == (5, 1)
    assert all("missing from index" in text for text in capsys.readouterr())
    with Ledger.open(waiting) as ledger:
        assert StepVotes(ledger, 0).counted == whole
        assert step_states.close(ledger, 0, "rule")


ADDED = {
    "trigger": "CREATE TRIGGER x AFTER DELETE ON contacts BEGIN SELECT 1; END",
    "table": "CREATE TABLE x (name TEXT)",
    "view": "CREATE VIEW x AS SELECT * FROM contacts",
    "unique index": "CREATE UNIQUE INDEX x ON votes (received_us)",
    "plain index": "CREATE INDEX x ON votes (received_us)",
}


@pytest.mark.parametrize("kind", ADDED)
def test_what_szpo_did_not_make_is_named_but_for_a_plain_index(path, kind):
    with sqlite3.connect(path) as other:
        other.execute(ADDED[kind])
    other.close()
    failure = failure_of(path)
    if kind == "plain index":
        assert failure is None
    else:
        assert (failure.table, failure.row) == ("sqlite_master", "x")
        assert "added" in failure.problem


def peak(tmp_path, steps):
    """The most bytes that Python held while it verified a run of this many steps."""
    settings, ledger, policy = start(tmp_path, f"{steps}.db", rule="sign", N=60, D=1, M=2)
    go(settings, ledger, policy, panel_of(ledger), until_step=steps)
    ledger.close()
    with Ledger.open(tmp_path / f"{steps}.db", readonly=True) as opened:
        assert verification.verify(opened).ok
        tracemalloc.start()
        try:
            report = verification.verify(opened)
            return tracemalloc.get_traced_memory()[1], report.rows
        finally:
            tracemalloc.stop()


@pytest.mark.full
def test_a_longer_run_takes_little_more_memory_to_verify(tmp_path):
    (few, rows), (many, more) = peak(tmp_path, 4), peak(tmp_path, 24)
    assert more > 5 * rows
    assert (many - few) / (more - rows) < 100  # bytes a row; a hash as text alone takes more
