"""Decoding a bounded piece at a time."""

import gzip
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.clients._inflate import PIECE, EncodingError, Inflate


def raw_deflate(data):
    state = zlib.compressobj(wbits=-15)
    return state.compress(data) + state.flush()


ENCODERS = {"gzip": gzip.compress, "deflate": zlib.compress, "": bytes, "x-gzip": gzip.compress}


def decode(encoding, chunks):
    inflate = Inflate(encoding)
    pieces = [piece for chunk in chunks for piece in inflate.pieces(chunk)]
    inflate.end()
    assert encoding in ("", "identity") or all(len(piece) <= PIECE for piece in pieces)
    return b"".join(pieces)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(ENCODERS)),
    st.binary(max_size=300) | st.integers(0, 300_000),
    st.integers(1, 5000),
)
def test_what_was_encoded_comes_out_however_it_is_cut(encoding, text, size):
    data = text if isinstance(text, bytes) else bytes(text)
    encoded = ENCODERS[encoding](data)
    chunks = [encoded[at : at + size] for at in range(0, len(encoded), size)]
    assert decode(encoding, chunks) == data


def test_random_data_over_many_pieces():
    data = random.Random(1).randbytes(500_000)
    for encoding, encode in ENCODERS.items():
        assert decode(encoding, [encode(data)]) == data


def test_deflate_without_its_frame_is_read_too():
    assert decode("deflate", [raw_deflate(b"a" * 1000)]) == b"a" * 1000


def test_the_end_is_not_lost_where_it_meets_the_end_of_a_piece():
    # The last byte of input may stand for a kilobyte of output.
    for size in range(2 * PIECE - 1100, 2 * PIECE + 1100, 7):
        assert decode("deflate", [raw_deflate(bytes(size))]) == bytes(size)


def test_gzip_may_have_several_members():
    assert (
        decode("gzip", [gzip.compress(b"a") + gzip.compress(b"b"), gzip.compress(b"c")]) == b"abc"
    )


def test_a_bomb_comes_out_in_small_pieces():
    bomb = gzip.compress(bytes(50_000_000))
    pieces = Inflate("gzip").pieces(bomb)
    assert {len(next(pieces)) for _ in range(10)} == {PIECE}


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
def test_encodings_nobody_asked_for_are_refused(encoding):
    with pytest.raises(EncodingError, match="nobody asked for"):
        list(Inflate(encoding).pieces(b"x"))
    assert decode(encoding, []) == b""


@pytest.mark.parametrize(
    ("encoding", "chunks"),
    [
        ("gzip", [b"plain text"]),
        ("deflate", [b"\xff\xff\xff"]),
        ("gzip", [gzip.compress(b"a" * 1000)[:-9]]),
        ("gzip", [gzip.compress(b"a")[:-1] + b"x"]),
        ("deflate", [zlib.compress(b"a") + b"more"]),
        ("gzip", [gzip.compress(b"a"), b"garbage"]),
    ],
)
def test_what_is_cut_off_or_broken_is_refused(encoding, chunks):
    with pytest.raises(EncodingError):
        decode(encoding, chunks)


def test_an_empty_body_needs_no_encoding():
    assert decode("gzip", []) == b""
