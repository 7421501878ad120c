"""Comparing streams with what is declared, and bringing them in line (STREAM.* of the API)."""

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, TypeVar

from common.events.core._declarations import Change, DeclareMode, Plan, StreamSpec
from common.events.core._errors import DeclarationConflict, MissingStream
from common.events.core._subjects import overlap
from common.events.nats._api import Api, Json, check_stream_name
from common.events.nats._errors import ErrCode, JetStreamError, NatsTimeout

T = TypeVar("T")

_ASKED = 3  # times, at most
_SECOND = 1_000_000_000  # durations of the API are nanoseconds


@dataclass(frozen=True, slots=True)
class _Field:
    """A setting of a stream: its name here and in the API, and whether it can be changed."""

    name: str
    there: str
    encode: Callable[[Any], object] = lambda value: value
    decode: Callable[[Any], object] = lambda value: value
    fixed: bool = False


def _nanoseconds(value: timedelta) -> int:
    return round(value.total_seconds() * _SECOND)


def _duration(value: int) -> timedelta:
    return timedelta(microseconds=value // 1_000)


def _sorted(value: Iterable[str]) -> list[str]:
    return sorted(value)


_FIELDS = (
    _Field("subjects", "subjects", _sorted, _sorted),
    _Field("retention", "retention", fixed=True),
    _Field("storage", "storage", fixed=True),
    _Field("replicas", "num_replicas"),
    _Field("max_age", "max_age", _nanoseconds, _duration),
    _Field("max_messages", "max_msgs"),
    _Field("max_bytes", "max_bytes"),
    _Field("max_messages_per_subject", "max_msgs_per_subject"),
    _Field("duplicate_window", "duplicate_window", _nanoseconds, _duration),
    _Field("allow_rollup", "allow_rollup_hdrs"),
)
_MISSING: Mapping[str, object] = {
    "subjects": (),
    "num_replicas": 1,
    "max_age": 0,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_msgs_per_subject": -1,
    "duplicate_window": 0,
    "allow_rollup_hdrs": False,
}
"""What the server leaves out of its answers."""


@dataclass(frozen=True, slots=True)
class _Step:
    """The changes to one stream, and the configuration to send for them."""

    operation: str
    changes: tuple[Change, ...]
    config: Json


async def plan(api: Api, streams: Sequence[StreamSpec], *, horizon: float) -> Plan:
    """Return what ``reconcile`` would do: see `Transport.plan`."""
    return Plan(
        tuple(change for step in await _steps(api, streams, horizon) for change in step.changes)
    )


async def declare(
    api: Api, streams: Sequence[StreamSpec], *, mode: DeclareMode, horizon: float
) -> Plan:
    """Bring streams in line: see `Transport.declare`.

    Args:
        api: JetStream's API.
        streams: As they should be.
        mode: How far to go.
        horizon: Seconds over which a publish may be sent again.
    """
    if mode == "off" or not streams:
        return Plan()
    steps = await _steps(api, streams, horizon)
    changes = tuple(change for step in steps for change in step.changes)
    allowed = {"verify": (), "create": ("create",), "reconcile": ("create", "update")}[mode]
    if against := [change for change in changes if change.kind not in allowed]:
        raise _conflict(against, mode)
    for step in steps:
        if step.changes:
            await _apply(api, step)
    return Plan(changes, applied=True)


async def _steps(api: Api, streams: Sequence[StreamSpec], horizon: float) -> list[_Step]:
    for spec in streams:
        try:
            check_stream_name(spec.name)
        except MissingStream as error:
            raise DeclarationConflict(error.message) from None
    listed = await _answered(lambda: api.pages("STREAM.LIST", "streams", {}))
    there: dict[str, Json] = {each["config"]["name"]: each["config"] for each in listed}
    overlaps = _overlaps(streams, there)
    return [_step(spec, there.get(spec.name), overlaps, horizon) for spec in streams]


def _step(
    spec: StreamSpec, there: Json | None, overlaps: Sequence[Change], horizon: float
) -> _Step:
    resource = f"stream {spec.name}"
    changes = [change for change in overlaps if change.resource == resource]
    wanted = {field.there: field.encode(value) for field, value in _owned(spec)}
    if there is None:
        changes.append(Change("create", resource))
        config = {"name": spec.name, **wanted}
        return _Step("CREATE", (*changes, *_window(spec, config, horizon)), config)
    for field, value in _owned(spec):
        now = there.get(field.there, _MISSING.get(field.there))
        if field.decode(now) != field.decode(wanted[field.there]):
            kind: Literal["conflict", "update"] = "conflict" if field.fixed else "update"
            shown = field.decode(wanted[field.there]) if field.name == "subjects" else value
            changes.append(Change(kind, resource, field.name, field.decode(now), shown))
    # What is not owned is sent back as it was: a field left out would be reset.
    config = {**there, **wanted}
    return _Step("UPDATE", (*changes, *_window(spec, config, horizon)), config)


def _owned(spec: StreamSpec) -> Iterable[tuple[_Field, Any]]:
    for field in _FIELDS:
        value = getattr(spec, field.name)
        if value is not None:
            yield field, value


def _window(spec: StreamSpec, config: Json, horizon: float) -> Iterable[Change]:
    """A message sent again after its id was forgotten would be stored twice."""
    # Without a window, the server takes two minutes, or less if messages do not live so long.
    nanoseconds = config.get("duplicate_window") or min(
        120 * _SECOND, config.get("max_age") or 120 * _SECOND
    )
    if nanoseconds <= horizon * _SECOND:
        yield Change(
            "conflict",
            f"stream {spec.name}",
            "duplicate_window",
            _duration(nanoseconds),
            f"more than {horizon:g} s, the time over which a publish may be sent again "
            "(timeout_seconds)",
        )


def _overlaps(streams: Sequence[StreamSpec], there: Mapping[str, Json]) -> list[Change]:
    """Find subjects two streams would take; the server would say only that there are some."""
    declared = {spec.name: spec for spec in streams}
    others = {
        name: tuple(config.get("subjects") or ())
        for name, config in there.items()
        if name not in declared
    }
    found: list[Change] = []
    for place, spec in enumerate(streams):
        rivals = others | {each.name: each.subjects for each in streams[:place]}
        for name, subjects in rivals.items():
            for theirs in subjects:
                found += [
                    Change(
                        "conflict",
                        f"stream {spec.name}",
                        "subjects",
                        f"{theirs} is taken by stream {name}",
                        ours,
                    )
                    for ours in spec.subjects
                    if overlap(ours, theirs)
                ]
    return found


async def _apply(api: Api, step: _Step) -> None:
    name = step.config["name"]
    try:
        await _answered(lambda: api.request(f"STREAM.{step.operation}.{name}", step.config))
    except JetStreamError as error:
        if error.err_code == ErrCode.STREAM_NAME_EXISTS and step.operation == "CREATE":
            # Another process was faster, perhaps with the same declaration.
            await _check_same(api, step)
            return
        raise DeclarationConflict(
            f"stream {name} cannot be declared: {error.description} (err_code {error.err_code})",
            differences=[str(change) for change in step.changes],
        ) from error


async def _answered(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again without an answer, as from a cluster that elects its leader.

    Of a stream that is there already, the server says what it says of one it has made.
    """
    for _ in range(_ASKED - 1):
        with contextlib.suppress(NatsTimeout):
            return await ask()
    return await ask()


async def _check_same(api: Api, step: _Step) -> None:
    name = step.config["name"]
    there = (await api.request(f"STREAM.INFO.{name}"))["config"]
    differences = [
        str(replace(step.changes[0], kind="update", field=field.name, current=now, wanted=wanted))
        for field in _FIELDS
        if field.there in step.config
        and (now := field.decode(there.get(field.there, _MISSING.get(field.there))))
        != (wanted := field.decode(step.config[field.there]))
    ]
    if differences:
        raise DeclarationConflict(
            f"stream {name} was made by another process meanwhile, with other settings",
            differences=differences,
        )


def _conflict(changes: Sequence[Change], mode: DeclareMode) -> DeclarationConflict:
    help_ = {
        "verify": "bring the broker in line, or declare with create or reconcile",
        "create": "bring the broker in line, or declare with reconcile",
    }.get(mode, "change the declaration, or make the stream anew")
    lines = [str(change) for change in changes]
    return DeclarationConflict(
        f"{len(lines)} difference{'s' if len(lines) > 1 else ''} between the broker and the "
        f"declared streams: {'; '.join(lines[:5])}: {help_}",
        differences=lines,
    )
