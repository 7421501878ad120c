import json

import pytest
from demo.workload import LINE_LIMIT, from_file, generated

GOOD = {"phone_number": "+4930123456", "status": "completed", "duration_seconds": 12}


def test_generated_calls_are_the_same_for_the_same_seed():
    first, second = (list(generated(50, seed=7).calls) for _ in range(2))
    assert first == second
    assert first != list(generated(50, seed=8).calls)


def test_a_good_file_is_read_whole(tmp_path):
    path = tmp_path / "calls.jsonl"
    path.write_text(f"\ufeff{json.dumps(GOOD)}\n\n{json.dumps(GOOD | {'note': 'ours'})}")
    workload = from_file(path)
    assert workload.total == 2
    assert [call.duration_seconds for call in workload.calls] == [12, 12]
    assert workload.bad == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON: Expecting property name"),
        (b"[1]", "not a JSON object"),
        (b"12", "not a JSON object"),
        (b'{"phone_number": "\xff"}', "not UTF-8 (byte 19)"),
        (b"x" * (LINE_LIMIT + 1), f"longer than {LINE_LIMIT} bytes"),
        (b"[" * 20_000, "nested too deeply"),
        (json.dumps(GOOD | {"phone_number": "12"}).encode(), "phone_number: "),
        (json.dumps(GOOD | {"phone_number": "+4930123456\n"}).encode(), "phone_number: "),
        (json.dumps(GOOD | {"status": "ringing"}).encode(), "status must be one that is final"),
        (json.dumps(GOOD | {"status": "failed"}).encode(), "failure_reason is required"),
        (json.dumps(GOOD | {"duration_seconds": -1}).encode(), "duration_seconds: "),
        (b'{"status": "completed"}', "phone_number: Field required"),
    ],
)
def test_a_bad_line_is_reported_and_the_rest_is_read(tmp_path, line, reason):
    path = tmp_path / "calls.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"\n".join([good, line, good]))
    workload = from_file(path)
    assert len(list(workload.calls)) == 2
    (bad,) = workload.bad
    assert bad.number == 2
    assert reason in bad.reason
    assert "+4930123456" not in bad.reason


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_file(tmp_path / "nowhere.jsonl")
