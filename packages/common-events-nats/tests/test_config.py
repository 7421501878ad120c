import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import SecretStr, ValidationError

from common.events.nats._config import NatsConfig


def test_one_url_may_be_given_as_text():
    assert NatsConfig.model_validate({"servers": "nats://localhost"}).addresses == (
        "localhost:4222",
    )


def test_secrets_are_in_no_repr_and_no_error():
    servers = ("nats://app:hunter2@a:1", "tls://b")
    config = NatsConfig.model_validate({"servers": servers, "user": "u", "password": "hunter2"})
    assert "hunter2" not in repr(config) + str(config)
    assert config.addresses == ("a:1", "b:4222")
    for wrong in (
        {"servers": "http://app:hunter2@host"},
        {"servers": "nats://app:hunter2@host:port"},
        {"servers": "nats://app:hunter2@"},
        {"password": "hunter2"},
        {"token": "hunter2", "user": "u", "password": "hunter2"},
        {"tokn": "hunter2"},
    ):
        with pytest.raises(ValidationError) as caught:
            NatsConfig.model_validate(wrong)
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "wrong",
    [
        {"servers": ()},
        {"user": "u"},
        {"timeout_seconds": 0},
        {"timeout_seconds": float("inf")},
        {"timeout_seconds": 1, "ack_timeout_seconds": 2},
        {"max_in_flight": 0},
        {"inbox_prefix": "a.>"},
        {"domain": "a.b"},
        {"name": "a\r\nPUB x"},
        {"credentials_file": "/nowhere/at/all.creds"},
        {"tls_key_file": __file__},
        {"tls_ca_file": __file__},
        {"tls_cert_file": __file__},
        {"credentials_file": __file__, "token": "t"},
    ],
)
def test_a_wrong_setting_fails_at_construction(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        NatsConfig.model_validate(wrong)


def test_it_is_frozen():
    with pytest.raises(ValidationError):
        NatsConfig().name = "other"  # type: ignore[misc]


def section(**changes: object) -> SimpleNamespace:
    """What `common.config` has for NATS."""
    values = {
        "batch_size": 100,
        "flush_interval_seconds": 5,
        "max_retries": 3,
        "timeout_seconds": 30,
        "soft_fail": True,
        "servers": (SecretStr("nats://app:pw@nats:4222"),),
        "user": None,
        "password": None,
        "token": None,
        "credentials_file": None,
        "nkey_seed_file": None,
        "tls_ca_file": None,
        "tls_cert_file": None,
        "tls_key_file": None,
        "connect_timeout_seconds": 3,
    }
    return SimpleNamespace(**(values | changes))


def test_a_section_of_settings_is_taken_by_its_attributes():
    config = NatsConfig.model_validate(section(nkey_seed_file=Path(__file__)))
    assert config.addresses == ("nats:4222",)
    assert config.connect_timeout_seconds == 3
    assert config.nkey_seed_file == Path(__file__)


def test_a_section_of_settings_is_taken_as_keyword_arguments():
    values = vars(section(servers=("nats://app:pw@nats:4222",)))
    assert NatsConfig(**values).addresses == ("nats:4222",)
