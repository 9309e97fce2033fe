"""What tests of several adapters start from."""

from collections.abc import Callable

import pytest
from tests.tiny_checkpoints import MAKERS

from vectoll.adapters.checkpoints import Checkpoint, read_checkpoint


@pytest.fixture(scope="module")
def tiny_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """By the name of its maker. Decoders' heads of 8 and 16 are padded, each half of them to 16."""
    folders = tmp_path_factory.mktemp("tiny-models")

    def make(name: str) -> Checkpoint:
        if not (folders / name).exists():
            MAKERS[name](folders / name)
        return read_checkpoint(folders / name)

    return make
