"""`szpo bench panel-load`: does the panel stay fast when all vote at once?

The server is a separate process with a real ledger. The panelists are coroutines, each with its
own HTTP connection. At the end, every acknowledged vote must be in the ledger exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
from rich.console import Console
from rich.table import Table

from szpo.config import settings_file
from szpo.errors import RunError
from szpo.ledger.creation import NewRun
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digest
from szpo.optim.checked_settings import defaults, settings_to_json
from szpo.optim.sample_directions import DIRECTION_VERSION
from szpo.runs import machine_check
from szpo.types import Answer, Comparison, Prompt, Query, Row
from szpo.voting import steps
from szpo_ui.crowd import ROWS, Measured, at_the_page, by_the_api, watching
from szpo_ui.web import credentials
from szpo_ui.web.address import run_prefix
from szpo_ui.web.credential_rows import Role
from szpo_ui.web.server import answer, raise_file_limit

COMPARISONS: Final = 64
TARGETS: Final = {
    "gradio": (("p95", 0.5, "s"),),
    "api": (("p99", 0.5, "s"), ("rss_mb", 500.0, "MiB")),
    "beside": (("p95", 1.0, "s"), ("slowest", 5.0, "s")),
}
"""Targets of each part: a figure, its upper bound and the unit."""


# ---- the run and its server ----


def make_run(path: Path, people: int, votes: int) -> list[str]:
    """Make a run with an open step for ``votes`` votes; returns a session for each panelist."""
    m = max(1, -(-votes // COMPARISONS))
    layout = (("z", (4,)),)
    sets = [
        "model.name=fixed", "optimizer.rule=known", "optimizer.directions=1",
        f"optimizer.comparisons={COMPARISONS}", f"optimizer.rows={ROWS}",
        f"optimizer.votes={m}", f"run.votes={COMPARISONS * m}", f"panel.size={people}",
    ]  # fmt: skip
    config = settings_file.load(preset_name="people", sets=sets)
    settings = defaults(1, layout, rule="known", mu=0.3, N=COMPARISONS, D=ROWS, M=m)
    spec = {
        "config": config.model_dump(mode="json"), "optimizer": settings_to_json(settings),
        "panel": None, "base": {"name": "fixed"},
        "prompts": {"train": 8, "heldout": 0, "sha256": "0" * 64},
    }  # fmt: skip
    with Ledger.create(
        path, NewRun(spec, root_seed=1, layout=layout, direction_version=DIRECTION_VERSION)
    ) as ledger:
        ledger.execute("UPDATE controller SET epoch = 1")
        sessions = []
        with ledger.transaction("bench"):
            for i in range(people):
                made = credentials.invite(ledger, "panelist", f"P-{i:04}")
                sessions.append(credentials.login(ledger, made.name, made.code)[0])
        rows = tuple(Row(Prompt.user(f"Question {i}?"), _text(i), _text(-i)) for i in range(1, 5))
        asked = [Comparison(f"{n:032x}", 0, 0, n, rows) for n in range(COMPARISONS)]
        steps.record_plan(ledger, 1, settings, Query(0, (), 0.3, None), theta_digest(ledger))
        steps.begin(ledger, 1, 0)
        steps.store(ledger, 1, 0, asked, theta_digest(ledger), then_open=True)
    return sessions


def _text(i: int) -> Answer:
    return Answer(f"Sixty words or so stand here, number {i}. " * 7, tokens=60)


@contextmanager
def _beside(command: Sequence[str], problem: str, **more: Any) -> Iterator[tuple[str, int]]:
    """Run a process; yields the first line that it prints and the process's id."""
    child = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, **more)
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        if not line:
            raise RunError(problem)
        yield line.decode(), child.pid
    finally:
        child.terminate()
        child.wait()
        child.stdout.close()


@contextmanager
def server(path: Path, page: Role | Literal["folder"] = "panelist") -> Iterator[tuple[int, int]]:
    """Run the web process of a run with one role's page; yields its port and its process id.

    With "folder", it serves the run's folder with all pages, as ``szpo serve FOLDER`` does.
    """
    command = ["-m", "szpo_ui.panel_load", str(path), page]
    with _beside(command, "bench: the web process did not start") as (port, pid):
        yield int(port), pid


def _serve(path: Path, page: Role | Literal["folder"]) -> None:
    """The main function of the server's process."""
    from szpo_ui import app
    from szpo_ui.folder import access, application
    from szpo_ui.web.address import listening
    from szpo_ui.web.site import open_site

    made: Any
    if page == "folder":
        ledger = access.open_ledger(path.parent)
        made = application.create(path.parent, access.door(ledger), None)
    else:
        made = app.create(open_site(path), pages=(page,))
    with listening("127.0.0.1", 0, insecure=False) as listener:
        print(listener.getsockname()[1], flush=True)
        answer(made, listener)


def _operator_of(folder: Path) -> str:
    """A session of a folder's operator."""
    from szpo_ui.folder import access

    with access.open_ledger(folder) as ledger:
        made = credentials.invite(ledger, "operator", "bench")
        return credentials.login(ledger, made.name, made.code)[0]


def rss_mb(pid: int) -> float:
    """Peak resident memory of a process, MiB; 0 if the system does not report it."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024
    return 0.0


def cpu_seconds(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


# ---- results ----


def figures(seen: Measured, path: Path, pid: int) -> dict[str, float]:
    """A part's results: latencies in seconds, lost and doubled votes, memory, refusals."""
    with Ledger.open(path, readonly=True) as ledger:
        rows = ledger.query("SELECT assignment, idem FROM votes")
    stored = {row["assignment"]: row["idem"] for row in rows}
    lost = sum(stored.get(seat) != idem for seat, idem in seen.acknowledged.items())
    p50, p95, p99 = np.quantile(seen.seconds or [float("nan")], (0.5, 0.95, 0.99)).tolist()
    return {
        "votes": len(seen.seconds),
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "slowest": max([*seen.seconds, *seen.others], default=float("nan")),
        "lost": lost,
        "doubled": len(rows) - len(stored),
        "refused": seen.refused,
        "reopened": seen.reopened,
        "rss_mb": rss_mb(pid),
    }


# ---- background load ----

_GENERATE = """
import torch
from szpo.models import loading
loaded = loading.load({model!r})
torch.set_num_threads({threads})
text = "Write a short story about a lighthouse."
ids = torch.tensor([loaded.tokenizer(text)["input_ids"]] * 64)
print("ready", flush=True)
while True:
    loaded.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=24,
        pad_token_id=0,
    )
"""
_MULTIPLY = """
import numpy as np
left = np.ones((1024, 1024), dtype=np.float32)
print("ready", flush=True)
while True:
    left @ left
"""


@contextmanager
def generating(model: str) -> Iterator[None]:
    """Run a process that generates on every core without pause, as a run's controller may.

    With ``multiply`` instead of a model's name, it repeats a matrix product.
    """
    code = _GENERATE.format(model=model, threads=os.cpu_count() or 1)
    command = ["-c", _MULTIPLY if model == "multiply" else code]
    every_core = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    with _beside(
        command, f"panel-load: {model} could not be started beside the server", env=every_core
    ):
        yield


# ---- the benchmark ----


def main(
    parts: Sequence[str] = tuple(TARGETS),
    voters: int = 50,
    bursts: int = 4,
    panelists: int = 1000,
    think: float = 5.0,
    seconds: float = 30.0,
    model: str = "smollm2",
    watched: bool = False,
    strict: bool = True,
) -> dict[str, Any]:
    """The web process under load: a burst at the page, a thousand panelists, a model beside it.

    Args:
        parts: gradio (a burst of confirmations), api (many with think time), beside (a model).
        voters: panelists of the burst, and of the part with a model beside.
        bursts: how often they all confirm within one second.
        panelists: panelists of the part api.
        think: seconds that each of them reads.
        seconds: how long the parts api and beside last.
        model: what generates in the part beside; multiply needs none.
        watched: serve a folder, with its home page and the browser of comparisons open.
        strict: fail where a target is missed.

    Raises:
        RunError: a vote was lost or stored twice, or (strict) a target was missed.
    """
    raise_file_limit(65_536)  # each connection is an open file
    results: dict[str, dict[str, float]] = {}
    load = machine_check.load_average()
    product = machine_check.matrix_seconds()
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            results[part] = _part(
                part, Path(folder), panelists if part == "api" else voters, bursts=bursts,
                think=think, seconds=seconds, model=model, watched=watched,
            )  # fmt: skip
    missed = _print(results, load=load, product=product)
    bad = [p for p, f in results.items() if f["lost"] or f["doubled"] or not f["votes"]]
    if bad or (missed and strict):
        raise RunError(f"panel-load: not met: {', '.join(missed or bad)}; see the table")
    return {"parts": results, "load": load, "matrix_seconds": product, "missed": missed}


def _part(
    part: str, folder: Path, people: int, *, bursts: int, think: float, seconds: float,
    model: str, watched: bool,
) -> dict[str, float]:  # fmt: skip
    votes = bursts + 1 if part == "gradio" else int(seconds / think) + 2
    path = folder / part / f"{part}.db"
    path.parent.mkdir()
    sessions = make_run(path, people, people * votes)
    prefix = run_prefix(part) if watched else ""
    operator = _operator_of(path.parent) if watched else ""

    async def ask(port: int) -> Measured:
        async with contextlib.AsyncExitStack() as stack:
            if watched:
                await stack.enter_async_context(watching(port, operator, prefix))
            if part == "gradio":
                return await at_the_page(port, sessions, bursts, prefix)
            return await by_the_api(port, sessions, seconds=seconds, think=think, prefix=prefix)

    with contextlib.ExitStack() as stack:
        port, pid = stack.enter_context(server(path, "folder" if watched else "panelist"))
        if part == "beside":
            stack.enter_context(generating(model))
        before = cpu_seconds(pid)
        # The event loop needs its own thread, since the caller may be inside a loop.
        with ThreadPoolExecutor(1) as thread:
            seen = thread.submit(lambda: asyncio.run(ask(port))).result()
        requests = len(seen.seconds) + len(seen.others) + seen.refused
        cpu_ms = 1000 * (cpu_seconds(pid) - before) / max(1, requests)
        return {**figures(seen, path, pid), "cpu_ms": cpu_ms}


def _print(results: dict[str, dict[str, float]], *, load: float, product: float) -> list[str]:
    table = Table(title="The web process under load; milliseconds per vote")
    names = (
        "votes", "p50", "p95", "p99", "slowest", "cpu_ms", "lost", "doubled", "refused", "rss_mb",
    )  # fmt: skip
    for head in ("part", *names, "target", "holds"):
        left = head in ("part", "target")
        table.add_column(head, justify="left" if left else "right", no_wrap=True)
    missed = []
    for part, found in results.items():
        cells = []
        for name in names:
            value = found[name]
            timed = name in ("p50", "p95", "p99", "slowest")
            shown = f"{value:.1f}" if name == "cpu_ms" else f"{value:.0f}"
            cells.append(f"{1000 * value:.0f}" if timed else shown)
        holds = True
        for name, bound, unit in TARGETS[part]:
            if not found[name] < bound:
                holds = False
                missed.append(f"{part} {name} is {found[name]:.3g} {unit}, not < {bound:g}")
        promised = ", ".join(f"{n} < {b:g} {u}" for n, b, u in TARGETS[part])
        table.add_row(part, *cells, promised, "yes" if holds else "no")
    console = Console(width=140)
    console.print(table)
    console.print(
        f"machine: {os.cpu_count()} cores, load {load:.1f} before, 1024³ product "
        f"{1000 * product:.1f} ms; client and server share it; "
        "cpu_ms is the server's processor time per request"
    )
    return missed


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), cast(Role, sys.argv[2]))
