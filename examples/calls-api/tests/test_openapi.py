"""The service does what its OpenAPI document says, whatever it is sent."""

import asyncio
import json
import os
import re
import sysconfig
from pathlib import Path

import httpx
import pytest

SCHEMATHESIS = Path(sysconfig.get_path("scripts")) / "schemathesis"
CONFIG = Path(__file__).parent / "schemathesis.toml"


@pytest.mark.timeout(600)  # ten seconds, on a busy machine several times as long
@pytest.mark.parametrize(
    ("examples", "mode"),
    [
        (20, ["--generation-deterministic"]),
        pytest.param(
            1000, ["--seed", "1"], marks=[pytest.mark.chaos, pytest.mark.timeout(1200)], id="long"
        ),
    ],
)
async def test_the_document_is_kept_to(settings, listen, tmp_path, examples, mode):
    async with listen(settings) as port:
        run = await asyncio.create_subprocess_exec(
            SCHEMATHESIS,
            *("--config-file", CONFIG, "run", f"http://127.0.0.1:{port}/openapi.json"),
            *("--phases", "coverage,fuzzing,stateful", "--max-examples", str(examples), *mode),
            *("--checks", "all", "--no-color", "--request-timeout", "60"),
            env=os.environ | {"NO_PROXY": "*"},
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output = (await run.communicate())[0].decode()
        finally:
            if run.returncode is None:
                run.kill()
                await run.wait()
    assert run.returncode == 0, output[-4000:]
    assert "Tested: 6" in output, output[-4000:]
    for phase in ("Coverage", "Fuzzing", "Stateful"):
        assert f"✅ {phase}" in output, output[-4000:]
    generated = re.search(r"(\d+) generated, (\d+) passed", output)
    assert generated is not None, output
    assert int(generated[1]) > 100


async def test_the_document_describes_errors_and_what_can_be_done_next(api):
    document = (await api.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        "/calls",
        "/calls/{call_id}",
        "/calls/{call_id}/end",
        "/calls/{call_id}/transcript",
        "/summary",
    }
    operations = {
        operation["operationId"]: operation
        for methods in document["paths"].values()
        for operation in methods.values()
    }
    for name, operation in operations.items():
        assert "ErrorResponse" in json.dumps(operation["responses"]["default"]), name
    assert operations["start_call"]["responses"]["201"]["links"].keys() <= operations.keys()


async def test_the_document_can_be_had_over_the_network(settings, listen):
    async with listen(settings) as port, httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/openapi.json")
        assert answer.json()["info"]["title"] == "calls-api"
        assert "server" not in answer.headers
