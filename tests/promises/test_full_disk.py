"""A people's run on a file system that fills up before each of its writes in turn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from szpo.errors import StorageError
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.voting import pauses
from szpo_ui import app
from szpo_ui.web import credentials
from tests.support.browser import MovableClock, make, serve

ROOT = Path(__file__).parents[2]
WRITES = 20
SMALL = """
set -e
mount -t tmpfs -o size=3m,mode=700 tmpfs "$1"
"$2" -c "import sys; sys.path[:0] = ['$3', '$3/ui', '$3/simulators']
from tests.promises import test_full_disk; test_full_disk.live('$1')"
"""


def fill(folder: Path) -> None:
    """Take every byte that is left."""
    with (folder / "ballast").open("ab", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue


def live(folder: str) -> None:
    """Each write meets a full disk first, and goes through once there is room again."""
    place = Path(folder)
    stage = make(place / "run.db", clock=MovableClock(), sets=["optimizer.comparisons=4"])
    stage.advance()
    serving = serve(app.create(stage.site, pages=()))
    stage.url = next(serving)
    acked: dict[str, str] = {}
    refused = done = 0

    def twice(act):
        """What it gives on a full disk (or None where that is an error), then with room."""
        nonlocal refused, done
        fill(place)
        try:
            first = act()
        except StorageError as error:
            assert "nothing was stored" in str(error) or "full" in str(error), error
            first = None
        (place / "ballast").unlink()
        full = first is None or getattr(first, "status_code", 200) == 503
        refused, done = refused + full, done + 1
        return act() if full else first

    with httpx.Client(base_url=stage.url, timeout=60) as client:
        for i in range(2):
            name = f"P-{i}"
            made = twice(lambda name=name: credentials.invite(stage.ledger, "panelist", name))
            sent = {"name": made.name, "code": made.code}
            entered = twice(lambda sent=sent: client.post("/api/session", json=sent))
            who = {"Authorization": f"Bearer {entered.json()['token']}"}
            for j in range(3):
                body = {"tab": "t"}
                seat = twice(
                    lambda w=who, b=body: client.post("/api/assignment", json=b, headers=w)
                )
                vote = {
                    "assignment": seat.json()["assignment"], "choice": "AB"[j % 2], "tab": "t",
                    "idem": f"full-{i}-{j}".ljust(16, "x"),
                }  # fmt: skip
                got = twice(lambda w=who, v=vote: client.post("/api/votes", json=v, headers=w))
                assert got.status_code == 200, got.text
                acked[vote["idem"]] = vote["choice"]
        twice(lambda: pauses.pause(stage.ledger, "ann", "lunch"))
        twice(lambda: pauses.unpause(stage.ledger, "ann"))
        twice(lambda: stage.site.service.amend(1, "exclude", "a test", "ann"))
        twice(lambda: stage.advance())
    next(serving, None)
    stage.ledger.close()
    with Ledger.open(place / "run.db") as ledger:
        stored = {row["idem"]: row["choice"] for row in ledger.query("SELECT * FROM votes")}
        assert stored == acked
        report = verification.verify(ledger)
        assert report.ok, str(report)
    assert done >= WRITES, done
    print(f"{refused} of {done} were refused")
    assert refused > done // 2


@pytest.mark.slow
def test_each_write_of_a_peoples_run_may_meet_a_full_disk(tmp_path: Path) -> None:
    """In a name space of its own; where that is not permitted, test_faults stands for it."""
    command = ["unshare", "--map-root-user", "--mount"]
    probe = subprocess.run(
        [*command, "mount", "-t", "tmpfs", "x", str(tmp_path)], capture_output=True
    )
    if probe.returncode:
        return
    done = subprocess.run(
        [*command, "sh", "-c", SMALL, "sh", str(tmp_path), sys.executable, str(ROOT)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "were refused" in done.stdout
