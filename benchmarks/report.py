"""The comparisons with other limiters, all by one command, with plots.

Runs ``decision``, ``accuracy``, ``pacing_strict`` and ``parking`` one after the other, each in a
process of its own, prints their tables and draws them into ``docs/plots``. ``--quick`` draws
nothing: its figures are poor. ``--all`` also runs the benchmarks that have no other limiter beside
us.

    python -m benchmarks.report
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import accuracy, decision, pacing_strict, parking
from benchmarks.fleet import show
from benchmarks.ours import Ours
from benchmarks.parking import beside

COMPARISONS: dict[str, Any] = {
    "decision": decision,
    "accuracy": accuracy,
    "pacing_strict": pacing_strict,
    "parking": parking,
}
OTHERS = ("pacing", "busy_pool", "canvas", "overhead")

_PLOTS = Path(__file__).resolve().parents[1] / "docs" / "plots"

_OURS = "#1f6f8b"
_THEIRS = "#b8b8b8"
_BAD = "#c0392b"


def run(name: str, *options: str) -> dict[str, Any] | None:
    """The record of one benchmark; ``None`` when it did not get as far as one."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        print(f"{name}: {done.stderr.strip()}", file=sys.stderr)
        return None
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def flat(record: Mapping[str, Any]) -> Table:
    """A record as a table of two columns."""
    table = Table()
    table.add_column("")
    table.add_column("", justify="right")

    def add(found: Mapping[str, Any], before: str) -> None:
        for name, value in found.items():
            if isinstance(value, Mapping):
                add(value, f"{before}{name}: ")
            else:
                table.add_row(f"{before}{name}", str(value))

    add({name: value for name, value in record.items() if name != "bars"}, "")
    return table


def draw(records: Mapping[str, dict[str, Any]], folder: Path) -> list[Path]:
    """Draw what was measured; the files written."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "governor",
            "font.family": "sans-serif",
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    plots: dict[str, Callable[[dict[str, Any]], Any]] = {
        "decision": draw_decision,
        "accuracy": draw_accuracy,
        "pacing_strict": draw_pacing,
        "parking": draw_parking,
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, record in records.items():
        if name in plots:
            path = folder / f"{name}.svg"
            plots[name](record).savefig(path, metadata={"Date": None}, bbox_inches="tight")
            written.append(path)
    return written


def draw_decision(record: dict[str, Any]) -> Any:
    """A panel for each case: everybody's processor time in B, and our bar."""
    cases = record["cases"]
    names = [kind for kind in next(iter(cases.values())) if kind != decision.BASE]
    figure, panels = _panels(len(cases) + 1, len(names))
    for panel, (case, found) in zip(panels, cases.items(), strict=False):
        costs = [found[kind]["cpu_ratio"] if kind in found else None for kind in names]
        _bars(panel, names, costs)
        panel.axvline(1, color="black", linewidth=0.8)
        if (bar := decision.CASES[case].bar) is not None:
            panel.axvline(bar, color=_OURS, linewidth=0.8, linestyle="--")
        panel.set_title(case, fontsize=9)
        panel.set_xlabel("processor time, in B", fontsize=8)
    crowd, panel = record["crowd"], panels[-1]
    _bars(panel, names, [crowd[kind]["ratio"] if kind in crowd else None for kind in names])
    panel.axvline(1, color="black", linewidth=0.8)
    panel.axvline(decision.CROWD_BAR, color=_OURS, linewidth=0.8, linestyle="--")
    panel.set_title(f"{record['processes']} processes, one key", fontsize=9)
    panel.set_xlabel("decisions/s, in B's", fontsize=8)
    return figure


def draw_accuracy(record: dict[str, Any]) -> Any:
    """A panel for each rate: what was delivered of it."""
    told = record["told"]
    names = list(next(iter(told.values())))
    figure, panels = _panels(len(told), len(names))
    for panel, (title, found) in zip(panels, told.items(), strict=True):
        _bars(panel, names, [found[kind]["delivered"] for kind in names])
        panel.set_xscale("log")
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set_title(f"told {title}", fontsize=9)
        panel.set_xlabel("delivered / told", fontsize=8)
    return figure


def draw_pacing(record: dict[str, Any]) -> Any:
    """Quota used, and rejections."""
    found = record["limiters"]
    names = list(found)
    figure, (used, rejected) = _panels(2, len(names))
    _bars(used, names, [100 * found[kind]["quota_used"] for kind in names])
    used.axvline(99, color=_OURS, linewidth=0.8, linestyle="--")
    used.set_xlabel("% of nginx's quota used", fontsize=8)
    _bars(rejected, names, [100 * found[kind]["rejected_share"] for kind in names], _BAD)
    rejected.set_xlabel("% of the calls rejected by nginx", fontsize=8)
    return figure


def draw_parking(record: dict[str, Any]) -> Any:
    """A worker's memory while tasks wait, and the same work as it is done with Celery."""
    ways = record.get("peers", {}).get("ways", {})
    names = [name for name in beside.WAYS if name in ways or name in {beside.OURS, beside.ETA}]
    figure, (memory, most, time) = _panels(3, len(names))
    waiting = record.get("memory", {})
    grown = {
        beside.OURS: waiting.get("rss_growth_mb"),
        beside.ETA: waiting.get("countdown", {}).get("rss_growth_mb_scaled"),
    }
    _bars(memory, names, [grown.get(name) for name in names])
    memory.axvline(parking.MEMORY_MB, color=_OURS, linewidth=0.8, linestyle="--")
    memory.set_xlabel(f"MB of a worker, {waiting.get('tasks', 0):,} waiting", fontsize=8)
    _bars(most, names, [ways.get(name, {}).get("over_the_rate") for name in names], _BAD)
    most.axvline(1, color="black", linewidth=0.8)
    most.set_xlabel("most in one second / rate", fontsize=8)
    _bars(time, names, [ways.get(name, {}).get("of_ideal") for name in names])
    time.axvline(1, color="black", linewidth=0.8)
    time.set_xlabel("makespan / ideal", fontsize=8)
    return figure


def _panels(count: int, rows: int) -> tuple[Any, Any]:
    from matplotlib import pyplot

    size = (1.8 + 1.9 * count, 0.7 + 0.24 * rows)
    return pyplot.subplots(1, count, sharey=True, figsize=size, layout="constrained")


def _bars(
    panel: Any, names: Sequence[str], values: Sequence[float | None], theirs: str = _THEIRS
) -> None:
    ours = {Ours.name, decision.STORE, decision.ADMISSION, beside.OURS}
    places = range(len(names), 0, -1)
    colours = [_OURS if name in ours else theirs for name in names]
    panel.barh(places, [value or 0 for value in values], color=colours, height=0.7)
    for place, value in zip(places, values, strict=True):
        words = "–" if value is None else f"{value:.3g}"
        panel.annotate(
            words, (value or 0, place), (2, 0), textcoords="offset points", va="center", fontsize=7
        )
    panel.set_yticks(list(places), names, fontsize=8)
    panel.tick_params(axis="x", labelsize=7)
    panel.margins(x=0.2)


def main() -> None:
    """Run, print, draw; end with 1 when a bar is missed or a benchmark gave no figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, poor figures, no plots")
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(OTHERS)}")
    parser.add_argument("--only", choices=[*COMPARISONS, *OTHERS], action="append")
    parser.add_argument("--plots", type=Path, default=_PLOTS, help="folder; default docs/plots")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no tables")
    options = parser.parse_args()
    wanted = options.only or [*COMPARISONS, *(OTHERS if options.all else ())]
    records: dict[str, dict[str, Any]] = {}
    for name in wanted:
        quick = ["--quick"] if options.quick and name in COMPARISONS else []
        if (record := run(name, *quick)) is None:
            continue
        records[name] = record
        if not options.json:
            print(f"\n{name}\n")
            known = COMPARISONS.get(name)
            show(known.tables(record) if known else [flat(record)], record["bars"])
    if options.json:
        print(json.dumps(records))
    if not options.quick:
        try:
            written = draw(records, options.plots)
        except ImportError as error:
            print(f"No plots: {error}. The extra `bench` installs it.", file=sys.stderr)
        else:
            print(*(f"wrote {path}" for path in written), sep="\n", file=sys.stderr)
    met = [met for record in records.values() for met in record["bars"].values()]
    sys.exit(0 if len(records) == len(wanted) and all(met) else 1)


if __name__ == "__main__":
    main()
