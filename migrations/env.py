"""Runs the governor's migrations on the connection `governor db` gives."""

from alembic import context

from governor.deadletter.schema import context_options

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("Migrations are run by `governor db upgrade`.")

# The caller began the transaction and ends it: all revisions are applied, or none.
context.configure(connection=connection, **context_options())
context.run_migrations()
