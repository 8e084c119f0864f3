"""Requests that carry a key: where it may travel unencrypted, and which proxies may see it.

Addresses of this machine are reached without a proxy. Over plain http a key goes to this machine,
and to another one only where `HOSTS` names it; no proxy sees it on that way.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

from szpo.errors import UsageError
from szpo.visible_text import visible

JUDGE_KEY: Final = "OPENAI_API_KEY"
"""Environment variable with the API key of a judge's endpoint."""
ENGINE_KEY: Final = "VLLM_API_KEY"
"""Environment variable with the API key of the vLLM servers."""
HOSTS: Final = "SZPO_INSECURE_HOSTS"
"""Environment variable with other machines, by host and with commas between, to which keys may
go over plain http."""
KEYS: Final = (
    JUDGE_KEY, ENGINE_KEY, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "RAY_AUTH_TOKEN",
)  # fmt: skip
"""Environment variables with keys, which no text shows."""
MIN_SECRET_LENGTH: Final = 8
"""Shortest key that is removed from texts; a server without keys may be given any short word."""
_LOOPBACK_NAMES: Final = ("localhost.localdomain", "ip6-localhost", "ip6-loopback")

PROXIES: Final = ("all_proxy", "http_proxy", "https_proxy", "no_proxy")
"""Environment variables that name proxies, in lower or upper case."""


def is_here(host: str) -> bool:
    """Whether an address's host is this machine: localhost, a loopback address, or its own name.

    Its own name counts only while it stands for loopback addresses alone.

    >>> is_here("localhost"), is_here("127.0.0.9"), is_here("::1"), is_here("10.0.0.5")
    (True, True, True, False)
    """
    name = host.lower().rstrip(".")
    if name == "localhost" or _is_loopback(name):
        return True
    own = socket.gethostname().lower()
    known = {*_LOOPBACK_NAMES, own, own.partition(".")[0]}
    if name not in known and not name.endswith(".localhost"):
        return False
    try:
        addresses = socket.getaddrinfo(name, None)
    except OSError:
        return False
    return all(_is_loopback(str(address[4][0])) for address in addresses)


def _is_loopback(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip.is_unspecified


def may_go_unencrypted(host: str) -> bool:
    """Whether a key may go to this host over plain http: it is here, or `HOSTS` names it."""
    named = os.environ.get(HOSTS, "").lower().split(",")
    return is_here(host) or host.lower() in {name.strip() for name in named}


def read_key(variable: str, url: str, table: str) -> str:
    """Read the key for an address from an environment variable; empty if it is not set.

    Args:
        variable: The variable's name.
        url: The address that will get the key.
        table: The settings table that names the address, for the message.
    """
    key = os.environ.get(variable, "")
    if not (key.isascii() and key.isprintable()):
        raise UsageError(
            f"{table}: the key in ${variable} must be printable ASCII, for an HTTP header"
        )
    host = urlsplit(url).hostname or ""
    if key and not may_go_unencrypted(host):
        way_out = f"unset the variable, or set {HOSTS} to {host}"
        require_private(url, f"{table}: the key in ${variable}", way_out)
    return key


def require_private(url: str, what: str, way_out: str) -> None:
    """Refuse to send a key over plain http to another machine."""
    where = urlsplit(url)
    if where.scheme == "http" and not is_here(where.hostname or ""):
        raise UsageError(
            f"{what} would travel unencrypted to {without_password(url)}; give an https address, "
            f"{way_out}"
        )


def api_base(url: str) -> str:
    """A server's base address, of which people also give what stands behind it.

    >>> api_base("http://judge:80/v1/chat/completions"), api_base("http://judge:80/v1/")
    ('http://judge:80/v1', 'http://judge:80/v1')
    """
    return _without(url, "/models", "/completions", "/chat")


def server_root(url: str) -> str:
    """The address under which a server has ``/v1`` and ``/health``; see `api_base`.

    >>> server_root("http://judge:80/v1/"), server_root("http://judge:80")
    ('http://judge:80', 'http://judge:80')
    """
    return _without(api_base(url), "/health", "/v1")


def _without(url: str, *ends: str) -> str:
    for end in ends:
        url = url.rstrip("/").removesuffix(end)
    return url.rstrip("/")


def without_password(url: str) -> str:
    """An address without the user name and password in it.

    >>> without_password("http://me:secret@hub:80/a")
    'http://hub:80/a'
    """
    where = urlsplit(url)
    return where._replace(netloc=where.netloc.rpartition("@")[2]).geturl()


# ---- proxies ----


def client_options(url: str, key: str) -> dict[str, Any]:
    """Arguments of an httpx client for an address: none, or those that switch proxies off.

    The environment's proxies are for other machines, and over plain http only without a key.
    """
    where = urlsplit(url)
    direct = is_here(where.hostname or "") or (where.scheme == "http" and key)
    return {"trust_env": False, "verify": ssl.create_default_context()} if direct else {}


def blame_proxies(error: BaseException) -> str:
    """Say in one line that a client cannot use the environment's proxies; empty if it is not that.

    Libraries read the variables when a client is made, or when they are imported.
    """
    named = sorted(name for name in os.environ if name.lower() in PROXIES and os.environ[name])
    about = "socks" in str(error).lower() or "proxy" in str(error).lower()
    known = type(error).__name__ == "InvalidURL" or (
        isinstance(error, ImportError | ValueError) and about
    )
    if not named or not known:
        return ""
    return (
        f"the proxies in {', '.join(named)} cannot be used ({' '.join(str(error).split())}); "
        "correct the variables, or unset them"
    )


def avoid_proxies(url: str = "") -> bool:
    """Keep libraries that make their own clients from using a proxy for this machine.

    Its names, and the address's host if it is one, join ``NO_PROXY`` in this process and those
    that it starts. Returns whether the variable has changed.
    """
    hosts = ["localhost", socket.gethostname(), urlsplit(url).hostname or ""]
    before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    known = [name.strip() for name in before.split(",") if name.strip()]
    new = [host for host in dict.fromkeys(hosts) if host not in known and is_here(host)]
    if not new or "*" in known:
        return False
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join([*known, *new])
    return True


def hub_endpoint() -> str:
    """The address of the Hugging Face Hub, ready to call: ``HF_ENDPOINT`` or the usual one."""
    from huggingface_hub import close_session, constants, get_token

    url = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    if get_token():
        require_private(url, "HF_ENDPOINT: your token", "or log out of the hub (unset HF_TOKEN)")
    if avoid_proxies(url):
        close_session()
    return url


# ---- texts ----


def error_text(body: Any, *keys: str) -> str:
    """A server's message in an error reply, in one line of 200 characters or less, without keys.

    >>> error_text([{"error": {"message": "no money"}}]), error_text({"detail": "slow"})
    ('no money', 'slow')
    """
    body = body[0] if isinstance(body, list) and len(body) == 1 else body
    inner = body.get("error", body) if isinstance(body, dict) else body
    said = inner.get("message") or inner.get("detail") if isinstance(inner, dict) else inner
    return " ".join(visible(hide_keys(str(said or ""), *keys)).split())[:200]


def hide_keys(text: str, *keys: str) -> str:
    """A text without the keys of the environment, and without ``keys``."""
    for key in (*keys, *(os.environ.get(name, "") for name in KEYS)):
        if len(key.strip()) >= MIN_SECRET_LENGTH:
            text = text.replace(key.strip(), "[key]")
    return text
