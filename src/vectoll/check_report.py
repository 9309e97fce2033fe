"""What `vectoll models check` finds out about one model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vectoll.domain.errors import ModelOffline, VectollError


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified."""

    name: str
    passed: bool | None
    """None: it was left out."""
    detail: str


@dataclass(slots=True)
class Report:
    """What has been found out about one model."""

    id: str
    kind: str
    checks: list[Check] = field(default_factory=list)
    engine: str | None = None
    """``cpu`` or ``cuda``, what computes there, and the precision that is set."""
    disk_bytes: int | None = None
    memory_bytes: int | None = None
    """How much the process grew: the weights as they are computed with, and the engine's own."""
    load_s: float | None = None
    short_tokens_per_s: float | None = None
    long_tokens_per_s: float | None = None
    long_tokens: int | None = None
    """The length of the long texts."""
    int8_cosine_min: float | None = None
    int8_cosine_mean: float | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing that was verified failed."""
        return all(check.passed is not False for check in self.checks)

    def note(self, name: str, passed: bool | None, detail: str) -> None:
        """Record one check."""
        self.checks.append(Check(name, passed, detail))

    @contextmanager
    def expecting(self, name: str) -> Iterator[None]:
        """An error within is noted as the failure of the check ``name``."""
        try:
            yield
        except (VectollError, OSError, RuntimeError, ValueError, MemoryError) as error:
            why = error.reason if isinstance(error, ModelOffline) else str(error)
            self.note(name, False, why or type(error).__name__)
