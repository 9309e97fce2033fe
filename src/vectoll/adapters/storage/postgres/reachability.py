"""Whether the database answers, as it was last seen: said once when it is lost, and once when it is back."""

import logging
import time

_log = logging.getLogger("vectoll.storage")


class Reachability:
    """Told of every statement's outcome, asks nothing itself."""

    def __init__(self, patience_s: float) -> None:
        """A timeout means busy, not lost, if the database has answered something else within ``patience_s``."""
        self._patience_s = patience_s
        self._answered_at = time.monotonic()
        self.is_lost = False

    def answered(self) -> None:
        """It has carried out, or refused, a statement."""
        now = time.monotonic()
        if self.is_lost:
            self.is_lost = False
            _log.info("database_back", extra={"lost_s": round(now - self._answered_at)})
        self._answered_at = now

    def failed(self, error: BaseException, reason: str) -> None:
        """It could not be reached. ``reason`` holds no secret."""
        is_busy = isinstance(error, TimeoutError) and time.monotonic() - self._answered_at < self._patience_s
        if not self.is_lost and not is_busy:
            self.is_lost = True
            _log.error("database_lost", extra={"reason": reason})
