"""The one tree of errors: what the docstring draws is what there is."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import vectoll.domain
from vectoll.domain import errors
from vectoll.domain.errors import ContentEncoded, IdempotencyConflict, IdempotencyKeySpent, VectollError

Branch = tuple[str, str]
"""The names of an error and of its parent."""


def drawn(text: str) -> Iterator[Branch]:
    above: list[str] = []
    for line in text.splitlines():
        if node := re.match(r"    (?P<branches>[│├└─ ]*)(?P<name>[A-Z]\w+)(  |$)", line):
            depth = len(node["branches"]) // 4
            del above[depth:]
            if above:
                yield node["name"], above[-1]
            above.append(node["name"])


def defined(root: type[VectollError]) -> Iterator[Branch]:
    for error in root.__subclasses__():
        if error.__module__.startswith("vectoll.domain."):
            yield error.__name__, root.__name__
            yield from defined(error)


def test_the_docstring_draws_every_error_of_the_domain() -> None:
    for module in pkgutil.iter_modules(vectoll.domain.__path__, "vectoll.domain."):
        importlib.import_module(module.name)
    tree = list(drawn(errors.__doc__ or ""))
    assert len(tree) == len(set(tree))
    assert set(tree) == set(defined(VectollError))


def test_an_error_says_what_it_is_and_not_what_its_parent_is() -> None:
    assert str(IdempotencyKeySpent("is older than a day")).startswith(
        "The request under this Idempotency-Key is older"
    )
    assert "different request" in str(IdempotencyConflict())
    assert "Content-Encoding" in str(ContentEncoded())
