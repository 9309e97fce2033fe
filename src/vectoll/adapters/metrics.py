"""Metrics in Prometheus's text format. Labels come from closed sets: models, stages, routes, statuses."""

from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from vectoll.adapters.buffered import Buffer
from vectoll.adapters.metrics_payments import PrometheusPayments
from vectoll.adapters.timings import Timings
from vectoll.domain.money import UNITS_PER_USD
from vectoll.ports.metrics import Reattempt, Stage, UpstreamOutcome

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class _ModelMetrics:
    """The metrics with one label, the model."""

    requests: Counter
    inputs: Counter
    tokens: Counter
    batch_fill: Histogram
    batch_sequences: Histogram
    batch_tokens: Counter
    padding_tokens: Counter
    queue_tokens: Gauge
    charges: Counter
    charged_usd: Counter

    def labels(self, model: str) -> "_ModelMetrics":
        """The same metrics for one model, to be kept: looking labels up costs more than counting does."""
        return _ModelMetrics(
            requests=self.requests.labels(model),
            inputs=self.inputs.labels(model),
            tokens=self.tokens.labels(model),
            batch_fill=self.batch_fill.labels(model),
            batch_sequences=self.batch_sequences.labels(model),
            batch_tokens=self.batch_tokens.labels(model),
            padding_tokens=self.padding_tokens.labels(model),
            queue_tokens=self.queue_tokens.labels(model),
            charges=self.charges.labels(model),
            charged_usd=self.charged_usd.labels(model),
        )


class PrometheusMetrics:
    """A ServerMetrics with a registry of its own, beside the process's memory, CPU time and open files."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter, never read
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._all_models = _model_metrics(self._registry)
        self.payments = PrometheusPayments(self._registry)
        self._stages = Timings(
            "vectoll_stage_seconds",
            "Time in one stage of a request.",
            ("model", "stage"),
            SECONDS,
            self._registry,
        )
        self._answers = Timings(
            "vectoll_http_request_seconds",
            "Time to answer an HTTP request.",
            ("method", "route", "status"),
            SECONDS,
            self._registry,
        )
        self._upstream_calls = Timings(
            "vectoll_upstream_call_seconds",
            "Time of one call to one upstream, by how it ended.",
            ("model", "host", "outcome"),
            SECONDS,
            self._registry,
        )
        self._upstream_again = Counter(
            "vectoll_upstream_again_total",
            "Calls to upstreams after one that failed: at another URL at once, or after a pause.",
            ("model", "how"),
            registry=self._registry,
        )
        self._models: dict[str, _ModelMetrics] = {}
        self._embedded = Buffer(self._count_embedded)
        self._charged = Buffer(self._count_charged)

    def stage(self, model: str, stage: Stage, seconds: float) -> None:
        """Time spent in one stage of a request."""
        self._stages.observe((model, stage), seconds)

    def embedded(self, model: str, inputs: int, tokens: int) -> None:
        """A request was answered."""
        self._embedded.add((model, inputs, tokens))

    def batch(self, model: str, sequences: int, tokens: int, padded_tokens: int, budget_tokens: int) -> None:
        """One batch ran."""
        of_model = self._of(model)
        of_model.batch_sequences.observe(sequences)
        of_model.batch_fill.observe(tokens / budget_tokens)
        of_model.batch_tokens.inc(tokens)
        of_model.padding_tokens.inc(padded_tokens - tokens)

    def queued(self, model: str, tokens: int) -> None:
        """How many tokens now wait for an engine."""
        self._of(model).queue_tokens.set(tokens)

    def charged(self, model: str, units: int) -> None:
        """A charge was committed. Prometheus knows floats only: this total is for graphs, the ledger is exact."""
        self._charged.add((model, units))

    def upstream_called(self, model: str, host: str, outcome: UpstreamOutcome, seconds: float) -> None:
        """One call to one base URL ended."""
        self._upstream_calls.observe((model, host, outcome.value), seconds)

    def upstream_reattempted(self, model: str, how: Reattempt) -> None:
        """A call that failed is made again."""
        self._upstream_again.labels(model, how.value).inc()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._answers.observe((method, route, str(status)), seconds)

    def render(self) -> bytes:
        """Everything, in Prometheus's text format 0.0.4."""
        self._embedded.flush()
        self._charged.flush()
        return generate_latest(self._registry)

    def _count_embedded(self, requests: Sequence[tuple[str, int, int]]) -> None:
        for model in {model for model, *_ in requests}:
            of_model, own = self._of(model), [request for request in requests if request[0] == model]
            of_model.requests.inc(len(own))
            of_model.inputs.inc(sum(inputs for _, inputs, _ in own))
            of_model.tokens.inc(sum(tokens for *_, tokens in own))

    def _count_charged(self, charges: Sequence[tuple[str, int]]) -> None:
        for model in {model for model, _ in charges}:
            of_model, own = self._of(model), [units for charged, units in charges if charged == model]
            of_model.charges.inc(len(own))
            of_model.charged_usd.inc(sum(own) / UNITS_PER_USD)

    def _of(self, model: str) -> _ModelMetrics:
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = self._all_models.labels(model)
        return found


def _model_metrics(registry: CollectorRegistry) -> _ModelMetrics:
    def counter(name: str, text: str) -> Counter:
        return Counter(name, text, ("model",), registry=registry)

    def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ("model",), buckets=buckets, registry=registry)

    return _ModelMetrics(
        requests=counter("vectoll_requests_total", "Embedding requests answered."),
        inputs=counter("vectoll_inputs_total", "Inputs embedded and delivered."),
        tokens=counter("vectoll_tokens_total", "Tokens of answered requests, as metered."),
        batch_fill=histogram("vectoll_batch_fill_ratio", "A batch's tokens, of its budget.", SHARES),
        batch_sequences=histogram("vectoll_batch_sequences", "Sequences in a batch.", SEQUENCES),
        batch_tokens=counter("vectoll_batch_tokens_total", "Tokens computed, padding left out."),
        padding_tokens=counter("vectoll_padding_tokens_total", "Padding computed and thrown away."),
        queue_tokens=Gauge("vectoll_queue_tokens", "Tokens waiting.", ("model",), registry=registry),
        charges=counter("vectoll_charges_total", "Charges committed to the ledger."),
        charged_usd=counter("vectoll_charged_usd_total", "Dollars charged, about; the ledger is exact."),
    )
