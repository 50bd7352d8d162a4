"""``governor exporter``: the fleet's own gauges for Prometheus, once for the fleet."""

from __future__ import annotations

import signal
import threading

import click

from governor.cli import options
from governor.cli.environment import Environment
from governor.cli.options import UNREACHABLE
from governor.telemetry import exporter as telemetry

DONE, INTERRUPTED = 0, 130


@click.command("exporter", short_help="Serve the fleet's own gauges to Prometheus.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=9808, show_default=True,
    help="To listen on; 0: any free one.",
)  # fmt: skip
@click.option(
    "--address", metavar="HOST", default="0.0.0.0", show_default=True,  # noqa: S104 - said in help
    help="To listen on; 127.0.0.1: this host only.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Print the metrics on stdout instead, and end.")
@click.pass_obj
@options.exit_codes
def exporter(environment: Environment, port: int, address: str, once: bool) -> int:
    """Serve what waits, what is left of the limits, what is dead, and who answers.

    Read from the limiter store, the database and the spill folder at each scrape. One exporter
    is enough for a fleet.

    \b
    Example:
      governor -A proj exporter --port 9808
      governor -A proj exporter --once | grep governor_parked

    \b
    Exit codes: 0 done, 2 usage, 6 something could not be read (--once), 130 interrupted.
    """
    gauges = environment.fleet_gauges()
    if once:
        click.echo(telemetry.text(gauges.read), nl=False)
        return UNREACHABLE if gauges.problems else DONE
    found, end = telemetry.serve(gauges.read, address, port)
    stopped: list[int] = []
    ended = threading.Event()

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    click.echo(f"Serving the fleet's gauges on {address} port {found}, path /metrics.", err=True)
    ended.wait()
    end()
    return INTERRUPTED if stopped[0] == signal.SIGINT else DONE
