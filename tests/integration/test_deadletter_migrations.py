"""Migrations and models say the same, on both databases, and no row is lost between them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from alembic.autogenerate import compare_metadata
from click.testing import CliRunner
from sqlalchemy import Engine, MetaData, Table, inspect, text

from governor.cli.db import db
from governor.deadletter import schema
from governor.deadletter.engine import bounded, bounded_engine
from governor.deadletter.models import Base
from governor.deadletter.repository import SqlDeadLetters
from governor.deadletter.rows import row_values
from tests.deaths import death, message

HEAD = "0004"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = bounded_engine(database_url, timeout=20)
    yield made
    made.dispose()


def execute(engine: Engine, statement: str) -> None:
    with bounded(engine, write=True, timeout=20) as connection:
        connection.execute(text(statement))


def everything(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    with bounded(engine, write=False, timeout=20) as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(table.select())), key=repr)
            for table in Base.metadata.sorted_tables
        }


def test_migrations_equal_models(engine: Engine) -> None:
    """After an upgrade Alembic finds nothing to change, partial indexes included."""
    schema.upgrade(engine)
    with bounded(engine, write=False, timeout=20) as connection:
        assert compare_metadata(schema.migration_context(connection), Base.metadata) == []
    assert schema.check(engine) == schema.SchemaState(HEAD, HEAD, ())


def test_partial_indexes_are_partial(engine: Engine) -> None:
    """Every index the models make partial has the same condition in the database."""
    schema.upgrade(engine)
    dialect = engine.dialect.name
    partial = {
        str(index.name): index.dialect_options[dialect]["where"].text
        for table in Base.metadata.sorted_tables
        for index in table.indexes
        if index.dialect_options[dialect]["where"] is not None
    }
    assert len(partial) == 7
    found = {
        index["name"]: index["dialect_options"][f"{dialect}_where"]
        for index in inspect(engine).get_indexes("governor_dead_letters")
        if f"{dialect}_where" in index.get("dialect_options", {})
    }
    assert {name: schema._condition(where) for name, where in found.items()} == {
        name: schema._condition(where) for name, where in partial.items()
    }


def test_upgrading_twice_keeps_every_row(engine: Engine) -> None:
    """An upgrade of an upgraded database changes nothing."""
    schema.upgrade(engine)
    SqlDeadLetters(engine, redact=str).record(death())
    before = everything(engine)
    schema.upgrade(engine)
    assert everything(engine) == before


def test_rows_of_the_first_revision_are_kept(engine: Engine) -> None:
    """A row from before messages had ids is kept as it was, and is still the one row of its
    death; another message under its task id is another death."""
    schema.upgrade(engine, "0001")
    values = row_values(death(), row_id="0" * 36, recorded_at=1, redact=str)
    del values["message_id"]
    old = Table("governor_dead_letters", MetaData(), autoload_with=engine)
    with bounded(engine, write=True, timeout=20) as connection:
        connection.execute(old.insert().values(**values))
    schema.upgrade(engine)
    assert schema.check(engine).good
    new = Table("governor_dead_letters", MetaData(), autoload_with=engine)
    with bounded(engine, write=False, timeout=20) as connection:
        (row,) = connection.execute(new.select()).mappings().all()
    assert {name: row[name] for name in values} == values
    letters = SqlDeadLetters(engine, redact=str)
    assert letters.record(death()) == "0" * 36
    assert letters.record(death(message=message(body=b"other"))) != "0" * 36


def test_down_and_up_again(engine: Engine) -> None:
    """A downgrade takes every table of ours and no other; the rows fit the new tables."""
    execute(engine, "CREATE TABLE customers (id INTEGER PRIMARY KEY)")
    schema.upgrade(engine)
    letters = SqlDeadLetters(engine, redact=str)
    letters.claim_replay(letters.record(death()), 1, 5, "me", "why")
    letters.record(death("other", message=death().message))
    before = everything(engine)
    schema.downgrade(engine, "base")
    assert set(inspect(engine).get_table_names()) == {"customers", schema.VERSION_TABLE}
    assert schema.check(engine).current is None
    schema.upgrade(engine)
    assert all(rows == [] for rows in everything(engine).values())
    with bounded(engine, write=True, timeout=20) as connection:
        for table in Base.metadata.sorted_tables:
            columns = [column.name for column in table.columns]
            for row in before[table.name]:
                values = dict(zip(columns, row, strict=True))
                connection.execute(table.insert().values(**values))
    assert everything(engine) == before
    assert schema.check(engine).good


DRIFT = [
    # what somebody did by hand, and the word that must be in the report
    ("DROP INDEX ix_governor_dl_tenant", "ix_governor_dl_tenant"),
    ("ALTER TABLE governor_dead_letters ADD COLUMN mine INTEGER", "mine"),
    ("DROP TABLE governor_dead_letter_audit", "governor_dead_letter_audit"),
    ("CREATE TABLE governor_extra (id INTEGER)", "governor_extra"),
    (
        (
            "DROP INDEX ix_governor_dl_group;"
            "CREATE INDEX ix_governor_dl_group ON governor_dead_letters (fingerprint, dead_at)"
        ),
        "ix_governor_dl_group",
    ),  # the same index, no longer partial
    (
        (
            "DROP INDEX ix_governor_dl_group;"
            "CREATE INDEX ix_governor_dl_group ON governor_dead_letters (fingerprint, dead_at) "
            "WHERE state = 'resolved'"
        ),
        "ix_governor_dl_group",
    ),  # partial for other rows
]


@pytest.mark.parametrize(("by_hand", "named"), DRIFT)
def test_drift_is_reported(engine: Engine, by_hand: str, named: str) -> None:
    """What somebody changed by hand is named."""
    schema.upgrade(engine)
    for statement in by_hand.split(";"):
        execute(engine, statement)
    drift = schema.check(engine).drift
    assert len(drift) >= 1
    assert any(named in difference for difference in drift), drift


def test_two_upgrades_at_once(engine: Engine, database_url: str) -> None:
    """Workers that start together may all upgrade: one does it, the others find it done."""
    schema.downgrade(engine, "base")  # the file exists, the tables do not

    def upgrade(_number: int) -> None:
        mine = bounded_engine(database_url, timeout=20)
        schema.upgrade(mine)
        mine.dispose()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(upgrade, range(3)))
    assert schema.check(engine).good


def test_command_line(database_url: str) -> None:
    """``check`` fails and names the remedy until ``upgrade`` has run."""
    environment = SimpleNamespace(database_url=lambda: database_url)
    run = CliRunner()
    behind = run.invoke(db, ["check"], obj=environment)
    assert behind.exit_code == 1
    assert "governor db upgrade" in behind.stderr
    assert run.invoke(db, ["upgrade"], obj=environment).exit_code == 0
    assert run.invoke(db, ["check"], obj=environment).exit_code == 0
    again = run.invoke(db, ["upgrade", "--database", database_url, "--json"])
    assert json.loads(again.stdout) == {"from": HEAD, "to": HEAD}
    good = json.loads(run.invoke(db, ["check", "--json"], obj=environment).stdout)
    assert (good["good"], good["current"], good["remedies"]) == (True, HEAD, [])


def test_command_line_reports_drift(engine: Engine, database_url: str) -> None:
    """A dropped index makes ``check`` fail, and the index is named."""
    schema.upgrade(engine)
    execute(engine, "DROP INDEX ix_governor_dl_task")
    found = CliRunner().invoke(db, ["check", "--database", database_url])
    assert found.exit_code == 1
    assert "ix_governor_dl_task" in found.stderr


def test_a_newer_database(engine: Engine, database_url: str) -> None:
    """A revision this version does not know is an error with a remedy, not a traceback."""
    schema.upgrade(engine)
    execute(engine, f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    found = CliRunner().invoke(db, ["check", "--database", database_url])
    assert found.exit_code == 1
    assert "newer governor" in found.stderr
    upgraded = CliRunner().invoke(db, ["upgrade", "--database", database_url])
    assert upgraded.exit_code == 2
    assert "9999" in upgraded.stderr


CODES = [
    # URL, exit code
    ("postgresql://nobody@127.0.0.1:1/nothing", 6),  # nobody listens
    ("mysql://me@db/app", 2),  # not supported
]


@pytest.mark.parametrize(("url", "code"), CODES)
@pytest.mark.parametrize("command", ["check", "upgrade"])
def test_exit_codes(command: str, url: str, code: int) -> None:
    """Unreachable is 6, a wrong URL is 2."""
    assert CliRunner().invoke(db, [command, "--database", url]).exit_code == code


def test_an_installed_package_carries_its_migrations(tmp_path: Path) -> None:
    """Laid out as the wheel lays it out, without the source tree, the migrations are found
    inside the package and run."""
    source = Path(schema.__file__).parents[2]
    project = tomllib.loads((source / "pyproject.toml").read_text())
    carried = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    installed = tmp_path / "installed"
    shutil.copytree(source / "governor", installed / "governor")
    for here, there in carried.items():
        shutil.copytree(source / here, installed / there)
    script = (
        "from governor.deadletter import schema; from governor.deadletter.engine import *\n"
        "engine = bounded_engine('sqlite:///x.sqlite'); schema.upgrade(engine)\n"
        "assert schema.check(engine).good; print(schema.script_location())"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert Path(found.stdout.strip()) == installed / "governor" / "migrations"
