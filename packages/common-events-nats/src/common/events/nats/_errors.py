"""What only NATS can say, as typed errors; JetStream's answers by their ``err_code``."""

from enum import IntEnum

from common.errors import MessageBusError
from common.events.core._errors import BrokerUnavailable, MissingStream


class NatsAuthenticationError(MessageBusError):
    """The server refuses the credentials: check user, token, nkey or credentials file."""

    code = "NATS_AUTHENTICATION_FAILED"
    retryable = False


class NatsPermissionError(MessageBusError):
    """The server's permissions forbid this connection a subject: allow it for the user."""

    code = "NATS_PERMISSION_DENIED"
    retryable = False


class NoResponders(BrokerUnavailable):
    """Nobody listens on the subject of a request."""

    code = "NATS_NO_RESPONDERS"


class NatsTimeout(BrokerUnavailable):
    """No answer to a request in time."""

    code = "NATS_REQUEST_TIMEOUT"


class JetStreamDisabled(MessageBusError):  # noqa: N818
    """The server or the account has no JetStream."""

    code = "JETSTREAM_DISABLED"
    retryable = False


class JetStreamError(MessageBusError):
    """JetStream has answered a request with an error.

    Args:
        message: See `common.errors.AppError`.
        api_code: The answer's ``code``, like one of HTTP.
        err_code: The answer's ``err_code``, by which errors are told apart (`ErrCode`).
        description: The server's own words; for people only.
    """

    code = "JETSTREAM_ERROR"

    api_code: int = 500
    err_code: int = 0
    description: str = ""


class ErrCode(IntEnum):
    """Those ``err_code`` values that are told apart (nats-server, server/errors.json)."""

    ACCOUNT_RESOURCES_EXCEEDED = 10002
    CLUSTER_NO_PEERS = 10005
    CLUSTER_NOT_AVAILABLE = 10008
    CLUSTER_NOT_LEADER = 10009
    CONSUMER_NAME_EXISTS = 10013
    CONSUMER_NOT_FOUND = 10014
    INSUFFICIENT_RESOURCES = 10023
    MAXIMUM_STREAMS_LIMIT = 10027
    MEMORY_RESOURCES_EXCEEDED = 10028
    MESSAGE_NOT_FOUND = 10037
    NOT_ENABLED_FOR_ACCOUNT = 10039
    RAFT_GENERAL = 10041
    SEQUENCE_NOT_FOUND = 10043
    STORAGE_RESOURCES_EXCEEDED = 10047
    STREAM_CONFIG_INVALID = 10052
    MESSAGE_EXCEEDS_MAXIMUM = 10054
    MESSAGE_DELETE_FAILED = 10057
    STREAM_NAME_EXISTS = 10058
    STREAM_NOT_FOUND = 10059
    STREAM_MISMATCH = 10060
    STREAM_SUBJECT_OVERLAP = 10065
    STREAM_UPDATE_FAILED = 10069
    REPLICAS_NOT_SUPPORTED = 10074
    NOT_ENABLED = 10076
    STREAM_STORE_FAILED = 10077
    HEADERS_EXCEED_MAXIMUM = 10097
    CONSUMER_EXISTING_ACTIVE = 10105
    STREAM_SEALED = 10109
    STREAM_OFFLINE = 10118
    CONSUMER_OFFLINE = 10119
    CONSUMER_ALREADY_EXISTS = 10148
    CONSUMER_DOES_NOT_EXIST = 10149
    DUPLICATE_IN_PROCESS = 10158
    TOO_MANY_REQUESTS = 10167


PASSING = frozenset(
    {
        ErrCode.CLUSTER_NOT_AVAILABLE,
        ErrCode.CLUSTER_NOT_LEADER,
        ErrCode.CLUSTER_NO_PEERS,
        ErrCode.RAFT_GENERAL,
        ErrCode.STREAM_OFFLINE,
        ErrCode.CONSUMER_OFFLINE,
        ErrCode.DUPLICATE_IN_PROCESS,
        ErrCode.TOO_MANY_REQUESTS,
    }
)
"""Faults which pass by themselves: elections, overload, a node that comes back."""

DISABLED = frozenset({ErrCode.NOT_ENABLED, ErrCode.NOT_ENABLED_FOR_ACCOUNT})


def from_answer(error: object, *, what: str) -> MessageBusError:
    """Return the typed error for the ``error`` object of an answer.

    Args:
        error: ``{"code": 404, "err_code": 10059, "description": "stream not found"}``.
        what: What was asked for, such as ``"STREAM.INFO.CALL"``.
    """
    found = error if isinstance(error, dict) else {}
    api_code, err_code = (_number(found.get(name)) for name in ("code", "err_code"))
    description = str(found.get("description", ""))[:300]
    text = f"{what}: {description or 'JetStream reports an error'} (err_code {err_code})"
    if err_code == ErrCode.STREAM_NOT_FOUND:
        return MissingStream(f"{what}: the stream does not exist: declare it")
    if err_code in DISABLED:
        return JetStreamDisabled(
            f"{what}: JetStream is off: enable it for the server and for the account"
        )
    if err_code in PASSING:
        return BrokerUnavailable(text)
    return JetStreamError(text, api_code=api_code, err_code=err_code, description=description)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
