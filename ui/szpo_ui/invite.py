"""``szpo invite RUN``: links and codes for panelists and operators; list, revoke, erase."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo_ui.web import credentials
from szpo_ui.web.address import read_address
from szpo_ui.web.credentials import Invitation

DEFAULT = "http://127.0.0.1:7860"
"""The default address of szpo serve, for links when no server runs and no ``--url`` is given."""
MOST = 1_000
"""Most invitations of one call."""
LONGEST_WAIT_S = 86_400
"""A day: the longest that ``--erase`` waits."""


def command(arguments: Sequence[str]) -> int:
    """The entry point of `szpo.commands`."""
    from szpo.cli import console, run_paths

    chosen = _parser().parse_args(list(arguments))
    if chosen.count is not None and (chosen.name or not 1 <= chosen.count <= MOST):
        raise UsageError(f"--count is 1 to {MOST:,} people without --name")
    if not 0 <= chosen.wait <= LONGEST_WAIT_S:
        raise UsageError(f"--wait is 0 to {LONGEST_WAIT_S:,} seconds")
    path = run_paths.find(chosen.run, chosen.folder)
    with Ledger.open(path) as ledger:
        if chosen.list:
            _list(ledger, as_json=chosen.json)
            return 0
        if chosen.revoke is not None:
            ended = credentials.revoke(ledger, chosen.revoke, "szpo invite")
            _print_result(
                chosen, {"revoked": ended}, f"{chosen.revoke}: {ended} credentials revoked"
            )
            return 0
        if chosen.erase is not None:
            credentials.erase(ledger, chosen.erase, "szpo invite", wait_s=chosen.wait)
            _print_result(
                chosen,
                {"erased": chosen.erase},
                f"{chosen.erase}: contact and credentials erased; the votes stay under the "
                "pseudonym, and copies made before still hold the name",
            )
            return 0
        made = [
            credentials.invite(
                ledger, chosen.role, chosen.name, days=chosen.days, contact=chosen.contact
            )
            for _ in range(chosen.count or 1)
        ]
    url = (chosen.url or read_address(path) or "").rstrip("/")
    if not url:
        url = DEFAULT
        console.warn(
            f"no szpo serve of {path.stem} is running; links lead to {url}, its default. If it is "
            "to be reached elsewhere, revoke these and invite with --url http(s)://HOST:PORT"
        )
    if chosen.json:
        console.emit([_plain(each, url) for each in made])
        return 0
    from szpo_ui.serve import link

    for each in made:
        console.say(f"{each.name} ({each.role}), until {_day(each.expires_us)}")
        console.say(f"  link (once): {link(url, each.token)}")
        console.say(f"  or at {url}/login with the code: {each.code}")
    console.say("Neither can be shown again: only their hashes are kept.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="szpo invite",
        description="Make links and codes for a run's panelists and operators.",
    )
    parser.add_argument("run", nargs="?", help="name or file of the run; left out: the newest")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--role", choices=("panelist", "operator"), default="panelist")
    parser.add_argument("--name", help="pseudonym of a panelist, or an operator's name")
    parser.add_argument("--contact", help="whom it is; kept apart, see --erase")
    parser.add_argument(
        "--count", type=int, help="so many panelists, with pseudonyms of their own"
    )
    parser.add_argument("--days", type=float, default=30.0, help="how long code and link work")
    parser.add_argument(
        "--url", help="where the site is reached; left out: where szpo serve runs, or will"
    )
    parser.add_argument("--list", action="store_true", help="who was invited, and what became")
    parser.add_argument("--revoke", metavar="NAME", help="end everything of that name, at once")
    parser.add_argument(
        "--erase", metavar="NAME", help="delete a person's contact and credentials, not the votes"
    )
    parser.add_argument(
        "--wait", type=float, default=credentials.ERASE_WAIT_S, metavar="SECONDS",
        help="how long --erase waits for programs that read the run (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _list(ledger: Ledger, *, as_json: bool) -> None:
    from szpo.cli import console

    found = credentials.list_people(ledger)
    if as_json:
        console.emit([_fields(each) for each in found])
        return
    rows = [_fields(each) for each in found]
    if not rows:
        console.say("nobody is invited yet")
        return
    columns = list(rows[0])
    console.table(
        [column.removesuffix("_us") for column in columns],
        [
            [_day(row[c]) if c.endswith("_us") and row[c] is not None else row[c] for c in columns]
            for row in rows
        ],
    )


def _fields(each: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(each)


def _plain(each: Invitation, url: str) -> dict[str, Any]:
    from szpo_ui.serve import link

    return {
        "name": each.name,
        "role": each.role,
        "link": link(url, each.token),
        "code": each.code,
        "expires_us": each.expires_us,
    }


def _print_result(chosen: argparse.Namespace, body: dict[str, Any], text: str) -> None:
    from szpo.cli import console

    if chosen.json:
        console.emit(body)
    else:
        console.say(text)


def _day(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M UTC")
