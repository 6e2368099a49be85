"""What every test gets: a cache folder of its own, and none of this machine's data sets."""

import os

import pytest
import torch

from lm_core.artifacts import cache_dir

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: kernels run on the CPU, in Python


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory):
    """Point cache and user folder to temporary ones and forget `LM_DATA`: results depend on the checkout alone."""
    with pytest.MonkeyPatch.context() as patch:
        own, models = tmp_path_factory.mktemp("cache"), cache_dir() / "models"
        if models.is_dir():  # converting the language model again would take a minute
            (own / "models").symlink_to(models)
        patch.setenv("LM_CACHE", str(own))
        patch.setenv("LM_USER", str(tmp_path_factory.mktemp("user")))
        patch.delenv("LM_DATA", raising=False)
        yield


@pytest.fixture(scope="module")
def single_threaded_torch():
    """The exact engine in float64 is only the measure here: it leaves the other cores alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
