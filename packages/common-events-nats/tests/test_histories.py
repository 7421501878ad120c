"""Histories of faults, drawn from a seed, against what is promised.

The server, in a cluster also the leader, is killed, paused and restarted; connections are cut,
refused, stalled and swallowed; workers are killed, paused and stopped in the midst of handling.
"""

import sys

import pytest
from nats_history import Play

SHORT = [(1, 1, True), (2, 1, False), (3, 3, True)]
LONG = [(seed, 3 if seed % 3 == 0 else 1, seed % 4 != 0) for seed in range(100, 124)]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("seed", "nodes", "per_key"), SHORT)
async def test_a_short_history_keeps_the_promises(tmp_path, capsys, seed, nodes, per_key):
    history = Play(seed, tmp_path, nodes=nodes, per_key=per_key, accounts=4)
    await play(history, capsys, strikes=3, away=nodes == 1)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("seed", "nodes", "per_key"), LONG)
async def test_a_long_history_keeps_the_promises(tmp_path, capsys, seed, nodes, per_key):
    history = Play(seed, tmp_path, nodes=nodes, per_key=per_key, workers=3)
    await play(history, capsys, strikes=20)


async def play(history, capsys, **options):
    try:
        async with history:
            await history.run(**options)
    finally:
        with capsys.disabled():
            sys.stderr.write(f"\n{history.summary()}\n")
