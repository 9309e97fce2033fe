"""The dashboard and the alerts: what they ask for exists, and a real Prometheus gets answers."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.deploy.promql import parse, unknown
from tests.deploy.tools import DEPLOY, run, tool
from tests.live import MODEL, Key, Server, Vectoll

from vectoll.adapters.metrics import PrometheusMetrics
from vectoll.domain.money import Amount
from vectoll.domain.payments import IntentState
from vectoll.domain.siwx import SignInRule
from vectoll.domain.wallets import Family
from vectoll.ports.metrics import Reattempt, UpstreamOutcome
from vectoll.ports.payment_metrics import TopUpOutcome

ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "vectoll.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {v["name"]: v for v in DASHBOARD["templating"]["list"] if v["type"] == "query"}
EMPTY_WHERE_ALL_IS_WELL = {"Turned away", "Defects"}
NEED_OTHERS = {"Upstreams", "Payments"}
"""Rows that take a provider or a chain to fill."""
WAIT_S = 60

Exposed = Mapping[str, AbstractSet[str]]


@pytest.fixture(scope="module")
def exposed() -> Exposed:
    """Every metric that a server can expose, with its labels."""
    metrics = PrometheusMetrics()
    metrics.stage("m", "encode", 0.1)
    metrics.embedded("m", 1, 1)
    metrics.batch("m", 1, 1, 1, 1)
    metrics.queued("m", 1)
    metrics.charged("m", 1)
    metrics.answered("POST", "/v1/embeddings", 200, 0.1)
    metrics.upstream_called("m", "api.example", UpstreamOutcome.ANSWERED, 0.1)
    metrics.upstream_reattempted("m", Reattempt.RETRY)
    payments = metrics.payments
    payments.top_up(Family.EVM, TopUpOutcome.CREDITED)
    payments.credited(Family.EVM, Amount(1))
    payments.reversed(Family.EVM, Amount(1))
    payments.reconciled(Family.EVM, IntentState.CREDITED, is_final=True)
    payments.open_payments(Family.EVM, 1)
    payments.settlement_funds(Family.EVM, Decimal(1))
    payments.sign_in_refused(next(iter(SignInRule)))
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions_of_panels() -> Iterator[tuple[str, str]]:
    for panel in PANELS:
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])


def row_of(panel_title: str) -> str:
    """The title of the row that a panel stands below."""
    row = ""
    for panel in DASHBOARD["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        elif panel["title"] == panel_title:
            break
    return row


def expressions_of_alerts() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])


@pytest.mark.parametrize(("name", "text"), [*expressions_of_panels(), *expressions_of_alerts()])
def test_every_name_in_an_expression_is_exposed(name: str, text: str, exposed: Exposed) -> None:
    assert parse(text).selectors
    assert list(unknown(text, exposed)) == []


def test_every_metric_of_ours_is_on_the_dashboard(exposed: Exposed) -> None:
    """In one of its forms: a histogram's buckets, or its sum and count."""
    shown = {metric for _, text in expressions_of_panels() for metric, _ in parse(text).selectors}
    histograms = {name.removesuffix("_bucket") for name in exposed if name.endswith("_bucket")}
    ours = {name for name in exposed if name.startswith("vectoll_")}
    for histogram in histograms:
        forms = {f"{histogram}_{form}" for form in ("bucket", "sum", "count")}
        assert forms & shown, histogram
        ours -= forms
    assert ours - shown == {"vectoll_requests_total", "vectoll_inputs_total"}, (
        "which the requests and tokens say too"
    )


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('rate(vectoll_http_request_seconds_count{status="500"}[5m])', []),
        ("sum by (stage) (vectoll_stage_seconds_sum) / on (instance) up", []),
        ("vectoll_http_requests_total", ["vectoll_http_requests_total is no metric"]),
        ('vectoll_tokens_total{stage="x"}', ["vectoll_tokens_total has no label stage"]),
        ("sum by (route) (vectoll_tokens_total)", ["nothing here has a label route"]),
        ("sum(vectoll_tokens_total) by (status) > bool 3", ["nothing here has a label status"]),
    ],
)
def test_a_wrong_name_is_found(text: str, wrong: list[str], exposed: Exposed) -> None:
    assert list(unknown(text, exposed)) == wrong


def test_variables_of_the_dashboard_exist(exposed: Exposed) -> None:
    for variable in VARIABLES.values():
        series, label = variable["definition"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
        assert list(unknown(f"sum by ({label}) ({series})", exposed)) == []


def test_panels_are_laid_out_without_overlap() -> None:
    cells = [
        (p["gridPos"]["x"] + x, p["gridPos"]["y"] + y)
        for p in DASHBOARD["panels"]
        for x in range(p["gridPos"]["w"])
        for y in range(p["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_promtool_accepts_the_rules_and_they_fire_when_they_should() -> None:
    for command in (
        ("check", "rules", ALERTS),
        ("test", "rules", Path(__file__).with_name("alerts_test.yml")),
    ):
        done = run(tool("promtool"), *command)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = yaml.safe_load(Path(__file__).with_name("alerts_test.yml").read_text())["tests"]
    fired = {check["alertname"] for check in tested[-1]["alert_rule_test"] if "exp_alerts" in check}
    assert fired == {name for name, _ in expressions_of_alerts()}


@contextmanager
def prometheus(home: Path, target: str) -> Iterator[httpx.Client]:
    """A Prometheus with our configuration, in a hurry."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    config["rule_files"] = [str(ALERTS)]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    home.mkdir()
    (home / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command: list[Path | str] = [
        tool("prometheus"),
        f"--config.file={home / 'prometheus.yml'}",
        f"--storage.tsdb.path={home / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    process = subprocess.Popen(command)
    try:
        with httpx.Client(base_url=f"http://{address}/api/v1", timeout=10) as client:
            yield client
    finally:
        process.terminate()
        process.wait(20)


def ask(client: httpx.Client, text: str) -> list[Any]:
    """The series that an expression gives now; none as long as Prometheus is starting."""
    try:
        answer = client.get("/query", params={"query": text})
    except httpx.TransportError:
        return []
    if answer.status_code == 503:
        return []
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["data"]["result"]
    return found


def fill_in(text: str) -> str:
    """What Grafana does to an expression."""
    return text.replace("$__rate_interval", "20s").replace("$instance", ".*").replace("$model", ".*")


def use(server: Server, rich: Key, poor: Key) -> None:
    with server.client() as client:
        for key, status in ((rich, 200), (poor, 402)):
            answer = client.post("/v1/embeddings", json={"model": MODEL, "input": "a"}, headers=key.headers)
            assert answer.status_code == status


def test_a_real_prometheus_has_an_answer_for_every_panel(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path / "home", limits__requests_per_minute=0)
    keys = vectoll.create_key(), vectoll.create_key("0")
    with (
        vectoll.serve() as server,
        prometheus(tmp_path / "prometheus", server.url.removeprefix("http://")) as client,
    ):
        deadline = time.monotonic() + WAIT_S
        unanswered = {n: text for n, text in expressions_of_panels() if row_of(n) not in NEED_OTHERS}
        while unanswered and time.monotonic() < deadline:
            use(server, *keys)
            unanswered = {n: text for n, text in unanswered.items() if not ask(client, fill_in(text))}
            if set(unanswered) <= EMPTY_WHERE_ALL_IS_WELL:
                break
        assert set(unanswered) == EMPTY_WHERE_ALL_IS_WELL
        rules = client.get("/rules").json()["data"]["groups"][0]["rules"]
        assert {(rule["name"], rule["health"]) for rule in rules} == {
            (n, "ok") for n, _ in expressions_of_alerts()
        }
        assert not ask(client, "ALERTS")
        server.kill()
        while not ask(client, 'ALERTS{alertname="VectollDown",alertstate="pending"}'):
            assert time.monotonic() < deadline + WAIT_S
