"""vectoll serve"""

import signal
from pathlib import Path
from typing import Any

import click

from vectoll.settings import load_settings


@click.command()
@click.option("--host", help="Address to listen on [127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one [8787].")
@click.option("--data-dir", type=click.Path(), help="Where the ledger and keys live.")
@click.option("--config", type=click.Path(path_type=Path), help="The settings file; else ./vectoll.toml.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="The least severe level that is logged [info].",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "text"]),
    help="auto is text on a terminal, else JSON [auto].",
)
def serve(config: Path | None, log_level: str | None, log_format: str | None, **flags: Any) -> None:
    """Serve embeddings over HTTP until SIGTERM, SIGHUP or Ctrl+C."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # raised in an import it may be forgotten, or crash
    from vectoll.logging import configure_logging

    settings = load_settings(config, {**flags, "log": {"level": log_level, "format": log_format}})
    configure_logging(settings.log, is_traced=settings.tracing.enabled)

    from vectoll.server.serving import serve as serve_until_signalled

    serve_until_signalled(settings)
