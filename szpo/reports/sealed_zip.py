"""A zip with a hash of each file: written in pieces, and checked when it is read.

Equal contents give equal bytes. A reader checks all files against their hashes before it uses any,
and never unpacks more than a limit.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from szpo.errors import IntegrityError, ResourceError, StorageError

SUMS: Final = "SHA256SUMS"
SUMS_LIMIT: Final = 2**20
TOTAL_LIMIT_FACTOR: Final = 16
"""All files together may have this many times the limit: most are not held in memory."""
CHUNK: Final = 2**16
_BROKEN: Final = (
    OSError, EOFError, LookupError, NotImplementedError, OverflowError, RuntimeError, ValueError,
    struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""Errors that `zipfile` raises for damaged or malicious files."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file to write; its bytes come in pieces, made while they are written."""

    name: str
    parts: Iterable[bytes]
    most: int = 0
    """An upper limit of its bytes; needed if it may have 2 GiB or more."""


def write(file: IO[bytes], members: Iterable[Member]) -> None:
    """Write the members and their SHA256SUMS, with only one piece in memory at a time."""
    sums: dict[str, str] = {}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for member in members:
            sums[member.name] = _add(packed, member)
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
        _add(packed, Member(SUMS, [lines.encode()]))


def _add(packed: zipfile.ZipFile, member: Member) -> str:
    """Add a file with a fixed time and mode; returns its hash."""
    entry = zipfile.ZipInfo(member.name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system, entry.external_attr = 3, 0o600 << 16
    entry.file_size = member.most  # sets the form of the header; the true size follows
    found = hashlib.sha256()
    with packed.open(entry, "w") as target, io.BufferedWriter(target, CHUNK) as collected:
        for part in member.parts:
            found.update(part)
            collected.write(part)
    return found.hexdigest()


# ---- reading ----


def read(
    file: IO[bytes] | Path, *, always: Collection[str], wanted: Mapping[str, int], limit: int
) -> dict[str, bytes]:
    """Read the ``wanted`` files, after all files were checked against SHA256SUMS.

    The files ``always`` must be there. Unpacked, wanted files may have ``limit`` bytes together,
    and each as many as ``wanted`` says.

    Raises:
        StorageError: it is not such a zip.
        IntegrityError: a file does not have the hash that SHA256SUMS gives, is missing, or stands
            there without a line in it.
        ResourceError: it unpacks to more than the limit allows.
    """
    try:
        with zipfile.ZipFile(file) as packed:
            return _read(packed, always, wanted, limit)
    except _BROKEN as error:
        raise StorageError(f"not an export of szpo ({' '.join(str(error).split())})") from None


def _read(
    packed: zipfile.ZipFile, always: Collection[str], wanted: Mapping[str, int], limit: int
) -> dict[str, bytes]:
    sizes = _sizes(packed, wanted, limit)
    sums = _sums(packed)
    for name in sizes:
        if name not in sums and name != SUMS:
            raise IntegrityError(f"{name!r} in this export has no line in its {SUMS}")
    for name in sums:
        if name not in sizes:
            raise IntegrityError(f"{name!r} in {SUMS} is not in this export")
    for name in always:
        if name not in sizes:
            raise IntegrityError(f"this export lacks {name}, which every export holds")
    held: dict[str, bytes] = {}
    for name, digest in sums.items():
        found, whole = hashlib.sha256(), io.BytesIO()
        for part in _parts(packed, name, sizes[name]):
            found.update(part)
            if name in wanted:
                whole.write(part)
        if found.hexdigest() != digest:
            raise IntegrityError(f"{name!r} in this export is not what its {SUMS} says")
        if name in wanted:
            held[name] = whole.getvalue()
    return held


def _sizes(packed: zipfile.ZipFile, wanted: Mapping[str, int], limit: int) -> dict[str, int]:
    """The declared bytes of each file, checked before anything is unpacked."""
    sizes: dict[str, int] = {}
    for entry in packed.infolist():
        if entry.filename in sizes:
            raise IntegrityError(f"this export holds {entry.filename!r} twice")
        if entry.flag_bits & 1:
            raise StorageError(f"not an export of szpo ({entry.filename!r} is encrypted)")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise StorageError(
                f"not an export of szpo ({entry.filename!r} is packed in another way)"
            )
        sizes[entry.filename] = entry.file_size
    held, whole = sum(sizes.get(name, 0) for name in wanted), sum(sizes.values())
    for size, most, what in (
        (held, limit, "the files that the numbers rest on"),
        (whole, TOTAL_LIMIT_FACTOR * limit, "all its files"),
        (sizes.get(SUMS, 0), SUMS_LIMIT, f"its {SUMS}"),
        *((sizes.get(name, 0), most, f"its {name}") for name, most in wanted.items()),
    ):
        if size > most:
            more = "" if what.endswith(SUMS) else "; where you trust it, give a larger limit="
            raise ResourceError(
                f"this export unpacks to {size:,} bytes ({what}); at most {most:,} are read{more}"
            )
    return sizes


def _sums(packed: zipfile.ZipFile) -> dict[str, str]:
    """The digests in SHA256SUMS by name."""
    if SUMS not in packed.NameToInfo:
        raise StorageError(f"not an export of szpo (there is no {SUMS})")
    content = b"".join(_parts(packed, SUMS, packed.getinfo(SUMS).file_size))
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise IntegrityError(f"this export's {SUMS} is not UTF-8") from None
    sums: dict[str, str] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        found = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if found is None:
            raise IntegrityError(f"line {number} of this export's {SUMS} is not a hash and a name")
        digest, name = found.groups()
        if name in sums:
            raise IntegrityError(f"{SUMS} of this export names {name!r} twice")
        sums[name] = digest
    return sums


def _parts(packed: zipfile.ZipFile, name: str, size: int) -> Iterator[bytes]:
    """Yield a file in pieces, never more than the zip declares."""
    with packed.open(name) as file:
        left = size
        while part := file.read(min(CHUNK, left + 1)):
            left -= len(part)
            if left < 0:
                raise IntegrityError(f"{name!r} unpacks to more than this export says")
            yield part
