"""Addresses that runs may call, each with the environment variable whose secret is sent there.

A run's file can come from anybody, and it says where requests and secrets go. So szpo calls a
recorded address only if the user named it: in the settings of a run begun on this account, with
``--trust``, or in $SZPO_TRUST. Named addresses are kept in the cache folder.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from szpo.cache import cache_dir
from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.files import private
from szpo.keyed_requests import ENGINE_KEY, JUDGE_KEY

TRUST_VARIABLE: Final = "SZPO_TRUST"
"""Environment variable with addresses, separated by spaces."""

Call: TypeAlias = tuple[str, str]
"""An address and the environment variable whose secret is sent there."""


def calls_of_judge(config: Config) -> Iterator[Call]:
    """The address that a judge with these settings calls, if any."""
    if config.judge.base_url is not None:
        yield config.judge.base_url, JUDGE_KEY


def calls_of_run(config: Config) -> Iterator[Call]:
    """The addresses that a run with these settings calls: judge and workers."""
    yield from calls_of_judge(config)
    for address in config.engine.address or ():
        yield address, ENGINE_KEY if config.engine.kind == "vllm" else "RAY_AUTH_TOKEN"


def trust(addresses: Sequence[str]) -> None:
    """Trust addresses in this process and in those that it starts."""
    if addresses:
        os.environ[TRUST_VARIABLE] = " ".join(
            [os.environ.get(TRUST_VARIABLE, ""), *addresses]
        ).strip()


def remember(calls: Iterable[Call]) -> None:
    """Store addresses that the user named, so that a run can be restarted without asking again."""
    known = _read()
    if not (new := [call for call in calls if call not in known]):
        return
    file = cache_dir() / "addresses.jsonl"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a", encoding="utf-8", opener=private) as out:
            out.write("".join(json.dumps(call) + "\n" for call in new))
    except OSError as error:
        logging.getLogger("szpo").warning(
            f"{file} cannot be written ({error.strerror}); name the addresses again at the next "
            f"start, by --trust or in ${TRUST_VARIABLE}"
        )


def require_trusted(calls: Iterable[Call], where: str) -> None:
    """Refuse recorded addresses that nobody named on this account; remember the others."""
    named, known = os.environ.get(TRUST_VARIABLE, "").split(), _read()
    asked = list(calls)
    for address, variable in asked:
        if address not in named and (address, variable) not in known:
            said = shlex.quote(address)
            raise UsageError(
                f"{where}: its record would have {said} called with the secret in ${variable}, "
                f"and you have not named that address yet; if you trust it: --trust {said}, or "
                f"{TRUST_VARIABLE}={said}"
            )
    remember(asked)


def _read() -> set[Call]:
    """The stored addresses; damaged lines are left out."""
    try:
        text = (cache_dir() / "addresses.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    found = set()
    for line in text.splitlines():
        try:
            address, variable = json.loads(line)
        except (ValueError, TypeError):
            continue
        found.add((str(address), str(variable)))
    return found
