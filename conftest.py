"""Every ```python block of every README and documentation page is run as a test."""

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["**/README.md", "docs/**/*.md"],
).pytest()
