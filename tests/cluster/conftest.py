"""The model of all engines' tests."""

import pytest

from tests.support import folder_run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return folder_run.model(tmp_path_factory.mktemp("model"))
