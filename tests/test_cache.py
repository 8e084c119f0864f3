"""Where models and coordinates are kept."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from szpo import cache, files
from szpo.errors import ResourceError, UsageError
from szpo.models import named_models


@pytest.mark.parametrize(
    ("own", "shared", "place"),
    [
        ("/own", "/shared", "/own"),
        (None, "/shared", "/shared/szpo"),
        (None, "relative", "~/.cache/szpo"),
        ("", "", "~/.cache/szpo"),
        ("~/mine", None, "~/mine"),
    ],
)
def test_the_cache_is_where_the_environment_says(own, shared, place, monkeypatch):
    for name, value in (("SZPO_CACHE", own), ("XDG_CACHE_HOME", shared)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert cache.cache_dir() == Path(place).expanduser()


def test_what_is_kept_is_whole_and_a_cache_that_cannot_be_written_keeps_nothing(tmp_path):
    def broken(draft: Path) -> None:
        draft.write_text("half")
        raise OSError("no space left")

    cache.keep(tmp_path / "new" / "kept", lambda draft: draft.write_text("whole"))
    cache.keep(tmp_path / "new" / "kept", broken)
    cache.keep(tmp_path / "new" / "kept" / "below a file", lambda draft: draft.write_text("x"))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["kept"]
    assert (tmp_path / "new" / "kept").read_text() == "whole"


def test_without_a_home_the_cache_is_asked_for(monkeypatch):
    for name in ("HOME", "SZPO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(ResourceError, match=r"no home folder.* set SZPO_CACHE to a folder"):
        cache.cache_dir()
    assert files.expand("~/x") == Path("~/x")
    with pytest.raises(UsageError, match="not found"):
        named_models.locate("~nobody-at-all/model")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache.cache_dir() == Path("/var/cache/szpo")


def test_loaders_draw_no_bar_where_they_are_to_be_quiet(capsys):
    """Not even the one that transformers draws for GGUF files whatever its own switch says."""
    from tqdm.auto import tqdm

    for _ in range(2):
        with cache.quiet(), cache.quiet():
            assert list(tqdm(range(3), desc="hidden")) == [0, 1, 2]
        list(tqdm(range(3), desc="shown"))
    said = capsys.readouterr().err
    assert "hidden" not in said and said.count("shown: 100%") == 2


def claims(size: int) -> bytes:
    """The header of an array of so many bytes, with eight of them."""
    text = repr({"descr": "<f8", "fortran_order": False, "shape": (size // 8,)}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00\x76\x00" + text.encode() + bytes(8)


def packed(path: Path) -> None:
    np.savez_compressed(path, w=np.zeros(1 << 20))


def said_to_be_large(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as whole:
        whole.writestr("w.npy", claims(1 << 50))


@pytest.mark.parametrize("write", [packed, said_to_be_large])
def test_arrays_larger_than_their_file_are_never_read(tmp_path, write):
    """Such a file comes with a stranger's run; numpy would take the memory before it looks."""
    path = tmp_path / "state.npz"
    write(path)
    assert cache.read_stored(path, cache.require_plain) is None and not path.exists()
    np.savez(path, w=np.zeros(3), facts=np.array("{}"), none=np.zeros((0, 4)))
    cache.read_stored(path, cache.require_plain)
    assert path.exists()
