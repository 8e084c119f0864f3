"""The stub hub, for tests of what is pushed to it."""

import pytest

from tests.support import hub_server


@pytest.fixture
def served(monkeypatch):
    from huggingface_hub import constants

    with hub_server.serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
        # The other protocol for large files needs a service that the stub does not have.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield server
