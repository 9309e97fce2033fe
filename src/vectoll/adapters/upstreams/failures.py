"""How a call to an upstream goes wrong. Inside this package only: callers see ``vectoll.domain.errors``.

::

    UpstreamFailure
    ├── NoAnswer          5xx: another try may work
    │   ├── Silence       connection refused or cut, timeout
    │   ├── NotAsked      others wait for an answer, and none comes
    │   └── Busy          429, or 5xx that says when: another try later may work
    │       └── ToldToWait    others were told so
    ├── BadAnswer         status 200, and not what the protocol promises
    ├── Refused           this server's fault: key, quota, model name, URL; its operator must act
    └── InputRefused      the input's fault
        └── TooLong       the input exceeds the model's context
"""


class UpstreamFailure(Exception):
    """The root. ``str(error)`` is for the operator's log: no secret, no input text, nothing the provider wrote."""


class NoAnswer(UpstreamFailure):
    """Another try, elsewhere or later, may work. ``retry_after_s`` is what the provider asked for."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Silence(NoAnswer):
    """Not even a status came back."""


class NotAsked(NoAnswer):
    """Nothing was sent: others wait already for an answer that does not come."""


class Busy(NoAnswer):
    """The provider limits our rate, or has said when it is back."""


class ToldToWait(Busy):
    """Nothing was sent: it has said when it wants to be asked again."""


class BadAnswer(UpstreamFailure):
    """An answer that cannot be delivered: malformed, a vector missing, too short or not finite."""


class Refused(UpstreamFailure):
    """No retry helps until the operator acts."""


class InputRefused(UpstreamFailure):
    """The provider does not take this input."""


class TooLong(InputRefused):
    """An input exceeds the context of ``limit`` tokens; ``tokens`` where the provider said how many it has."""

    def __init__(self, limit: int | None, tokens: int | None) -> None:
        super().__init__("input too long")
        self.limit = limit
        self.tokens = tokens
