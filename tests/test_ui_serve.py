"""szpo serve: refusals, the two processes, restarts, and a web process without a model."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import make

from szpo.cli import call
from szpo.ledger import Ledger
from szpo_ui import serve
from szpo_ui.keeper import Keeper

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(tmp_path: Path) -> Path:
    stage = make(tmp_path / "run.db")
    stage.ledger.close()
    return tmp_path / "run.db"


# ---- refusals ----


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert call(["serve", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ")
    return said.removeprefix("error: ").strip()


def test_a_port_in_use_names_a_free_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(capsys, str(run), "--port", str(port))
    found = re.fullmatch(rf"port {port} is in use; try --port (\d+)", said)
    assert found is not None and int(found[1]) != port


@pytest.mark.parametrize("port", ["80", "70000", "-1"])
def test_a_port_out_of_range_is_named(
    run: Path, capsys: pytest.CaptureFixture[str], port: str
) -> None:
    said = refused(capsys, str(run), f"--port={port}")
    assert said == f"port {port} cannot be used; give one from 1024 to 65535"


def test_a_network_address_needs_the_word_insecure(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, str(run), "--host", "0.0.0.0", "--port", "0")
    assert said.startswith("--host 0.0.0.0 would show the panel to the network without TLS")
    assert said.endswith("or add --insecure")


def test_a_missing_run_and_contradictions_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ("--folder", str(tmp_path), "--port", "0")
    assert "no runs in" in refused(capsys, *folder)
    assert "keeps its settings" in refused(capsys, "x", "--preset", "people", *folder)
    assert "makes its own run" in refused(capsys, "x", "--demo", *folder)
    assert "without a path" in refused(capsys, "x", "--url", "https://a.example/b", *folder)


# ---- where ----


def test_links_and_hosts_follow_the_public_address() -> None:
    with serve.listening("127.0.0.1", 0, insecure=False) as listener:
        port = listener.getsockname()[1]
        here = serve.place_of(listener, "127.0.0.1", None)
        assert (here.url, here.secure) == (f"http://127.0.0.1:{port}", False)
        there = serve.place_of(listener, "127.0.0.1", "https://panel.example/", ("other.example",))
    assert (there.url, there.secure) == ("https://panel.example", True)
    assert {"panel.example", "other.example", "localhost"} <= set(there.names)
    assert "evil.example" not in there.names


# ---- the child ----


class Children:
    """Stands for subprocess.Popen: children that end with the given codes at once."""

    def __init__(self, codes: Sequence[int], lived: Sequence[float] | None = None):
        self.codes, self.lived = list(codes), list(lived or [0.0] * len(codes))
        self.now = 0.0

    def begin(self, command: Sequence[str]) -> Any:
        code, lived = self.codes.pop(0), self.lived.pop(0)
        children = self

        class Child:
            def wait(self) -> int:
                children.now += lived
                return code

            def poll(self) -> int:
                return code

        return Child()


def keep(children: Children) -> tuple[list[tuple[int, float]], Keeper]:
    ends: list[tuple[int, float]] = []
    keeper = Keeper(
        "child", ["x"], say=lambda text: None, on_end=lambda *e: ends.append(e),
        begin=children.begin, timer=lambda: children.now,
    )  # fmt: skip
    keeper.pause = lambda seconds: None
    keeper.run()
    keeper.join()
    return ends, keeper


def test_a_child_that_dies_is_started_again_with_longer_waits_up_to_a_minute() -> None:
    ends, keeper = keep(Children([1] * 8 + [0]))
    assert [wait for _, wait in ends] == [1, 2, 4, 8, 16, 32, 60, 60, 0]
    assert keeper.starts == 9


def test_a_child_that_had_lived_is_started_again_soon() -> None:
    ends, _ = keep(Children([1, 1, 3, 0], [0, 0, 100, 0]))
    assert ends == [(1, 1), (1, 2), (3, 1), (0, 0)]


def test_closing_ends_a_real_child_in_order(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"pathlib.Path({str(ready)!r}).write_text('x')\n"
        "while True: time.sleep(60)"
    )
    ends: list[Any] = []
    keeper = Keeper("child", [sys.executable, "-c", code], say=ends.append)
    keeper.run()
    while not ready.exists():
        threading.Event().wait(0.02)
    child = keeper.child
    assert child is not None
    keeper.close()
    assert child.returncode == 143
    assert ends == [], "an end that was asked for is no news"


def test_the_controllers_end_is_on_record(run: Path) -> None:
    with Ledger.open(run) as ledger:
        serve.noted(ledger)(3, 4.0)
        (event,) = ledger.events("controller ended")
        assert (event["actor"], event["body"]) == ("serve", {"code": 3, "again_in_s": 4.0})


# ---- the whole command ----


@pytest.fixture
def served(run: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """``szpo serve`` as a process of its own: the child, its address, the operator's token."""
    child = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "szpo", "serve", str(run), "--port", "0",
         "--no-controller"],
        stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said: list[str] = []
    assert child.stderr is not None
    for line in child.stderr:
        said.append(line)
        if "invite panelists with" in line:
            break
    text = "".join(said)
    found = re.search(r"link \(once, within a day\): (http://[\d.:]+)/login#t=(\S+)", text)
    assert found is not None, text[-2000:]
    loaded = set(re.findall(r"\|\s+([\w.]+)$", text, re.M))
    assert "gradio" in loaded
    assert not {"torch", "transformers", "peft"} & loaded, "the web process loads no model"
    drain = threading.Thread(target=child.stderr.read, daemon=True)
    drain.start()
    yield child, found[1], found[2]
    if child.poll() is None:
        child.kill()
    child.wait()
    drain.join()
    child.stderr.close()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_serves_without_torch_and_ends_on_a_signal(
    served: tuple[subprocess.Popen[str], str, str], sent: signal.Signals, code: int
) -> None:
    child, url, token = served
    with httpx.Client(base_url=url, timeout=30) as client:
        assert client.get("/healthz").json() == {"ok": True}
        assert client.post("/redeem", json={"token": token}).json()["go"] == "/operate/"
        assert client.get("/operate/config").status_code == 200
    child.send_signal(sent)
    assert child.wait(30) == code
