"""Every error that vectoll raises on purpose. HTTP statuses are given once, in ``vectoll.http.errors``.

::

    VectollError
    ├── InvalidRequest            the request breaks the contract; names each offending field
    │   ├── UnknownModel          no such model id here
    │   ├── InputTooLong          an input exceeds the model's context; nothing is truncated
    │   ├── TooManyCharacters     an input is so large that its tokens were not counted
    │   ├── TooFewTokens          more text than its tokens pay for
    │   └── TokenIdsRefused       token ids for a model that is set to take none
    ├── Unauthenticated           no credential, or one that does not hold
    │   ├── NoCredentials         nothing was sent that says who is calling
    │   ├── SignInRefused         a wallet's sign-in breaks a rule (vectoll.domain.siwx)
    │   └── ModelNotPermitted     the caller is known, but this model is for Pro users
    ├── Forbidden                 the caller is known, and may not do this
    ├── NotFound                  the thing that the path names does not exist
    ├── PaymentRequired           credit is missing; nothing was encoded or charged
    │   ├── InsufficientBalance   the quote does not fit the account's available credit
    │   ├── NothingToSpend        a large request of an account that can pay for none
    │   ├── WalletBalanceTooLow   a wallet has less than it needs to be served at all
    │   └── SpendLimitReached     the quote does not fit the API key's own spend limit
    ├── IdempotencyConflict       the Idempotency-Key was used for another request
    │   └── IdempotencyKeySpent   it was repeated too often, or is too old
    ├── PayloadTooLarge           the body exceeds the limit
    ├── UnsupportedMediaType      the body is not application/json
    │   └── ContentEncoded        it is, but compressed
    ├── RateLimited               too many requests, tokens or failures; says when to come back
    ├── InferenceFailed           the engine failed, or a vector was not finite; never charged
    ├── Unavailable               not now; may say when
    │   ├── AtCapacity            the queue is full or the expected wait too long
    │   ├── OutcomeUnknown        it may have been done or not; will be found out
    │   ├── ModelOffline          the model is in the catalogue, its weights are not loadable
    │   ├── UpstreamUnavailable   the provider of the model's vectors does not answer, or refuses us
    │   ├── RailUnavailable       a chain or facilitator did not answer; no money moved (vectoll.domain.payments)
    │   └── Draining              the server is shutting down
    ├── PaymentRefused            a payment in USDC cannot be accepted (this and what follows: vectoll.domain.payments)
    ├── PaymentInProgress         it is being settled by another request, or watched
    ├── PaymentAlreadyCredited    it was credited by an earlier request
    ├── PaymentOutcomeUnknown     it was sent, and what became of it is not known yet
    ├── PaymentHeaderNotAccepted  it came with a request for embeddings, where none is taken
    └── ConfigurationError        a setting is wrong; one line for the operator
        └── Unusable              the setting is right; what it names cannot be used as it is now
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vectoll.domain.money import Amount, format_exact_usd, format_usd

NOTHING_CHARGED = "nothing was embedded or charged"
"""What a refusal says when that is so."""


@dataclass(frozen=True, slots=True)
class FieldIssue:
    """One thing that is wrong with a request.

    ``path`` leads to it from the body's root: ``("input", 3)`` is the fourth input; ``()`` is the body itself.
    """

    path: tuple[str | int, ...]
    message: str


class VectollError(Exception):
    """The root. ``str(error)`` is safe to show to a stranger: no secret, no input text."""

    code: str = "INTERNAL_ERROR"


class InvalidRequest(VectollError):
    """The request breaks the contract."""

    code = "INVALID_REQUEST"

    def __init__(self, message: str, issues: Sequence[FieldIssue] = ()) -> None:
        super().__init__(message)
        self.issues = tuple(issues)

    def reword(self, change: Callable[[str], str]) -> None:
        """Say it differently, in the message and in every issue."""
        self.args = (change(str(self)),)
        self.issues = tuple(replace(issue, message=change(issue.message)) for issue in self.issues)

    @classmethod
    def at(cls, path: tuple[str | int, ...], message: str) -> "InvalidRequest":
        """One issue at ``path``; the message is ``message`` alone, which names what it is about."""
        return cls(message, [FieldIssue(path, message)])

    @classmethod
    def of(cls, path: tuple[str | int, ...], why: str) -> "InvalidRequest":
        """One issue at ``path``; the message is the path and ``why``: ``input[3]: must not be empty``."""
        return cls(f"{format_path(path)}: {why}", [FieldIssue(path, why)])


class UnknownModel(InvalidRequest):
    """No model of this id or alias is served, or known: ``which`` says what ``names`` are."""

    code = "INVALID_MODEL"

    def __init__(self, model: str, names: Sequence[str], which: str = "Served models") -> None:
        self.model = model
        listed = ", ".join(names) or "none at the moment"
        message = f"The model '{shorten(model)}' is not served here. {which}: {listed}."
        super().__init__(message, [FieldIssue(("model",), message)])


class InputTooLong(InvalidRequest):
    """An input has more tokens than the model reads. The wording is parsed by clients (pgai): keep it."""

    code = "CONTEXT_LENGTH_EXCEEDED"

    def __init__(self, index: int, tokens: int, limit: int) -> None:
        self.index, self.tokens, self.limit = index, tokens, limit
        message = (
            f"This model's maximum context length is {limit} tokens, "
            f"but input {index} has {tokens} tokens. Shorten or split it; {NOTHING_CHARGED}."
        )
        super().__init__(message, [FieldIssue(("input", index), message)])


class TooManyCharacters(InvalidRequest):
    """An input is far larger than any text that fits the model's context, so its tokens were not counted.

    It begins like InputTooLong, whose wording clients know: litellm raises ContextWindowExceededError by it.
    """

    code = "CONTEXT_LENGTH_EXCEEDED"

    def __init__(self, index: int, characters: int, most: int, limit: int) -> None:
        message = (
            f"This model's maximum context length is {limit} tokens, but input {index} has {characters} characters, "
            f"and at most {most} are read. Shorten or split it; {NOTHING_CHARGED}."
        )
        super().__init__(message, [FieldIssue(("input", index), message)])


class TooFewTokens(InvalidRequest):
    """So much text for so few tokens is not prose, and costs more to read than it pays."""

    def __init__(self, characters: int, tokens: int, limit: int) -> None:
        message = (
            f"input: {characters} characters make only {tokens} tokens, which may have at most {limit} characters. "
            "Leave out what the model does not read: long runs of spaces, or of letters without a space."
        )
        super().__init__(message, [FieldIssue(("input",), message)])


class TokenIdsRefused(InvalidRequest):
    """Token ids for a model that takes none (``token_ids = "reject"``)."""

    def __init__(self, model: str) -> None:
        message = (
            f"the model '{model}' does not take token ids; send text instead "
            "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))."
        )
        super().__init__(f"input: {message}", [FieldIssue(("input",), message)])


class Unauthenticated(VectollError):
    """No credential was sent, or the one that was does not hold."""

    code = "AUTHENTICATION_FAILED"


class NoCredentials(Unauthenticated):
    """Nothing was sent that says who is calling."""

    def __init__(self) -> None:
        super().__init__("Authentication failed: send `Authorization: Bearer <API key>`.")


class ModelNotPermitted(Unauthenticated):
    """The spec answers 401 for a model that only Pro accounts may use."""

    code = "MODEL_NOT_PERMITTED"

    def __init__(self) -> None:
        super().__init__("This model is only available to Pro users")


class Forbidden(VectollError):
    """The caller is known and may not do this."""

    code = "FORBIDDEN"


class NotFound(VectollError):
    """What the path names does not exist."""

    code = "NOT_FOUND"


class PaymentRequired(VectollError):
    """Nothing was encoded, nothing was charged: credit is missing."""

    code = "PAYMENT_REQUIRED"


class InsufficientBalance(PaymentRequired):
    """The quote does not fit what the account has left."""

    code = "INSUFFICIENT_BALANCE"

    def __init__(self, required: Amount, available: Amount) -> None:
        self.required = required
        self.available = available
        super().__init__(
            f"Insufficient balance: this request costs ${format_exact_usd(required)}, "
            f"${format_exact_usd(available)} is available. Add credit and try again."
        )


class NothingToSpend(PaymentRequired):
    """The account could not pay for any request, so a large one is not read."""

    code = "INSUFFICIENT_BALANCE"

    def __init__(self) -> None:
        super().__init__("Insufficient balance: this account has no credit. Add credit and try again.")


class WalletBalanceTooLow(PaymentRequired):
    """A wallet has less credit than a request of its needs to be looked at."""

    def __init__(self, minimum: Amount, balance: Amount) -> None:
        self.available = balance
        super().__init__(f"Insufficient x402 balance: at least ${format_usd(minimum, decimals=2)} is needed.")


class SpendLimitReached(PaymentRequired):
    """The quote does not fit what is left of the API key's own spend limit."""

    code = "API_KEY_SPEND_LIMIT_REACHED"

    def __init__(self, limit: Amount, spent: Amount) -> None:
        super().__init__(
            f"This API key may spend ${format_exact_usd(limit)} in its limit period "
            f"and has spent ${format_exact_usd(spent)}; this request costs more than is left."
        )


class IdempotencyConflict(VectollError):
    """An Idempotency-Key names exactly one request."""

    code = "IDEMPOTENCY_KEY_REUSED"

    def __init__(
        self, message: str = "This Idempotency-Key was already used for a different request. Use a new key."
    ) -> None:
        super().__init__(message)


class IdempotencyKeySpent(IdempotencyConflict):
    """A charge is answered again a few times, and for a day. ``why`` this one is not goes on "The request …"."""

    code = "IDEMPOTENCY_KEY_SPENT"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The request under this Idempotency-Key {why}. Use a new key: it is a new request, and is charged."
        )


class PayloadTooLarge(VectollError):
    """The body exceeds the limit."""

    code = "PAYLOAD_TOO_LARGE"

    def __init__(self, limit_bytes: int, advice: str = "") -> None:
        super().__init__(f"The request body exceeds {limit_bytes} bytes. {advice}".rstrip())


class UnsupportedMediaType(VectollError):
    """The body is not JSON by its own label."""

    code = "INVALID_CONTENT_TYPE"

    def __init__(self, message: str = "Invalid request content-type: send application/json in UTF-8") -> None:
        super().__init__(message)


class ContentEncoded(UnsupportedMediaType):
    """The body has a content coding, and none is read here."""

    code = "INVALID_CONTENT_ENCODING"

    def __init__(self) -> None:
        super().__init__("Invalid request content-encoding: send the body as it is, without Content-Encoding")


class RateLimited(VectollError):
    """Come back after ``retry_after_s`` seconds (at least 1)."""

    code = "RATE_LIMIT_EXCEEDED"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = max(1, retry_after_s)


class InferenceFailed(VectollError):
    """The engine failed. Nothing was charged."""

    code = "INFERENCE_FAILED"

    def __init__(self, message: str = "Inference processing failed. Nothing was charged.") -> None:
        super().__init__(message)


class Unavailable(VectollError):
    """Not now. ``retry_after_s`` is None where nobody can say when."""

    code = "UNAVAILABLE"

    def __init__(self, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AtCapacity(Unavailable):
    """The queue is full, or the expected wait is longer than the operator allows."""

    code = "MODEL_AT_CAPACITY"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("The model is at capacity. Please try again later.", max(1, retry_after_s))


class OutcomeUnknown(Unavailable):
    """What was asked for may have been carried out: nobody knows until the database, or its disk, is back."""


class ModelOffline(Unavailable):
    """The model is in the catalogue but cannot be loaded; ``reason`` is for the caller, so keep paths out."""

    code = "MODEL_OFFLINE"

    def __init__(self, model: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"The model '{model}' is offline: {reason}")


class UpstreamUnavailable(Unavailable):
    """The provider of the model's vectors does not answer, or refuses us. Never shows what it said."""

    code = "UPSTREAM_UNAVAILABLE"

    def __init__(self, model: str, reason: str, retry_after_s: int | None = None) -> None:
        super().__init__(f"The provider of the model '{model}' {reason}. Nothing was charged.", retry_after_s)


class Draining(Unavailable):
    """The server is shutting down; another one, or this one restarted, will answer."""

    code = "SHUTTING_DOWN"

    def __init__(self) -> None:
        super().__init__("The server is shutting down. Please try again.", retry_after_s=1)


class ConfigurationError(VectollError):
    """A setting is wrong. One line that names the setting and says what it should be."""

    code = "CONFIGURATION_ERROR"


class Unusable(ConfigurationError):
    """No setting is wrong: what one names is in use, there already, full, damaged, or does not answer."""

    code = "UNUSABLE"


def format_path(path: Sequence[str | int]) -> str:
    """``("input", 3, 0)`` → ``input[3][0]``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def shorten(text: str, limit: int = 80) -> str:
    """A stranger's text in a message stays short and printable."""
    printable = "".join(c if c.isprintable() else "?" for c in text[: limit + 1])
    return printable if len(printable) <= limit else printable[:limit] + "…"
