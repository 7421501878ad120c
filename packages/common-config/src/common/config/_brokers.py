"""The sections for NATS and Azure Event Grid."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from common.config._mask import SecretUrl
from common.config._ready import Count, LibrarySection, Seconds


class Publishing(LibrarySection):
    """How events are published; part of the sections of all brokers."""

    batch_size: int = Field(default=100, ge=1)
    """Most events sent together."""
    flush_interval_seconds: Seconds = 5
    """Longest time in seconds that an event waits for others."""
    max_retries: Count = 3
    """Further attempts after a failed one."""
    timeout_seconds: Seconds = 30
    """Longest time for one publish, in seconds."""
    soft_fail: bool = True
    """Whether a failed publish is returned and counted instead of raised."""


class Nats(Publishing):
    """A NATS server or cluster: for ``common-events-nats``."""

    servers: tuple[SecretUrl, ...] = Field(
        default=(SecretUrl("nats://localhost:4222"),), min_length=1
    )
    """URLs of one or more servers of the cluster."""
    user: str | None = None
    """User, where the server wants one."""
    password: SecretStr | None = None
    """The user's password."""
    token: SecretStr | None = None
    """Token, where the server wants one instead."""
    credentials_file: Path | None = None
    """File with JWT and seed, as ``nsc`` writes them."""
    nkey_seed_file: Path | None = None
    """File with the seed of an nkey."""
    tls_ca_file: Path | None = None
    """Certificates of the authorities to trust."""
    tls_cert_file: Path | None = None
    """This client's certificate."""
    tls_key_file: Path | None = None
    """The key of this client's certificate."""
    connect_timeout_seconds: Seconds = 5
    """How long to wait for a connection, in seconds."""


class EventGrid(Publishing):
    """An Azure Event Grid topic or namespace: for ``common-events-eventgrid``."""

    endpoint: SecretUrl
    """The topic's or namespace's endpoint."""
    key: SecretStr | None = None
    """Access key; without key and SAS token, the managed identity is used."""
    sas_token: SecretStr | None = None
    """Shared access signature, instead of the key."""
    event_schema: Literal["cloudevents", "eventgrid"] = "cloudevents"
    """The schema that the topic takes."""
    topic: str | None = None
    """Name of the namespace's topic; none for a custom topic."""
    subscription: str | None = None
    """Name of the namespace topic's subscription to receive from."""
    webhook_secret: SecretStr | None = None
    """What deliveries to the webhook must carry."""
