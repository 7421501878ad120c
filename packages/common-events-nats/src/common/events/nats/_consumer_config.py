"""Durable consumers as a subscription wants them: made, compared, brought in line.

Rules of the server: nats-server's ``checkNewConsumerConfig`` and ADR-42 (priority groups); the
actions ``create`` and ``update`` of ``$JS.API.CONSUMER.CREATE`` came with nats-server 2.10.
"""

import logging
import re
from dataclasses import dataclass
from typing import Any

from common.errors import MessageBusError, wrap
from common.events.core._declarations import Change
from common.events.core._errors import DeclarationConflict
from common.events.core._subjects import merged
from common.events.core._transport import ConsumerSpec
from common.events.nats._api import Api, Json
from common.events.nats._errors import ErrCode, JetStreamError

log = logging.getLogger(__name__)

GROUP = "ordered"
"""The one priority group of an ordered consumer."""

MAX_ACK_PENDING = 10_000
"""Most unsettled messages over all processes of a consumer that is not ordered; those which wait
for their next attempt count, too. Each process has its own bound, ``max_outstanding``."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_DELIVER = "common-deliver"  # metadata: what it was declared with, when made anew from a position
_MISSING = frozenset({ErrCode.CONSUMER_NOT_FOUND, ErrCode.CONSUMER_DOES_NOT_EXIST})
_EXISTS = frozenset({10148, ErrCode.CONSUMER_NAME_EXISTS, ErrCode.CONSUMER_ALREADY_EXISTS})
_ORDERED = {"none": False, "pinned_client": True}  # others want requests of another kind
_FIXED = frozenset({"deliver", "ordered", "ack_policy", "deliver_subject"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a consumer that somebody deleted is taken up again.

    Attributes:
        stream_created: When the stream was made; another stream of that name starts anew.
        floor: All messages up to this sequence were settled.
    """

    stream_created: str
    floor: int


def check_spec(spec: ConsumerSpec) -> None:
    """Refuse what the server would not take, or would take for something else.

    Raises:
        DeclarationConflict: Saying what can be.
    """
    for name in (spec.durable, spec.stream):
        if not _NAME.fullmatch(name):
            raise DeclarationConflict(
                f"the name {name[:140]!r} cannot be used: take up to 128 letters, digits, hyphens "
                "and underscores"
            )
    if spec.max_outstanding < 1 or not 0.01 <= spec.ack_wait <= 86_400:
        raise DeclarationConflict(
            f"consumer {spec.durable}: max_outstanding is at least 1, ack_wait from 0.01 to 86400 "
            "seconds"
        )


def pin_seconds(ack_wait: float) -> float:
    """Return how long the active process of an ordered consumer may be silent.

    Messages of a process that crashed wait for ``ack_wait`` anyway, so it is well below that.
    """
    return min(10.0, max(1.0, ack_wait / 3))


def wanted(spec: ConsumerSpec) -> Json:
    """Return the owned settings of a subscription's consumer, as JetStream has them."""
    config: Json = {
        "durable_name": spec.durable,
        "name": spec.durable,
        "ack_policy": "explicit",
        "deliver_policy": spec.deliver,
        "ack_wait": round(spec.ack_wait * 1e9),
        "max_deliver": -1 if spec.max_deliver is None else spec.max_deliver,
        "max_ack_pending": MAX_ACK_PENDING,
        "filter_subjects": list(dict.fromkeys(spec.subjects)),
    }
    if spec.ordered:
        config |= {
            "priority_policy": "pinned_client",
            "priority_groups": [GROUP],
            "priority_timeout": round(pin_seconds(spec.ack_wait) * 1e9),
            # No process is given new messages while it lacks room for those of its predecessor.
            "max_ack_pending": spec.max_outstanding,
        }
    return config


def compare(spec: ConsumerSpec, current: Json) -> list[Change]:
    """Return how the broker's consumer differs from the subscription, in owned settings only.

    Subjects it has besides the subscription's are no difference: see `_merged`.
    """
    config = wanted(spec)
    policy = current.get("priority_policy", "none")
    found = {
        "deliver": _delivers(current),
        "ordered": _ORDERED.get(policy, policy),
        "deliver_subject": current.get("deliver_subject"),
        "ack_policy": current.get("ack_policy"),
        "ack_wait": current.get("ack_wait"),
        "max_deliver": current.get("max_deliver", -1),
        "max_ack_pending": current.get("max_ack_pending"),
        "filter_subjects": sorted(_filters(current)),
        "backoff": current.get("backoff") or None,
        "headers_only": current.get("headers_only", False),
        "priority_timeout": current.get("priority_timeout", 0),
    }
    expected = {
        "deliver": spec.deliver,
        "ordered": spec.ordered,
        "deliver_subject": None,
        "ack_policy": "explicit",
        "ack_wait": config["ack_wait"],
        "max_deliver": config["max_deliver"],
        "max_ack_pending": config["max_ack_pending"],
        "filter_subjects": sorted(_merged(spec, current)),
        "backoff": None,  # would take the place of ack_wait
        "headers_only": False,
        "priority_timeout": config.get("priority_timeout", 0),
    }
    return [
        Change(
            "conflict" if name in _FIXED else "update",
            f"consumer {spec.stream}/{spec.durable}",
            name,
            found[name],
            value,
        )
        for name, value in expected.items()
        if found[name] != value
    ]


def check_usable(spec: ConsumerSpec, current: Json) -> None:
    """Refuse a consumer that differs in what cannot be changed.

    Raises:
        DeclarationConflict: With all differences.
    """
    changes = compare(spec, current)
    if any(change.kind == "conflict" for change in changes):
        raise _conflict(spec, changes)


async def ensure(api: Api, spec: ConsumerSpec, origin: Origin | None = None) -> Json:
    """Make the consumer if it is missing, bring it in line if it differs; return its info.

    Args:
        api: Of the connection.
        spec: What the subscription wants.
        origin: Where to take up again, if the consumer was there before and is missing.

    Raises:
        MissingStream: There is no such stream.
        DeclarationConflict: It differs in what cannot be changed, or the server refuses it.
        BrokerUnavailable: No answer, or none that says anything; try again.
    """
    address = f"{spec.stream}.{spec.durable}"
    try:
        info = await api.request(f"CONSUMER.INFO.{address}")
    except JetStreamError as error:
        if error.err_code not in _MISSING:
            raise
        try:
            return await _write(api, spec, "create", await _new(api, spec, origin), [])
        except JetStreamError as race:
            if race.err_code not in _EXISTS:
                raise
            info = await api.request(f"CONSUMER.INFO.{address}")
    current = info["config"]
    check_usable(spec, current)
    changes = compare(spec, current)
    if not changes:
        return info
    log.warning(
        "Consumer %s/%s is changed: %s",
        spec.stream,
        spec.durable,
        "; ".join(_line(change) for change in changes),
    )
    # What is not owned stays as it is, and so does where the consumer started.
    kept = {
        **current,
        **wanted(spec),
        "deliver_policy": current["deliver_policy"],
        "filter_subjects": _merged(spec, current),
    }
    for name in ("filter_subject", "backoff", "headers_only"):
        kept.pop(name, None)
    return await _write(api, spec, "update", kept, changes)


async def _write(
    api: Api, spec: ConsumerSpec, action: str, config: Json, changes: list[Change]
) -> Json:
    request = {"stream_name": spec.stream, "action": action, "config": config}
    try:
        info = await api.request(f"CONSUMER.CREATE.{spec.stream}.{spec.durable}", request)
    except JetStreamError as error:
        if error.err_code in _EXISTS | _MISSING:
            raise
        raise _refused(spec, changes, error) from error
    if spec.ordered and info["config"].get("priority_policy") != "pinned_client":
        # Older servers leave out what they do not know, and would keep no order.
        raise DeclarationConflict(
            f"consumer {spec.stream}/{spec.durable}: to keep the order over processes needs "
            "nats-server 2.11 or later"
        )
    return info


async def _new(api: Api, spec: ConsumerSpec, origin: Origin | None) -> Json:
    """Return the configuration to create, from where the lost one had come to.

    A consumer of only what is new would otherwise miss what came while it was away.
    """
    config = wanted(spec)
    if origin is None:
        return config
    config["metadata"] = {_DELIVER: spec.deliver}
    stream = await api.request(f"STREAM.INFO.{spec.stream}")
    if (
        stream["created"] != origin.stream_created  # another stream: all of it is new
        or stream["config"]["retention"] == "workqueue"  # what was settled is gone
    ):
        return config | {"deliver_policy": "all"}
    if origin.floor == 0 and spec.deliver == "all":
        return config
    start = {"deliver_policy": "by_start_sequence", "opt_start_seq": origin.floor + 1}
    return config | start


def _delivers(current: Json) -> object:
    return (current.get("metadata") or {}).get(_DELIVER, current.get("deliver_policy"))


def _filters(current: Json) -> list[str]:
    single: Any = current.get("filter_subject")
    return [single] if single else list(current.get("filter_subjects") or ())


def _merged(spec: ConsumerSpec, current: Json) -> list[str]:
    """Return the subjects of the subscription and those the consumer has already.

    None is ever taken away: it may be that of a newer release running beside this one, and what
    is published while the consumer lacks it would never be delivered.
    """
    found = _filters(current)
    if not found:
        return []  # all subjects
    return list(merged(found, spec.subjects))


def _conflict(spec: ConsumerSpec, changes: list[Change]) -> DeclarationConflict:
    differences = [_line(change) for change in changes]
    return DeclarationConflict(
        f"consumer {spec.stream}/{spec.durable} exists with settings that cannot be changed: "
        f"{'; '.join(differences)}. Delete it, or give the subscription another durable name",
        differences=differences,
    )


def _refused(
    spec: ConsumerSpec, changes: list[Change], error: JetStreamError
) -> DeclarationConflict | MessageBusError:
    if error.api_code >= 500 and error.err_code not in {10012, ErrCode.REPLICAS_NOT_SUPPORTED}:
        return error
    return wrap(
        error,
        DeclarationConflict,
        f"the server refuses consumer {spec.stream}/{spec.durable}: {error.description} "
        f"(err_code {error.err_code})",
        differences=[_line(change) for change in changes],
    )


def _line(change: Change) -> str:
    note = " (cannot be changed)" if change.kind == "conflict" else ""
    return f"{change.field}: {change.current}, wanted {change.wanted}{note}"
