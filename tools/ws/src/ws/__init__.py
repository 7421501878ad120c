"""The workspace command: what uv, ruff, import-linter and the others do not do for many packages.

The list of packages is read from `packages/*/pyproject.toml` every time; there is no other.
"""

from ws._cli import main

__all__ = ["main"]
