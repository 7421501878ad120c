"""Declarations against the in-memory broker."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

from common.events.core._declarations import Change, DeclareMode, Plan, StreamSpec
from common.events.core._errors import DeclarationConflict
from common.events.core._memory_broker import InMemoryBroker
from common.events.core._memory_stream import MemoryStream
from common.events.core._subjects import overlap

_FIXED = frozenset({"retention", "storage"})


def make_plan(broker: InMemoryBroker, wanted: Sequence[StreamSpec]) -> Plan:
    """Compare declarations with the broker."""
    return Plan([change for spec in wanted for change in _changes(broker, spec, wanted)])


def apply(broker: InMemoryBroker, wanted: Sequence[StreamSpec], mode: DeclareMode) -> Plan:
    """Bring the broker in line as far as the mode says; all, or nothing when that raises.

    Raises:
        DeclarationConflict: There is a difference that the mode does not allow to mend.
    """
    if mode == "off":
        return Plan()
    plan = make_plan(broker, wanted)
    allowed = {"verify": set[str](), "create": {"create"}, "reconcile": {"create", "update"}}[mode]
    refused = [change for change in plan.changes if change.kind not in allowed]
    if refused:
        raise DeclarationConflict(
            f"the broker differs from the declarations (mode {mode}): "
            + "; ".join(str(change) for change in refused[:5]),
            differences=[str(change) for change in refused],
        )
    for spec in wanted:
        stream = broker.streams.get(spec.name)
        if stream is None:
            broker.streams[spec.name] = MemoryStream(spec, bound=broker.config.max_messages)
        else:
            stream.spec = replace(stream.spec, **dict(_owned(spec)))
    return Plan(plan.changes, applied=bool(plan))


def _changes(
    broker: InMemoryBroker, spec: StreamSpec, wanted: Sequence[StreamSpec]
) -> Iterator[Change]:
    resource = f"stream {spec.name}"
    stream = broker.streams.get(spec.name)
    if stream is None:
        yield Change("create", resource)
    else:
        for name, value in _owned(spec):
            current: object = getattr(stream.spec, name)
            if value != current:
                yield Change(
                    "conflict" if name in _FIXED else "update", resource, name, current, value
                )
    for other in _others(broker, spec, wanted):
        if any(overlap(one, two) for one in spec.subjects for two in other.subjects):
            current = f"stream {other.name} takes {', '.join(other.subjects)}"
            yield Change("conflict", resource, "subjects", current, spec.subjects)


def _others(
    broker: InMemoryBroker, spec: StreamSpec, wanted: Sequence[StreamSpec]
) -> Iterable[StreamSpec]:
    """All streams beside this one, as they will be."""
    streams = {stream.spec.name: stream.spec for stream in broker.streams.values()}
    streams |= {other.name: other for other in wanted}
    streams.pop(spec.name, None)
    return streams.values()


def _owned(spec: StreamSpec) -> Iterator[tuple[str, Any]]:
    for entry in fields(spec):
        value = getattr(spec, entry.name)
        if value is not None:
            yield entry.name, value
