"""The dead letters' database, and the folder they are spilled to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from governor.cli.doctor.finding import Finding
from governor.cli.environment import Environment
from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
from governor.deadletter.spill import Spill
from governor.errors import GovernorError
from governor.settings import Settings


def database(environment: Environment) -> Iterator[Finding]:
    try:
        engine = bounded_engine(environment.database_url())
        try:
            state = schema.check(engine)
        finally:
            engine.dispose()
    except GovernorError as exc:
        yield Finding(
            "database", "error", str(exc),
            "Start it, or correct governor_database_url; dead letters are spilled to disk until "
            "then",
        )  # fmt: skip
        return
    if state.good:
        yield Finding("database", "ok", f"revision {state.current}")
    else:
        found = "; ".join(state.drift) or f"it is at revision {state.current or 'none'}"
        remedy = " ".join(schema.remedies(state))
        yield Finding("database", "error", found, remedy)


def spill(settings: Settings) -> Iterator[Finding]:
    folder = Path(settings.spill_dir).absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(nearest, os.W_OK):
        yield Finding("spill", "ok", f"{folder} can be written")
    else:
        yield Finding(
            "spill", "error", f"{folder} cannot be written",
            "Set governor_spill_dir to a folder that survives the worker",
        )  # fmt: skip
        return
    backlog = Spill(folder, redact=str).backlog()
    if backlog.pending:
        yield Finding(
            "spill", "warning", f"{backlog.pending} dead letters wait on disk for the database",
            "governor dead drain-spill, once the database answers",
        )  # fmt: skip
    if backlog.refused or backlog.broken:
        yield Finding(
            "spill", "error",
            f"{backlog.refused} dead letters that the database refuses, and {backlog.broken} files "
            f"that cannot be read, are set aside in {folder}",
            "governor dead drain-spill says why",
        )  # fmt: skip
