"""What fails unexpectedly is logged with its frames, never with what stands in their variables."""

import base64
import http.client
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from breezeblock.backends.registry import read_config
from breezeblock.errors import ConfigError

SERVING = """
import io, sys
from breezeblock.objects.nbd import replies
from breezeblock.objects.serving import __main__ as keeper

sys.stdin = io.TextIOWrapper(io.BytesIO(b"no task"))
keeper.main()

def sign(secret):
    raise KeyError("unforeseen")

try:
    sign("an opaque " + "word")
except KeyError as error:
    replies.log.error("nbd.request_failed", exc_info=error)
"""


def test_a_serving_process_logs_no_variables() -> None:
    done = subprocess.run([sys.executable, "-c", SERVING], capture_output=True, text=True, check=True)
    assert "unforeseen" in done.stderr
    assert "opaque" not in done.stderr
    assert done.stdout.count("\n") == 1, "one line for the starter"


FAILING = """
import sys
from breezeblock.cli import run
from breezeblock.objects.cdmi import requests

def answer(store, request):
    raise KeyError("unforeseen")

requests.answer = answer
run(["cdmi", "serve", sys.argv[1], "--user", "pool", "--port", "0"])
"""


def test_the_cdmi_server_logs_no_credentials(tmp_path: Path) -> None:
    pair = base64.b64encode(b"pool:an opaque word").decode()
    process = subprocess.Popen(
        [sys.executable, "-c", FAILING, str(tmp_path)],
        stderr=subprocess.PIPE,
        env=os.environ | {"BREEZEBLOCK_CDMI_PASSWORD": "an opaque word", "COLUMNS": "400"},
        text=True,
    )
    assert process.stderr is not None
    try:
        found = re.search(r"http://([^/]+)/", process.stderr.readline())
        assert found
        asking = http.client.HTTPConnection(found[1], timeout=10)
        asking.request("GET", "/key", headers={"Authorization": f"Basic {pair}"})
        assert asking.getresponse().status == 500
    finally:
        process.terminate()
        said = process.communicate(timeout=30)[1]
    assert "unforeseen" in said
    assert pair not in said
    assert "opaque" not in said


@pytest.mark.parametrize("url", ["http://someone:opaque@host/x", "https://host/c?sig=opaque"])
def test_settings_with_a_secret_in_a_url_are_refused_without_showing_it(url: str) -> None:
    section = {"kind": "rest", "pools": {"gold": {"store": "cdmi", "urls": [url], "credentials_file": "/c"}}}
    with pytest.raises(ConfigError) as caught:
        read_config(section, "[backends.rest]")
    assert "opaque" not in str(caught.value)
