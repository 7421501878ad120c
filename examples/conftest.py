"""Tests of the example services."""

# Alembic alone can run these: they are no modules to import, nor to look for doctests in.
collect_ignore_glob = ["*/src/*/migrations/*"]
