"""SQL by name: each ``-- name: x`` in a package's ``sql/`` starts one statement."""

import re
from functools import cache
from importlib import resources


@cache
def read_blocks(package: str) -> dict[str, str]:
    """Every statement in a package's ``sql/`` by its name. Raises ValueError for a name that is given twice."""
    blocks: dict[str, str] = {}
    for file in resources.files(package).joinpath("sql").iterdir():
        _, *parts = re.split(r"^-- name: (\w+)\n", file.read_text(), flags=re.MULTILINE)
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in blocks:
                raise ValueError(f"two statements are named {name}")
            blocks[name] = text.strip()
    return blocks
