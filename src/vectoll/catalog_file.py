"""From ``catalog.toml`` and the operator's ``[[models]]`` to the models that are served, and why some are not.

Both are the same tables. The operator's fields win one by one; naming a model in ``vectoll.toml`` switches it on,
``enabled = false`` hides it. What neither says is read from the checkpoint.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from vectoll.domain.catalog import (
    Catalog,
    CheckpointFacts,
    ModelKind,
    ModelSource,
    ModelSpec,
    Pooling,
    Precision,
    Privacy,
    TokenIdPolicy,
    Upstream,
    UsageMissing,
)
from vectoll.domain.errors import ConfigurationError, ModelOffline
from vectoll.domain.ids import ModelId
from vectoll.domain.money import Price
from vectoll.domain.urls import is_http_url
from vectoll.settings import ModelSettings, Settings

T = TypeVar("T")

ReadFacts = Callable[[ModelId, ModelSource], CheckpointFacts]
"""What a checkpoint says about itself. Downloads nothing. Raises ModelOffline for one that is not on this machine,
ConfigurationError for one that cannot be read."""

_UNREADABLE = CheckpointFacts(family="", pooling=Pooling.MEAN, dims=0, max_tokens=0)

_DEFAULT_BASE_URLS = {ModelKind.GEMINI: "https://generativelanguage.googleapis.com/v1beta"}
_MAX_BATCH_INPUTS = {ModelKind.OPENAI: 2048, ModelKind.GEMINI: 100}
_DEFAULT_USAGE_MISSING = {ModelKind.OPENAI: UsageMissing.FAIL, ModelKind.GEMINI: UsageMissing.COUNT}


class _CatalogFile(Struct, frozen=True, forbid_unknown_fields=True):
    models: tuple[ModelSettings, ...]


@dataclass(frozen=True, slots=True)
class ServedModels:
    """Every model of this server."""

    catalog: Catalog
    offline: Mapping[ModelId, str]
    """Models that cannot be served as things are, with the reason that callers are given."""
    faults: Mapping[ModelId, str]
    """Why those of them that the operator has switched on are offline, as the operator is told: it may name files."""


@cache
def builtin_models() -> tuple[ModelSettings, ...]:
    """The tables of the packaged ``catalog.toml``, in its order."""
    text = resources.files("vectoll.domain").joinpath("catalog.toml").read_text()
    return msgspec.convert(tomllib.loads(text), _CatalogFile).models


def read_models(
    settings: Settings,
    read_facts: ReadFacts | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ServedModels:
    """Merge, complete and check every model. Raises ConfigurationError, one line that names model and setting.

    A checkpoint that cannot be read makes its own model offline, and no other.
    """
    usual = {entry.id: entry.pooling for entry in builtin_models()}
    named = {entry.id for entry in settings.models}
    faults: dict[ModelId, str] = {}
    offline: dict[ModelId, str] = {}
    specs = []
    for entry in read_entries(settings):
        try:
            facts = _facts(entry, read_facts)
        except (ConfigurationError, ModelOffline) as error:
            facts = _UNREADABLE
            offline[ModelId(entry.id)] = "its checkpoint is not there or cannot be read"
            faults[ModelId(entry.id)] = error.reason if isinstance(error, ModelOffline) else str(error)
        spec = _to_spec(entry, settings, facts, usual.get(entry.id))
        specs.append(spec)
        if spec.upstream and spec.id not in named:  # a key in the environment alone buys nothing
            offline[spec.id] = "the operator has not switched this upstream on"
        elif spec.upstream and (variable := spec.upstream.api_key_env) and not environ.get(variable):
            offline[spec.id] = "the operator has not set the API key of its upstream"
            faults[spec.id] = _no_key(variable)
    try:
        return ServedModels(Catalog(specs), offline, faults)
    except ValueError as error:
        raise ConfigurationError(f"setting models: {error}") from None


def read_entries(settings: Settings) -> Sequence[ModelSettings]:
    """The catalogue's tables with the operator's changes, less those that are hidden. Raises ConfigurationError."""
    named = {entry.id: entry for entry in settings.models}
    if len(named) < len(settings.models):
        raise ConfigurationError("setting models: two [[models]] entries have the same id")
    base = {entry.id: entry for entry in builtin_models()}
    merged = {model_id: _merge(entry, named.get(model_id)) for model_id, entry in base.items()}
    merged |= {model_id: entry for model_id, entry in named.items() if model_id not in base}
    return [entry for entry in merged.values() if entry.enabled]


def source_of(entry: ModelSettings) -> ModelSource | None:
    """Where a model's weights come from; None when its vectors are bought."""
    if _kind(entry) is not ModelKind.LOCAL:
        return None
    path = Path(entry.path).expanduser() if entry.path else None
    return ModelSource(path=path, package=entry.package, repo=entry.repo, revision=entry.revision)


def _merge(base: ModelSettings, over: ModelSettings | None) -> ModelSettings:
    """``over``'s fields where it sets them, else ``base``'s."""
    if over is None:
        return base
    changes = {n: value for n in over.__struct_fields__ if (value := getattr(over, n)) is not None}
    if over.path:  # what is there says it; if not, the catalogue: ``_pooling``
        changes["pooling"] = over.pooling
    if over.repo or over.revision:  # the catalogue's package has other weights, and would come first
        changes["package"] = over.package
    if over.package:
        changes["repo"] = over.repo
    if over.kind is None and (over.path or over.repo or over.package):
        changes["kind"] = ModelKind.LOCAL
    merged = msgspec.structs.replace(base, **changes)
    if over.base_url is None and _kind(merged) is _kind(base):
        return merged
    return _forget_how(base, over, merged)


def _forget_how(base: ModelSettings, over: ModelSettings, merged: ModelSettings) -> ModelSettings:
    """A catalogue entry that the operator serves in another way, or from elsewhere, keeps nothing of how it was served.

    Above all, its API key is sent nowhere else. The token ids that clients send to OpenAI's models are still OpenAI's.
    """
    how = ("path", "package", "repo", "revision", "pooling", "family", "precision", "base_url", "api_key_env",
           "upstream_model", "tokenizer", "usage_missing", "max_batch_inputs", "timeout_s", "privacy")  # fmt: skip
    changes = {name: getattr(over, name) for name in how}
    if _kind(base) is ModelKind.OPENAI and over.token_ids is None:
        changes["token_ids"] = TokenIdPolicy.CL100K_BASE
    return msgspec.structs.replace(merged, **changes)


def _kind(entry: ModelSettings) -> ModelKind:
    return entry.kind or ModelKind.LOCAL


def _facts(entry: ModelSettings, read_facts: ReadFacts | None) -> CheckpointFacts | None:
    """What the checkpoint says, where it has to be asked. Raises what ``read_facts`` raises."""
    is_complete = all(v is not None for v in (entry.pooling, entry.dims, entry.max_tokens))
    source = source_of(entry)
    if read_facts is None or is_complete or source is None or source == ModelSource():
        return None
    return read_facts(ModelId(entry.id), source)


def _meant(name: str) -> str:
    near = difflib.get_close_matches(name, [entry.id for entry in builtin_models()], n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _to_spec(
    entry: ModelSettings, settings: Settings, facts: CheckpointFacts | None, usual: Pooling | None
) -> ModelSpec:
    """``usual`` is the pooling that the catalogue names, where it does."""
    kind = _kind(entry)
    upstream = None if kind is ModelKind.LOCAL else _upstream(entry, kind)
    source = source_of(entry) or ModelSource()
    if upstream is None and source == ModelSource():
        how = "give path or repo for a checkpoint, or kind and base_url for an upstream"
        raise _wrong(entry, "path", f"not in the catalogue{_meant(entry.id)}: {how}")
    pooling = _pooling(entry, facts, upstream, usual)
    dims = _needed(entry, "dims", entry.dims, facts.dims if facts else None)
    return ModelSpec(
        id=ModelId(entry.id),
        name=entry.name or entry.id,
        source=source,
        pooling=pooling,
        dims=dims,
        max_tokens=_needed(entry, "max_tokens", entry.max_tokens, facts.max_tokens if facts else None),
        price=_price(entry, settings),
        matryoshka_dims=_within(entry, "matryoshka_dims", tuple(sorted(entry.matryoshka_dims or ())), dims),
        matryoshka_any=entry.matryoshka_any or False,
        min_dims=_within(entry, "min_dims", (entry.min_dims or 1,), dims)[0],
        prompt=entry.prompt,
        token_ids=_token_ids(entry, kind),
        truncate=_truncate(entry, upstream),
        pro_only=entry.pro_only or False,
        privacy=entry.privacy or (Privacy.ANONYMIZED if upstream else Privacy.PRIVATE),
        licence=entry.licence or "",
        aliases=entry.aliases or (),
        family=entry.family or (facts.family if facts else ""),
        precision=Precision(entry.precision or Precision.AUTO),
        load_on_start=entry.load != "first_use",
        upstream=upstream,
    )


def _upstream(entry: ModelSettings, kind: ModelKind) -> Upstream:
    given = entry.base_url or _DEFAULT_BASE_URLS.get(kind) or ()
    urls = (given,) if isinstance(given, str) else given
    if not urls:
        raise _wrong(entry, "base_url", "an upstream needs at least one")
    usage_missing = entry.usage_missing or _DEFAULT_USAGE_MISSING[kind]
    if kind is ModelKind.OPENAI and usage_missing is UsageMissing.COUNT and not entry.tokenizer:
        raise _wrong(entry, "usage_missing", "count needs a tokenizer to count with")
    return Upstream(
        kind=kind,
        base_urls=tuple(_base_url(entry, url) for url in urls),
        model=entry.upstream_model or entry.id,
        api_key_env=entry.api_key_env or None,
        tokenizer=entry.tokenizer or None,
        usage_missing=usage_missing,
        max_batch_inputs=min(entry.max_batch_inputs or _MAX_BATCH_INPUTS[kind], _MAX_BATCH_INPUTS[kind]),
        timeout_s=entry.timeout_s or 60.0,
    )


def _base_url(entry: ModelSettings, url: str) -> str:
    """Checked, without its trailing slash. The error does not repeat the URL, which may hold a password."""
    if not is_http_url(url):
        raise _wrong(entry, "base_url", "must start with http:// or https:// and name a host")
    parts = urlsplit(url)
    if parts.username is not None or parts.query or parts.fragment:
        raise _wrong(
            entry, "base_url", "must have no password, query or fragment; name the key in api_key_env"
        )
    return url.rstrip("/")


def _no_key(variable: str) -> str:
    """A name unlike most variables' may be the key itself, and is not repeated."""
    if re.fullmatch("[A-Z0-9_]+", variable):
        return f"the environment variable {variable}, which setting api_key_env names, is not set"
    return "setting api_key_env names an environment variable that is not set; it is not for the key itself"


def _pooling(
    entry: ModelSettings, facts: CheckpointFacts | None, upstream: Upstream | None, usual: Pooling | None
) -> Pooling:
    if upstream is not None:
        return Pooling.UPSTREAM
    if entry.pooling is Pooling.UPSTREAM:
        raise _wrong(entry, "pooling", "must be cls, mean or last")
    return _needed(entry, "pooling", entry.pooling, (facts.pooling if facts else None) or usual)


def _token_ids(entry: ModelSettings, kind: ModelKind) -> TokenIdPolicy:
    default = TokenIdPolicy.REJECT if kind is ModelKind.GEMINI else TokenIdPolicy.NATIVE
    policy = entry.token_ids or default
    if kind is ModelKind.GEMINI and policy is TokenIdPolicy.NATIVE:
        raise _wrong(entry, "token_ids", "Gemini takes no token ids: use cl100k_base, r50k_base or reject")
    return policy


def _truncate(entry: ModelSettings, upstream: Upstream | None) -> bool:
    if entry.truncate and upstream:
        raise _wrong(entry, "truncate", "is for local models only")
    return entry.truncate or False


def _price(entry: ModelSettings, settings: Settings) -> Price:
    try:
        if entry.price_usd_per_million is None:
            return Price.per_million(settings.default_price_usd_per_million)
        return Price.per_million(entry.price_usd_per_million)
    except ValueError as error:
        raise _wrong(entry, "price_usd_per_million", str(error)) from None


def _within(entry: ModelSettings, name: str, sizes: tuple[int, ...], dims: int) -> tuple[int, ...]:
    """``sizes``, checked: none is larger than the model's own, where that is known."""
    if dims and max(sizes, default=0) > dims:
        raise _wrong(entry, name, f"{max(sizes)} is more than the {dims} dims that its vectors have")
    return sizes


def _needed(entry: ModelSettings, name: str, given: T | None, from_checkpoint: T | None) -> T:
    value = given if given is not None else from_checkpoint
    if value is None:
        why = "the checkpoint does not say" if _kind(entry) is ModelKind.LOCAL else "an upstream does not say"
        raise _wrong(entry, name, f"set it: {why}")
    return value


def _wrong(entry: ModelSettings, name: str, message: str) -> ConfigurationError:
    return ConfigurationError(f"model {entry.id!r}, setting {name}: {message}")
