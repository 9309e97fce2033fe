"""The limit of open files."""

import resource

import pytest

from vectoll.server.descriptors import ENOUGH_FILES, allow_open_files

NO_LIMIT = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "allowed", "after"),
    [
        ((1024, 524_288), ENOUGH_FILES, (ENOUGH_FILES, 524_288)),
        ((1024, NO_LIMIT), ENOUGH_FILES, (ENOUGH_FILES, NO_LIMIT)),
        ((256, 4096), 4096, (4096, 4096)),
        ((1024, 1024), 1024, None),
        ((100_000, 524_288), 100_000, None),
        ((NO_LIMIT, NO_LIMIT), ENOUGH_FILES, None),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_it_goes_and_never_lowered(
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int, int],
    allowed: int,
    after: tuple[int, int] | None,
) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: set_to.append(new))
    assert allow_open_files() == allowed
    assert set_to == ([] if after is None else [after])


def test_a_system_that_refuses_leaves_the_limit_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, NO_LIMIT))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert allow_open_files() == 256
