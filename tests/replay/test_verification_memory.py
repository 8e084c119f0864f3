"""Verifying holds no table in memory: what it needs does not grow with the rows of a run."""

import tracemalloc

import pytest

from szpo.ledger.database import Ledger
from szpo.replay import verification
from tests.support.quadratic import go, panel_of, start


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
