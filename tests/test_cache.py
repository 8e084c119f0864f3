"""Where models and coordinates are kept."""

from pathlib import Path

import pytest

from szpo import cache


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
