"""vectoll models check"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from vectoll.cli import suggest
from vectoll.cli.options import as_json, with_settings
from vectoll.cli.output import print_json
from vectoll.settings import Settings
from vectoll.terminal import QUIET_S, REDRAW_S, draw_line

if TYPE_CHECKING:
    from vectoll.check_report import Report
    from vectoll.checking import Tell
    from vectoll.domain.catalog import ModelSpec


@click.command()
@click.argument("models", nargs=-1, metavar="[ID]...", shell_complete=suggest.models)
@click.option("--offline", is_flag=True, help="Skip models that an upstream serves.")
@as_json
@with_settings
def check(settings: Settings, models: tuple[str, ...], offline: bool, as_json: bool) -> None:
    """Load models and verify them.

    Checks special tokens, pooling, norm, and that vectors are finite and the same in any batch. Prints size, memory
    and tokens/s and, for int8 weights, the loss of accuracy. An upstream is asked for two vectors, which it bills.
    Without an ID, checks every model that is on or named in vectoll.toml. Exit code 1 when a check fails.
    """
    specs = _chosen(settings, models)
    reports = [asyncio.run(_check(spec, settings, offline)) for spec in specs]
    if as_json:
        print_json([{"passed": report.passed, **asdict(report)} for report in reports])
    else:
        for report in reports:
            _print(report)
    if not all(report.passed for report in reports):
        raise click.exceptions.Exit(1)


def _chosen(settings: Settings, names: Sequence[str]) -> Sequence["ModelSpec"]:
    """Raises UnknownModel."""
    from vectoll.loading import model_states, read_served_models

    if not names:
        return [s.spec for s in model_states(settings) if s.offline is None or s.is_named]
    catalog = read_served_models(settings).catalog
    return list(dict.fromkeys(catalog.resolve(name) for name in names))


async def _check(spec: "ModelSpec", settings: Settings, offline: bool) -> "Report":
    from vectoll.checking import check_model

    async with _telling(spec.id) as tell:
        return await check_model(spec, settings, tell, offline=offline)


@asynccontextmanager
async def _telling(title: str) -> AsyncIterator["Tell"]:
    """A line on a terminal that says what is being done and for how long, once that has taken a while."""
    doing, started = "reading", time.monotonic()
    is_drawn = False

    def tell(what: str) -> None:
        nonlocal doing
        doing = what

    async def draw() -> None:
        nonlocal is_drawn
        while True:
            await asyncio.sleep(REDRAW_S)
            seconds = time.monotonic() - started
            if seconds >= QUIET_S:
                is_drawn = True
                draw_line(f"{title}: {doing} ({seconds:.0f} s)")

    drawing = asyncio.create_task(draw()) if sys.stderr.isatty() else None
    try:
        yield tell
    finally:
        if drawing:
            drawing.cancel()
        if is_drawn:
            sys.stderr.write("\r\033[K")


def _print(report: "Report") -> None:
    from vectoll.adapters.checkpoints import gigabytes

    click.secho(f"{report.id}: {'ok' if report.passed else 'FAILED'}", bold=True)
    marks = {True: "ok", False: "FAILED", None: "-"}
    for check in report.checks:
        click.echo(f"  {marks[check.passed]:<6}  {check.name:<14}  {check.detail}")
    if report.disk_bytes is not None:
        memory = f", {gigabytes(report.memory_bytes)} of memory" if report.memory_bytes is not None else ""
        click.echo(f"          size            {gigabytes(report.disk_bytes)} on disk{memory}")
    if report.short_tokens_per_s is not None and report.long_tokens_per_s is not None:
        click.echo(
            f"          speed           {report.short_tokens_per_s:,.0f} tokens/s in short texts, "
            f"{report.long_tokens_per_s:,.0f} in texts of {report.long_tokens} ({report.engine})"
        )
