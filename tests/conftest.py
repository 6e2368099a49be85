"""What every test gets: a cache folder of its own, and none of this machine's data sets."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory):
    """Point the cache to a temporary folder and forget `LM_DATA`, so that results depend on the checkout alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LM_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("LM_DATA", raising=False)
        yield
