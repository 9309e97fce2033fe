"""What decides a model's vectors, told with every question: a gateway and replicas that were deployed elsewhere, or
before, may have been given different settings, and nothing else in a vector would show it.
"""

from collections.abc import Mapping, Sequence

from vectoll.domain.catalog import ModelSpec, Precision

Marks = Mapping[str, str]
"""Settings by name. Who leaves one out says nothing about it."""


def marks_of(spec: ModelSpec, precision: Precision) -> Marks:
    """Those of a model. A folder says nothing of what is in it, and may be another on each machine."""
    source = spec.source
    origin = {"package": source.package, "repo": source.repo, "revision": source.revision}
    return {
        "precision": precision.value,
        "pooling": spec.pooling.value,
        "dims": str(spec.dims),
        "max_tokens": str(spec.max_tokens),
        "family": spec.family,
        **({name: value or "" for name, value in origin.items()} if source.path is None else {}),
    }


def differences(asked: Marks, own: Marks) -> Sequence[str]:
    """The names of what both tell, and not the same."""
    return [name for name, value in own.items() if asked.get(name, value) != value]
