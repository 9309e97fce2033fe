"""From a specification to a model that can be asked."""

from collections.abc import Mapping

from vectoll.adapters.upstreams.gemini import GeminiProvider
from vectoll.adapters.upstreams.model import UpstreamModel
from vectoll.adapters.upstreams.openai import OpenAIProvider
from vectoll.adapters.upstreams.provider import Provider
from vectoll.adapters.upstreams.retries import RetryPolicy
from vectoll.adapters.upstreams.transport import Transport
from vectoll.core.gate import FairGate
from vectoll.core.reading import Readers
from vectoll.domain.catalog import ModelKind, ModelSpec, Upstream
from vectoll.domain.errors import ConfigurationError, ModelOffline
from vectoll.ports.metrics import Metrics
from vectoll.ports.model import ForeignTokens, Tokenizer

MAX_CALLS = 64
"""Calls to one upstream at once."""

MAX_WAITING_CALLS = 4096
"""Calls that may wait for their turn, after which the answer is 503."""


def build_upstream(
    spec: ModelSpec,
    environ: Mapping[str, str],
    readers: Readers,
    *,
    tokenizer: Tokenizer | None,
    foreign: ForeignTokens | None,
    metrics: Metrics,
    retries: RetryPolicy | None = None,
) -> UpstreamModel:
    """A model over ``spec.upstream``; connects on first use. Our key is read from ``environ``, here and nowhere else.
    ``readers`` count the tokens of long texts.

    ``tokenizer`` is the provider's, where ``spec.upstream.tokenizer`` names one; ``foreign`` reads the token ids of
    ``spec.token_ids``. Raises ModelOffline when the key's variable is not set, ConfigurationError when what it
    holds cannot be a key.
    """
    upstream = spec.upstream
    if upstream is None:
        raise ValueError(f"{spec.id} is no upstream model")
    key = _read_key(spec, upstream, environ)
    provider = _provider(spec, upstream, key, retries or RetryPolicy(), metrics)
    gate = FairGate(MAX_CALLS, MAX_WAITING_CALLS, max_wait_s=upstream.timeout_s / 2)  # the rest is the call's
    return UpstreamModel(spec, upstream, provider, gate, readers, tokenizer, foreign)


def _read_key(spec: ModelSpec, upstream: Upstream, environ: Mapping[str, str]) -> str | None:
    if upstream.api_key_env is None:
        return None
    key = environ.get(upstream.api_key_env, "").strip()
    if not key:
        raise ModelOffline(spec.id, "the operator has not set the API key of its upstream")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError(f"model {spec.id!r}: {upstream.api_key_env} does not hold an API key")
    return key


def _provider(
    spec: ModelSpec,
    upstream: Upstream,
    key: str | None,
    retries: RetryPolicy,
    metrics: Metrics,
) -> Provider:
    is_gemini = upstream.kind is ModelKind.GEMINI
    headers: dict[str, str] = {}
    if key is not None:
        headers = {"x-goog-api-key": key} if is_gemini else {"authorization": f"Bearer {key}"}
    transport = Transport(
        upstream.base_urls,
        headers,
        timeout_s=upstream.timeout_s,
        retries=retries,
        model=spec.id,
        metrics=metrics,
    )
    if is_gemini:
        return GeminiProvider(transport, upstream.model, spec.dims)
    return OpenAIProvider(transport, upstream.model, spec.dims)
