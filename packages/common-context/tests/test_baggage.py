# Misuse on purpose, and values known to be there:
# pyright: reportAttributeAccessIssue=false

"""The rules of W3C Baggage."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.context import BaggageValue, format_baggage, parse_baggage


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], {}),
        ([""], {}),
        (
            ["userId=alice,serverNode=DF%2028,isProduction=false"],
            {"userId": "alice", "serverNode": "DF 28", "isProduction": "false"},
        ),
        (
            ["userId=alice", "serverNode=DF%2028,isProduction=false"],
            {"userId": "alice", "serverNode": "DF 28", "isProduction": "false"},
        ),
        (
            ["userId =   alice", "serverNode = DF%2028, isProduction = false\t"],
            {"userId": "alice", "serverNode": "DF 28", "isProduction": "false"},
        ),
        (["a=b=c=="], {"a": "b=c=="}),
        (["a="], {"a": ""}),
        (["a=%C3%A4%F0%9F%98%80"], {"a": "ä😀"}),
        (["a=%ff"], {"a": "\ufffd"}),
        (["a=%4"], {"a": "%4"}),
        (["a=1+2"], {"a": "1+2"}),
        (["a=1,a=2"], {"a": "2"}),
        (["!#$%&'*+-.^_`|~=1"], {"!#$%&'*+-.^_`|~": "1"}),
        # broken members are left out alone
        (["a=1,broken,b=2"], {"a": "1", "b": "2"}),
        (["=1,b=2"], {"b": "2"}),
        (["a b=1,b=2"], {"b": "2"}),
        (["ä=1,b=2"], {"b": "2"}),
        (['a="1",b=2'], {"b": "2"}),
        (["a=1 2,b=2"], {"b": "2"}),
        (["a=ä,b=2"], {"b": "2"}),
        (["a=1\\,b=2"], {"b": "2"}),
        (["a=1\r\nX: y,b=2"], {"b": "2"}),
        (["a=1;;x,b=2"], {"b": "2"}),
        (['a=1;x="y",b=2'], {"b": "2"}),
    ],
)
def test_parsing(headers, expected):
    assert parse_baggage(headers) == expected


def test_properties_are_kept_and_sent_on():
    header = (
        "key1=value1;property1;property2, key2 = value2, key3=value3; propertyKey=propertyValue"
    )
    baggage = parse_baggage(header)
    assert baggage == {"key1": "value1", "key2": "value2", "key3": "value3"}
    assert isinstance(baggage["key1"], BaggageValue)
    assert baggage["key1"].properties == "property1;property2"
    assert type(baggage["key2"]) is str
    sent = "key1=value1;property1;property2,key2=value2,key3=value3;propertyKey=propertyValue"
    assert format_baggage(baggage) == sent
    assert parse_baggage(sent) == baggage


def test_values_with_properties_can_be_copied_and_pickled():
    value = BaggageValue("a", "ttl=5")
    for same in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert same == "a"
        assert same.properties == "ttl=5"


def test_at_most_64_members_are_read_and_written():
    header = ",".join(f"k{n}={n}" for n in range(100))
    assert list(parse_baggage(header)) == [f"k{n}" for n in range(64)]
    assert format_baggage({f"k{n}": str(n) for n in range(100)}).count("=") == 64


def test_at_most_8192_bytes_are_read_and_written_and_no_member_is_cut():
    exact = f"a={'x' * 4000},b={'y' * (8192 - 4002 - 3)}"
    assert len(exact) == 8192
    assert len(parse_baggage(exact)) == 2
    assert format_baggage(parse_baggage(exact)) == exact
    assert list(parse_baggage(exact + "z")) == ["a"]
    assert list(parse_baggage(f"{exact},c=1")) == ["a", "b"]
    assert parse_baggage("a=" + "x" * 9000) == {}
    assert format_baggage({"a": "x" * 9000, "b": "1"}) == "b=1"
    assert format_baggage({"a": "ä" * 1400, "b": "1"}) == "b=1"  # percent-encoded it is too long


def test_hostile_values_and_keys_cannot_break_the_header():
    header = format_baggage({"a": "1\r\nSet-Cookie: x", "b": "2,c=3;d", "e\n": "x", "f": "\ud800"})
    assert header == "a=1%0D%0ASet-Cookie:%20x,b=2%2Cc=3%3Bd,f=?"


@pytest.mark.parametrize(
    "properties", ["ttl=5\r\nX-Evil: 1", "ttl=5\n", "a,b=1", "a b", "=1", "a;", ";", 'a="1"', "a=ä"]
)
def test_hostile_properties_are_refused_and_never_written(properties):
    with pytest.raises(ValueError, match="separated by ';'"):
        BaggageValue("v", properties)
    value = BaggageValue("v", "ttl=5")
    value.properties = properties
    assert format_baggage({"a": value, "b": "1"}) == "a=v,b=1"


TOKENS = st.from_regex(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,10}", fullmatch=True)


@given(st.dictionaries(TOKENS, st.text(st.characters(codec="utf-8"), max_size=20), max_size=20))
def test_what_is_formatted_can_be_parsed(baggage):
    assert parse_baggage(format_baggage(baggage)) == baggage


@given(st.text() | st.text(st.sampled_from('ab=,;% \t1"'), max_size=80))
def test_no_text_makes_parsing_raise_and_the_result_is_stable(header):
    baggage = parse_baggage(header)
    assert parse_baggage(format_baggage(baggage)) == baggage


@given(st.dictionaries(st.text(), st.text()))
def test_formatting_never_leaves_printable_ascii(baggage):
    header = format_baggage(baggage)
    assert len(header) <= 8192
    assert all(" " < character <= "~" for character in header)
