"""A web hook: small JSON messages by POST to one address, from a thread beside the run.

A message is tried three times. No redirect and no proxy is followed, and of the answer only the
status is read. With a secret the body is signed: ``X-Szpo-Signature: sha256=`` and the hexadecimal
HMAC-SHA256 (RFC 2104) of the body.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from szpo import __version__
from szpo.config.run_sections import ENVIRONMENT, HOOK_SECRET, Hook, check_address
from szpo.errors import SzpoError, UsageError
from szpo.ledger.database import Ledger, now_us
from szpo.runs import hook_events
from szpo.runs.hook_events import Message
from szpo.training.status import StatusReader
from szpo.types import Say

WAITS_S: Final = (0.0, 1.0, 5.0)
"""Seconds before each try."""
TIMEOUT_S: Final = 5.0
"""Longest silence of the receiver within a try."""
POLL_S: Final = 1.0
"""How often the record is looked at."""
CLOSE_TIMEOUT_S: Final = 8.0
"""How long a run that ends waits for its last message."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where messages go."""

    url: str = field(repr=False)
    secret: bytes = field(repr=False)
    """Empty: messages are not signed."""


def target(settings: Hook) -> Target | None:
    """The address and the secret of the settings, from the environment where they stand there.

    Raises:
        UsageError: The variable of the address is not set, or holds none.
    """
    url = settings.url
    if url is None:
        return None
    if url.startswith(ENVIRONMENT):
        name = url.removeprefix(ENVIRONMENT)
        url = os.environ.get(name, "")
        if not url:
            raise UsageError(f"hook.url: the environment variable {name} is not set")
        try:
            check_address(url)
        except ValueError as error:  # which must not show the address: it is a secret there
            raise UsageError(f"hook.url: the environment variable {name}: {error}") from None
    return Target(url, os.environ.get(HOOK_SECRET, "").encode())


def deliver(
    to: Target, message: Message, pause: Callable[[float], Any] = time.sleep
) -> tuple[int, str]:
    """Send a message, at most as often as `WAITS_S` has waits; (tries, "" or why it failed)."""
    when = datetime.fromtimestamp(message.at_us / 1e6, UTC).isoformat(timespec="seconds")
    content = {
        "delivery": message.delivery, "run": message.run, "event": message.what, "at": when,
        **message.facts,
    }  # fmt: skip
    body = json.dumps(content).encode()
    headers = {
        "Content-Type": "application/json", "User-Agent": f"szpo/{__version__}",
        "X-Szpo-Event": message.what, "X-Szpo-Delivery": message.delivery,
    }  # fmt: skip
    if to.secret:
        signature = hmac.new(to.secret, body, hashlib.sha256).hexdigest()
        headers["X-Szpo-Signature"] = f"sha256={signature}"
    failure = ""
    for wait in WAITS_S:
        if wait:
            pause(wait)
        if not (failure := _post(to.url, body, headers)):
            break
    return WAITS_S.index(wait) + 1, failure


def _post(url: str, body: bytes, headers: dict[str, str]) -> str:
    """Why one try failed; "" where it did not. It names no address, which may be a secret."""
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with _opener().open(request, timeout=TIMEOUT_S) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        error.close()
        status = error.code
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        return "no answer in time" if isinstance(reason, TimeoutError) else "no connection"
    return "" if 200 <= status < 300 else f"HTTP {status}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


def send_setup_failure(run: Path, settings: Hook, code: int, say: Say) -> None:
    """Report that a run's set-up failed; ``run`` is the file it would have had."""
    message = Message(run.stem, "setup_failed", "setup", now_us(), {"exit_code": code})
    send(settings, message, say)


def send(settings: Hook, message: Message, say: Say) -> None:
    """Send one message of a run that has no record to note it in, and say what went wrong."""
    try:
        to = target(settings)
        failure = "" if to is None else deliver(to, message)[1]
    except UsageError as error:
        failure = str(error)
    if failure:
        say(f"warning: the web hook was not delivered: {failure}")


def _watch(
    ledger: Ledger, reader: StatusReader, to: Target | str, say: Say, ending: threading.Event
) -> None:
    """Watch a run's record and send what is due; ``to`` may be why there is no address."""
    seen: object = None
    while True:
        last = ending.wait(POLL_S)
        with suppress(SzpoError):  # such as a full disk: it is tried again at the next look
            status = reader.read()
            for message in hook_events.due(ledger, status) if status.version != seen else ():
                if isinstance(to, str):
                    tries, failure = 0, to
                else:
                    tries, failure = deliver(to, message, ending.wait)
                hook_events.settle(ledger, message, tries, failure)
                if failure:
                    say(f"warning: the web hook was not delivered ({message.what}): {failure}")
            seen = status.version
        if last:
            return


@contextmanager
def sending(ledger: Ledger, settings: Hook, say: Say) -> Iterator[Callable[[], None]]:
    """Send a run's messages while the block lasts, from the first call of what it yields.

    That call belongs after the run's lease, so that of two processes only one sends.
    """
    if settings.url is None:
        yield lambda: None
        return
    try:
        found: Target | str = target(settings) or ""
    except UsageError as error:
        found = str(error)
        say(f"warning: {error}; set it and resume, until then the web hook sends nothing")
    ending = threading.Event()
    thread = threading.Thread(
        target=_watch, args=(ledger, StatusReader(ledger), found, say, ending),
        name="szpo-hook", daemon=True,
    )  # fmt: skip

    def begin() -> None:
        if thread.ident is None:
            thread.start()

    try:
        yield begin
    finally:
        ending.set()
        if thread.ident is not None:  # else nothing was begun that could send
            thread.join(CLOSE_TIMEOUT_S)
