"""How many files, and so connections, the process may have open."""

import resource

ENOUGH_FILES = 65_536


def allow_open_files() -> int:
    """Raise the soft limit to the hard one, up to ``ENOUGH_FILES``; returns how many files may be open now.

    Most systems start a process with a soft limit of 1,024, for the sake of programs that use select(2), and let it
    raise that itself. Every connection is an open file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
    if soft == resource.RLIM_INFINITY:
        return ENOUGH_FILES
    if soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft  # some systems have a limit of their own below the hard one
    return wanted
