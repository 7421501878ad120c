import ast
from importlib.metadata import version
from pathlib import Path

import common.api as package


def test_the_distribution_is_installed_and_exports_what_it_names():
    assert version("common-api")
    assert [name for name in package.__all__ if not hasattr(package, name)] == []


def test_nothing_wraps_requests_in_starlettes_base_middleware():
    for file in Path(package.__file__).parent.glob("*.py"):
        names = {
            node.id for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Name)
        }
        assert "BaseHTTPMiddleware" not in names, file
