"""SELECT in one round trip: only what cannot write may run outside a read-only transaction."""

import re
from typing import Any, Final

from sqlalchemy.dialects.postgresql.asyncpg import PGCompiler_asyncpg

from common.db.postgres._connect import Connection

READING: Final = "common_reading"
"""Option of a connection of SQLAlchemy which may only read."""

# Of PostgreSQL itself, and without effects (documentation, chapter 9). All others, such as
# nextval(), pg_notify() or a service's own, are taken for writers.
_NAMES: Final = """
    abs age array_agg array_append array_length array_position array_to_string avg bit_length
    bool_and bool_or btrim cardinality ceil ceiling char_length clock_timestamp coalesce concat
    concat_ws count cume_dist current_date current_time current_timestamp date_bin date_part
    date_trunc dense_rank every exp first_value floor generate_series greatest initcap
    json_agg json_build_array json_build_object json_object_agg jsonb_agg jsonb_array_elements
    jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each
    jsonb_extract_path jsonb_extract_path_text jsonb_object_agg jsonb_object_keys jsonb_typeof lag
    last_value lead least left length ln localtime localtimestamp log lower lpad ltrim make_date
    make_interval make_timestamptz max md5 min mod mode now nth_value ntile nullif octet_length
    percent_rank percentile_cont percentile_disc plainto_tsquery position power rank regexp_match
    regexp_replace repeat replace reverse right round row_number rpad rtrim sign split_part sqrt
    starts_with stddev stddev_pop stddev_samp string_agg string_to_array strpos substr substring
    sum to_char to_date to_json to_jsonb to_number to_timestamp to_tsquery to_tsvector trim trunc
    ts_rank unnest upper var_pop var_samp variance websearch_to_tsquery width_bucket
"""
_FUNCTIONS: Final = frozenset(_NAMES.split())
_OPERATOR: Final = re.compile(r"[-+*/<>=~!@#%^&|`?]+")
"""PostgreSQL documentation, 4.1.3: what an operator's name is made of."""

_REMEMBERED: Final = 1_000  # statements


class MayWrite(Exception):  # noqa: N818 - never leaves the bridge
    """The statement has to run in a read-only transaction."""


def _noting(method: str) -> Any:
    """Return SQLAlchemy's method, which notes that it was needed."""
    original: Any = getattr(PGCompiler_asyncpg, method)

    def noting(self: "ReadingCompiler", *args: Any, **options: Any) -> Any:
        self.may_write = True
        return original(self, *args, **options)

    return noting


class ReadingCompiler(PGCompiler_asyncpg):
    """SQLAlchemy's compiler, which notes whether a SELECT holds more than it understands.

    Nested writes, locks of rows, text, and functions that may have effects: the server refuses
    them in a read-only transaction. What ``@compiles`` renders is for its author to know.
    """

    may_write = False

    visit_insert = _noting("visit_insert")
    visit_update = _noting("visit_update")
    visit_delete = _noting("visit_delete")
    for_update_clause = _noting("for_update_clause")
    post_process_text = _noting("post_process_text")
    get_statement_hint_text = _noting("get_statement_hint_text")

    def visit_function(self, func: Any, *args: Any, **options: Any) -> Any:
        """Write a call of a function."""
        if func.name.lower() not in _FUNCTIONS or getattr(func, "packagenames", None):
            self.may_write = True
        return super().visit_function(func, *args, **options)

    def escape_literal_column(self, text: str) -> Any:
        """Write text that stands for a column or an operator."""
        self.may_write |= _OPERATOR.fullmatch(text.strip()) is None
        base: Any = super()
        return base.escape_literal_column(text)


def refuse_writes(*event: Any) -> None:
    """Stop a statement that may write, before it is sent (``before_cursor_execute``)."""
    context = event[4]
    if context.execution_options.get(READING) and getattr(context.compiled, "may_write", True):
        raise MayWrite


class Columns:
    """What SQLAlchemy asks about statements before it runs them, each learned once.

    Their SQL names the columns, so that it stays the same whatever migrations do.
    """

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    async def of(self, connection: Connection, sql: str, seconds: float | None) -> Any:
        """Return asyncpg's attributes of a statement; the first time it costs a round trip."""
        found = self._known.get(sql)
        if found is None:
            statement = await connection.prepare(sql, timeout=seconds)
            if len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            found = self._known[sql] = statement.get_attributes()
        return found


class ReadingLoan:
    """A connection on which SQLAlchemy fetches as repositories do: from prepared statements.

    asyncpg keeps those of a connection, and replaces them after migrations.

    Args:
        connection: Whose owner looks after it, also when SQLAlchemy finds it broken.
        columns: Those of all statements so far.
        seconds: Longest time of a statement, or ``None`` for the configured time.
    """

    def __init__(self, connection: Connection, columns: Columns, seconds: float | None) -> None:
        self._connection = connection
        self._columns = columns
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def prepare(self, sql: str, **_: object) -> "_Statement":
        """Return what runs ``sql``."""
        attributes = await self._columns.of(self._connection, sql, self._seconds)
        return _Statement(self._connection, sql, attributes, self._seconds)

    async def close(self, **_: object) -> None:
        """Leave the connection to its owner."""

    def terminate(self) -> None:
        """Leave the connection to its owner, who gets the error, too."""


class _Statement:
    """Stands in for asyncpg's ``PreparedStatement``, as far as SQLAlchemy uses it."""

    def __init__(
        self, connection: Connection, sql: str, attributes: Any, seconds: float | None
    ) -> None:
        self._connection = connection
        self._sql = sql
        self._attributes = attributes
        self._seconds = seconds

    def get_attributes(self) -> Any:
        return self._attributes

    async def fetch(self, *arguments: Any) -> Any:
        return await self._connection.fetch(self._sql, *arguments, timeout=self._seconds)

    def get_statusmsg(self) -> str:
        return ""
