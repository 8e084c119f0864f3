"""``szpo invite RUN``: links and codes for panelists and operators; list, revoke, erase."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import typer

from szpo.cli import console, run_paths
from szpo.errors import UsageError
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.voting import withdrawals
from szpo.voting.withdrawals import Learned
from szpo_ui import credentials
from szpo_ui.credentials import Role
from szpo_ui.http_server import LOOPBACK, link, read_address

DEFAULT_SITE = "http://127.0.0.1:7860"
"""The default address of szpo serve, for links if no server runs and no ``--url`` is given."""
MAX_INVITATIONS = 1_000
"""Most invitations in one call."""
LONGEST_WAIT_S = 86_400
"""Longest time that ``--erase`` may wait: a day, in seconds."""
BY = "szpo invite"
"""Who revokes and erases here, in the record."""

command = typer.Typer(add_completion=False)
"""The entry point of `szpo.commands`."""


@command.command("invite")
def invite(
    run: str | None = run_paths.RUN,
    folder: Path = run_paths.FOLDER,
    role: str = typer.Option("panelist", "--role", help="panelist or operator."),
    name: str | None = typer.Option(
        None, "--name", help="Pseudonym of a panelist, or an operator's name."
    ),
    contact: str | None = typer.Option(
        None, "--contact", help="The person's contact; stored apart from the votes, see "
        "--erase."
    ),
    count: int | None = typer.Option(
        None, "--count", help="How many panelists; szpo makes up their pseudonyms."
    ),
    places: int | None = typer.Option(
        None, "--open", metavar="PLACES", help="Make one link by which so many become panelists."
    ),
    votes: int = typer.Option(10, "--votes", help="With --open: votes asked of each."),
    completion: str | None = typer.Option(
        None, "--code", help="With --open: code that each is shown after these."
    ),
    days: float = typer.Option(30.0, "--days", help="Days for which code and link work."),
    url: str | None = typer.Option(
        None, "--url", help="Address of the site; default: that of szpo serve on this machine."
    ),
    listing: bool = typer.Option(
        False, "--list", help="List who was invited, and each invitation's state."
    ),
    revoke: str | None = typer.Option(
        None, "--revoke", metavar="NAME", help="Revoke every link, code and session of that "
        "name."
    ),
    erase: str | None = typer.Option(
        None, "--erase", metavar="NAME",
        help="Delete a person's contact and credentials, not the votes.",
    ),
    with_votes: bool = typer.Option(
        False, "--with-votes", help="With --erase: no fit from now on has the votes either.",
    ),
    with_weights: bool = typer.Option(
        False, "--with-weights",
        help="With --with-votes: put improved weights that had learned from them out of force.",
    ),
    wait: float = typer.Option(
        credentials.ERASE_WAIT_S, "--wait",
        help="Seconds that --erase waits for programs that read the run.",
    ),
    as_json: bool = console.AS_JSON,
) -> int:  # fmt: skip
    """Make, list and revoke panelists' and operators' links and codes."""
    if role not in ("panelist", "operator"):
        raise UsageError(f"--role {role} is neither panelist nor operator")
    kind: Role = "operator" if role == "operator" else "panelist"
    if count is not None and not 1 <= count <= MAX_INVITATIONS:
        raise UsageError(f"--count {count}: give 1 to {MAX_INVITATIONS:,}")
    if (count or 1) > 1 and (name or contact):
        raise UsageError("--name and --contact are one person's; leave them out, or --count")
    if sum(map(bool, (listing, revoke, erase))) > 1:
        raise UsageError("--list, --revoke and --erase do one thing each; give one of them")
    if places and any((name, contact, count, listing, revoke, erase, kind == "operator")):
        raise UsageError("--open makes a link for people whom nobody knows yet; give it alone")
    if with_votes and erase is None:
        raise UsageError("--with-votes goes with --erase NAME")
    if with_weights and not with_votes:
        raise UsageError("--with-weights goes with --with-votes")
    if not 0 <= wait <= LONGEST_WAIT_S:
        raise UsageError(f"--wait {wait:g}: give 0 to {LONGEST_WAIT_S:,} seconds")
    if url and not url.startswith(("http://", "https://")):
        raise UsageError(f"--url {url}: give the site's address, as https://HOST")
    path = run_paths.find(run, folder)
    with Ledger.open(path) as ledger:
        if listing:
            _list(ledger, as_json=as_json)
            return 0
        if revoke is not None:
            if not credentials.of_name(ledger, revoke):
                raise UsageError(f"revoke: nobody was invited as {revoke!r}; --list shows names")
            ended = credentials.revoke(ledger, revoke, BY)
            text = f"{revoke}: {ended} credentials revoked"
            console.answer(as_json, {"revoked": ended}, text)
            return 0
        if erase is not None:
            _erase(ledger, erase, with_votes, with_weights, wait=wait, as_json=as_json)
            return 0
        if places is not None:
            token = credentials.make_open_link(ledger, places, votes, completion, days)
            address = f"{_find_site(path, url)}/join?t={token}"
            console.answer(as_json, {"link": address}, f"link for {places}, shown once: {address}")
            return 0
        made = [
            credentials.invite(ledger, kind, name, days=days, contact=contact)
            for _ in range(count or 1)
        ]
    site = _find_site(path, url)
    if as_json:
        fields = ("name", "role", "code", "expires_us")
        console.emit(
            [
                {**{f: getattr(each, f) for f in fields}, "link": link(site, each.token)}
                for each in made
            ]
        )
        return 0
    for each in made:
        console.say(f"{each.name} ({each.role}), until {_day(each.expires_us)}")
        console.say(f"  link (once): {link(site, each.token)}")
        console.say(f"  or at {site}/login with the code: {each.code}")
    console.say("Neither can be shown again: only their hashes are kept.")
    if urlsplit(site).hostname in LOOPBACK:
        console.say(
            "next: try a link. They open on this machine alone; for others put a proxy in front, "
            "szpo serve --url https://HOST, and invite anew (docs/how-to/serve.md)."
        )
    else:
        console.say("next: send each person their link, which lets them in by itself.")
    return 0


def _erase(
    ledger: Ledger, name: str, votes: bool, weights: bool, *, wait: float, as_json: bool
) -> None:
    def withdraw() -> Learned:
        return withdrawals.withdraw(ledger, BY, name, recorded_settings(ledger), weights=weights)

    learned = credentials.erase(
        ledger, name, BY, wait_s=wait, withdraw=withdraw if votes else None
    )
    if votes:
        theta.improving_file(ledger.path).unlink(missing_ok=True)  # it had learned from them
    left = "the votes stay under the pseudonym" if learned is None else str(learned)
    gone = f"{name}: contact and credentials erased"
    said = f"{gone}; {left}, and {credentials.copies(ledger)}"
    console.answer(as_json, {"erased": name, "learned": learned and asdict(learned)}, said)


def _find_site(path: Path, url: str | None) -> str:
    """The address of a run's site, for links."""
    if site := (url or read_address(path) or "").rstrip("/"):
        return site
    console.warn(
        f"no szpo serve of {path.stem} is running; links lead to {DEFAULT_SITE}, its default. If "
        "it is to be reached elsewhere, revoke these and invite with --url http(s)://HOST:PORT"
    )
    return DEFAULT_SITE


def _list(ledger: Ledger, *, as_json: bool) -> None:
    rows = [asdict(each) for each in credentials.list_people(ledger)]
    if as_json:
        console.emit(rows)
        return
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


def _day(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M UTC")
