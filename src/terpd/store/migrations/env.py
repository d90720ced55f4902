"""Entry point of Alembic: runs the migrations on the connection that `terpd.store.migrate` has opened."""

from alembic import context

from terpd.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by making it anew
)
context.run_migrations()
