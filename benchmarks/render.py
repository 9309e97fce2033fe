"""Write the tables and plots of docs/benchmarks.md from benchmarks/results/.

    python benchmarks/render.py

The text of the page is written by hand; between ``<!-- NAME -->`` and ``<!-- end -->`` it is made here, from
``NAME.json`` and nothing else. A result that is not there leaves its place as it is.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.plot import Line, plot  # noqa: E402

PAGE = ROOT / "docs/benchmarks.md"
PLOTS = ROOT / "docs/plots"
RESULTS = ROOT / "benchmarks/results"

Result = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def engine(result: Result) -> str:
    rows = [
        (
            r["workload"],
            r["who"] if not r["who"].startswith("vectoll") else f"**{r['who']}**",
            f"{r['tokens_per_s']:,}",
            "" if r["who"] == "vectoll bf16" else f"{r['vectoll_bf16_is_times']:.2f} ×",
            "" if r["who"].startswith("vectoll") else f"{r['vectoll_f32_is_times']:.2f} ×",
            percent(r["share_of_peak"]),
            f"{r['min_cosine']:.6f}",
        )
        for r in result["rows"]
    ]
    head = ("texts", "who", "tokens/s", "vectoll bf16 is", "vectoll f32 is", "of peak", "least cosine to f32")
    query = result["query"]
    return "\n\n".join(
        [
            table(head, rows),
            f"{result['texts'].capitalize()}. Peaks in the same run: "
            + ", ".join(
                f"{who.removeprefix('vectoll ')} {peak:,} GFLOP/s"
                for who, peak in {
                    r["who"]: r["peak_gflops"]
                    for r in result["rows"]
                    if r["who"] in ("vectoll bf16", "vectoll f32")
                }.items()
            )
            + ".",
            table(
                ("one query at a time", "p50 ms", "p99 ms"),
                [
                    (
                        f"{query['tokens']} token ids, engine alone",
                        query["engine"]["p50_ms"],
                        query["engine"]["p99_ms"],
                    ),
                    (
                        f"a text of {query['text_tokens']} tokens, tokeniser, queue and engine",
                        query["text_to_vector"]["p50_ms"],
                        query["text_to_vector"]["p99_ms"],
                    ),
                    (
                        "the same, each after a pause of 20 ms",
                        query["text_to_vector_after_a_pause"]["p50_ms"],
                        query["text_to_vector_after_a_pause"]["p99_ms"],
                    ),
                ],
            ),
        ]
    )


def _waits(steady: Result) -> list[str]:
    found = (steady["random"], steady["even"])
    return [f"{at['p50_ms']} / {at['p99_ms']}, {at['p99_over_p50']:.1f} ×" for at in found]


def server(result: Result) -> str:
    rows = []
    latencies = []
    alone = []
    for r in result["rows"]:
        rows.append(
            (
                r["row"],
                f"{r['engine_texts_per_s']:,.0f}",
                f"**{r['vectoll_texts_per_s']:,.0f}**",
                percent(r["share_of_engine"]),
                f"{r['infinity_texts_per_s']:,.0f}",
                f"{r['times_infinity']:.1f} ×",
            )
        )
        alone.append(
            (
                r["row"],
                f"{r['http_alone_texts_per_s']:,.0f}",
                percent(r["http_alone_share"]),
                *_waits(r["http_alone_at_80_percent"]),
            )
        )
        latencies.append(
            (
                r["row"],
                f"{r['p50_ms']} / {r['p99_ms']}",
                f"{r['infinity_p50_ms']} / {r['infinity_p99_ms']}",
                *_waits(r["at_80_percent"]),
                " + ".join(f"{busy:.2f}" for busy in r["core_busy"]),
                r["server_cores"],
                r["generator_cores"],
            )
        )
    large = [
        (
            f"{a['encoding']}, {a['accept_encoding']}",
            a["request_mib"],
            a["answer_mib"],
            a["peak_growth_mib"],
            a["growth_over_answer"],
            a["seconds"],
        )
        for a in result["large_answer"]
    ]
    head = (
        "traffic",
        "engine alone, texts/s",
        "vectoll, texts/s",
        "of engine",
        "infinity-emb, texts/s",
        "ratio",
    )
    seen = (
        "traffic",
        "vectoll p50 / p99 ms, full load",
        "infinity-emb p50 / p99 ms",
        "at 80 % load, at random",
        "at 80 % load, evenly",
        "both cores busy",
        "of it the server",
        "and the load generator",
    )
    bare = ("traffic", "HTTP alone, texts/s", "of engine", "at 80 % load, at random", "at 80 % load, evenly")
    grown = (
        "2048 texts in one request",
        "request MiB",
        "answer MiB",
        "memory grew by MiB",
        "times the answer",
        "s",
    )
    others = [
        (
            r["row"],
            p["precision"],
            f"{p['texts_per_s']:,.0f}",
            f"{p['times_auto']:.2f} ×",
            f"{p['times_infinity']:.1f} ×",
        )
        for r in result["rows"]
        for p in r["precisions"]
    ]
    precisions = ("traffic", "precision", "vectoll, texts/s", "of auto (bf16)", "of infinity-emb")
    return "\n\n".join(
        [
            table(head, rows),
            table(precisions, others),
            table(seen, latencies),
            table(bare, alone),
            table(grown, large),
        ]
    )


def fairness(result: Result) -> str:
    head = ("server", "a query alone, p50 / p99 ms", "beside bulk", "bulk alone, texts/s", "beside queries")
    rows = [
        (
            f"**{r['who']}**" if r["who"] == "vectoll" else r["who"],
            f"{r['alone_p50_ms']} / {r['alone_p99_ms']}",
            f"{r['beside_p50_ms']} / {r['beside_p99_ms']}",
            f"{r['bulk_alone_texts_per_s']:,.0f}",
            f"{r['bulk_texts_per_s']:,.0f}",
        )
        for r in result["rows"]
    ]
    large_head = ("size of", "queries", "one alone, ms", "beside bulk, p50 / most", "bulk, tokens/s")
    large_rows = [
        (
            r["model"],
            "**on a thread of their own**" if r["has_own_thread"] else "in turn with bulk",
            f"{r['alone_ms']:,.0f}",
            f"{r['beside_p50_ms']:,.0f} / {r['beside_most_ms']:,.0f}",
            f"{r['bulk_tokens_per_s']:,.0f}",
        )
        for r in result["large"]
    ]
    return "\n\n".join([table(head, rows), table(large_head, large_rows)])


def gateway(result: Result) -> str:
    head = ("requests", "requests/s", "p50 ms", "p99 ms", "server's CPU, µs each", "generator, of its core")
    return table(
        head,
        [
            (r["row"], f"{r['requests_per_s']:,}", r["p50_ms"], r["p99_ms"], r["server_cpu_us_per_request"],
             percent(r["generator_cores"]))
            for r in result["rates"]
        ],
    )  # fmt: skip


def stages(result: Result) -> str:
    return table(("stage", "CPU µs"), [(s["stage"], s["cpu_us"]) for s in result["stages"]])


def start(result: Result) -> str:
    rows = [
        (
            r["start"],
            f"{r['ready_s']:.2f}",
            f"{r['cpu_s']:.2f}",
            f"{r['rss_mib']:.0f}",
            f"{r['anonymous_mib']:.0f}",
        )
        for r in result["rows"]
    ]
    imports = table(("import", "s"), [(f"`{name}`", f"{s:.3f}") for name, s in result["imports_s"].items()])
    memory = (
        f"Weights on disk: {result['weights_mib']} MiB. Idle after a start: {result['idle_rss_over_weights']} × that "
        f"resident, {result['idle_anonymous_over_weights']} × without what files back."
    )
    head = ("start", "ready after s", "CPU s", "resident MiB", "of it no file's, MiB")
    return "\n\n".join([table(head, rows), memory, imports])


PLOTTED: dict[str, tuple[str, str, Sequence[tuple[str, str, Sequence[tuple[str, str]]]]]] = {
    "growth-texts": (
        "texts",
        "texts in requests of at most 2048",
        (
            ("time", "s", (("seconds", "vectoll"),)),
            ("time-each", "µs per text", (("us_per_text", "vectoll"),)),
            ("memory", "MiB", (("peak_mib", "highest"), ("after_mib", "afterwards"))),
        ),
    ),
    "growth-length": (
        "tokens",
        "tokens in a text",
        (
            ("time", "ms for one text alone", (("one_ms", "vectoll"),)),
            ("time-each", "µs per token", (("us_per_token_alone", "alone"), ("us_per_token_in_batches", "in batches"))),
            ("memory", "MiB", (("rss_mib", "resident"),)),
        ),
    ),
    "growth-connections": (
        "connections",
        "connections, each with a request in flight",
        (
            ("rate", "requests/s", (("requests_per_s", "MiniLM"), ("instant_requests_per_s", "instant engine"))),
            ("latency", "ms, instant engine", (("instant_p50_ms", "p50"), ("instant_p99_ms", "p99"))),
            ("memory", "MiB", (("rss_mib", "MiniLM"), ("instant_rss_mib", "instant engine"))),
        ),
    ),
    "growth-ledger": (
        "transfers",
        "transfers in the ledger, a tenth as many keys",
        (
            ("charge", "µs per charge, 64 at once", (("charge_us_on_100_keys", "on a hundred keys"),
                                                     ("charge_us_on_all_keys", "on all"))),
            ("reads", "ms", (("one_charge_ms", "one charge alone"), ("key_lookup_ms", "key lookup"),
                             ("history_page_ms", "page of history"))),
            ("file", "MiB", (("file_mib", "database"),)),
        ),
    ),
}  # fmt: skip


def growth(name: str) -> Callable[[Result], str]:
    """Plots, and the points as a table."""
    along, label, drawn = PLOTTED[name]

    def render(result: Result) -> str:
        points = result["points"]
        images = []
        for kind, unit, lines in drawn:
            file = f"{name}-{kind}.svg"
            series = [Line(title, [(p[along], p[field]) for p in points]) for field, title in lines]
            (PLOTS / file).write_text(plot(series, label, unit))
            images.append(f"![{unit} against {label}](plots/{file})")
        columns = list(points[0])
        head = [column.replace("_", " ") for column in columns]
        return (
            "\n".join(images)
            + "\n\n"
            + table(head, [[_short(p[column]) for column in columns] for p in points])
        )

    return render


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def large(result: Result) -> str:
    precision = result["precision"]
    rows = [
        (
            model,
            r["tokens_per_text"],
            f"**{r['who']}**" if r["who"].startswith("vectoll") else r["who"],
            f"{r['tokens_per_s']:,}",
            percent(r["share_of_peak"]),
            "" if r["who"] == "vectoll" else f"{r['times']:.2f} ×",
            f"{r['alone_ms']:,.0f}",
            "" if r["who"] == "vectoll" else f"{r['times_alone']:.2f} ×",
            "" if r["min_cosine"] is None else f"{r['min_cosine']:.6f}",
        )
        for model, found in result["models"].items()
        for r in found
    ]
    head = (
        "size of",
        "tokens a text",
        f"who, in {precision}",
        "tokens/s",
        "of peak",
        "vectoll is",
        "one text alone, ms",
        "vectoll is",
        "least cosine to f32",
    )
    return table(head, rows)


def prefixes(result: Result) -> str:
    own = result["own_tokens"]
    rows = [
        (
            f"{r['beginning_tokens']} + {own}",
            f"**{r['who']}**" if r["who"].startswith("vectoll") else r["who"],
            f"{r['queries_per_s']:.1f}",
            "" if r["who"] == "vectoll" else f"{r['times']:.1f} ×",
            f"{r['alone_ms']:,.0f}",
            "" if r["who"] == "vectoll" else f"{r['times_alone']:.1f} ×",
        )
        for r in result["rows"]
    ]
    return table(
        ("tokens a query", "who", "queries/s", "vectoll is", "one alone, ms", "vectoll is"),
        rows,
    )


SECTIONS: dict[str, Callable[[Result], str]] = {
    "engine": engine,
    "large": large,
    "prefixes": prefixes,
    "server": server,
    "fairness": fairness,
    "gateway": gateway,
    "stages": stages,
    "start": start,
    **{name: growth(name) for name in PLOTTED},
}


def provenance(result: Result) -> str:
    """The line under every table."""
    found = ", ".join(f"{name} {text}" for name, text in result["versions"].items())
    return (
        f"`{result['command']}`, {result['date']}, {result['seconds']:.0f} s; other processes used "
        f"{result['foreign_cores']:.2f} cores meanwhile. {found}."
    )


def machine(result: Result) -> str:
    """Where it ran."""
    m = result["machine"]
    where = "a virtual machine with " if m["virtual"] else ""
    return (
        f"{where}{m['cores']} cores of an {m['cpu']} ({', '.join(m['features'])}), {m['l2_kib_per_core']} KiB of "
        f"second-level cache each, {m['l3_kib'] // 1024} MiB of third, {m['memory_gib']} GiB of memory, {m['system']}"
    )


def main() -> None:
    PLOTS.mkdir(exist_ok=True)
    page = PAGE.read_text()
    for name, render in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            print(f"{path.name} is not there", file=sys.stderr)
            continue
        result = json.loads(path.read_text())
        text = f"{render(result)}\n\n{provenance(result)}"
        page = _put(_put(page, name, text), "machine", machine(result))
    PAGE.write_text(page)


def _put(page: str, name: str, text: str) -> str:
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    replaced, count = pattern.subn(lambda found: found[1] + text + found[2], page)
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} places for {name}")
    return replaced


if __name__ == "__main__":
    main()
