"""`serve()` as a process: asleep when idle, several directories, a path of its own, no torn answers."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from compiler.places import PACKAGE, WEB
from compiler.serving import listen
from compiler.serving.app import BUILT_FILES, ServeError, create_app
from compiler.serving.listen import serve
from tests.pure.test_server import SHARD, write_artifact

CODE = """
import json, pathlib, sys
from compiler.serving import app, listen
app.WEB = listen.WEB = pathlib.Path(sys.argv[1])
listen.serve([pathlib.Path(each) for each in sys.argv[3:]], port=0, **json.loads(sys.argv[2]))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dist").mkdir()
    for name in BUILT_FILES:
        (tmp_path / "dist" / name).write_text("/* built */ " * 100)
    (tmp_path / "templates").symlink_to(WEB / "templates")
    write_artifact(tmp_path / "one" / "demo")
    return tmp_path


@contextlib.contextmanager
def serving(root: Path, *artifacts: str, **options: Any) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    directories = [str(root / name) for name in artifacts or ("one",)]
    command = [sys.executable, "-u", "-c", CODE, str(root), json.dumps(options), *directories]
    process = subprocess.Popen(command, cwd=PACKAGE.parent, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address is not None
        yield address[0], process
    finally:
        process.kill()
        process.communicate()


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as response:
        content: bytes = response.read()
        return content


def switches(process: "subprocess.Popen[str]") -> int:
    """How often it has gone to sleep: each time something had woken it."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return sum(int(count) for count in re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux counts how often a process sleeps")
def test_an_idle_server_sleeps(root: Path) -> None:
    with serving(root) as (url, process):
        get(f"{url}models")
        counts = [switches(process)]
        while len(counts) < 60 and (len(counts) < 4 or counts[-1] - counts[-4] > 2):  # what the request has left to do
            time.sleep(0.5)
            counts.append(switches(process))
        assert counts[-1] - counts[-4] <= 2, counts


def test_the_date_is_that_of_the_answer(root: Path) -> None:
    with serving(root) as (url, _):
        time.sleep(1.1)
        before = int(time.time())
        with urllib.request.urlopen(f"{url}healthz", timeout=60) as response:
            (date,) = response.headers.get_all("date")
        assert before <= parsedate_to_datetime(date).timestamp() <= time.time()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_what_is_being_sent_is_sent_whole(root: Path, sent: signal.Signals) -> None:
    content = os.urandom(8 << 20)
    write_artifact(root / "one" / "large")
    manifest = json.loads((root / "one" / "large" / "model.json").read_bytes())
    (root / "one" / "large" / "params_shard_0.bin").write_bytes(content)
    manifest["files"]["params_shard_0.bin"]["bytes"] = len(content)
    (root / "one" / "large" / "model.json").write_text(json.dumps(manifest | {"id": "large"}))
    with serving(root) as (url, process):
        host, port = url.removeprefix("http://").strip("/").split(":")
        with socket.create_connection((host, int(port))) as asking:
            asking.sendall(f"GET /models/large/params_shard_0.bin HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            received = asking.recv(4096)
            process.send_signal(sent)
            for _ in range(1200):
                if not accepts(host, int(port)):
                    break
                time.sleep(0.05)
            else:
                pytest.fail("it goes on listening")
            while block := asking.recv(1 << 20):
                received += block
        assert received.partition(b"\r\n\r\n")[2] == content
        process.wait(60)


def accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port)).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory a process has")
def test_many_slow_visitors_take_little_memory(root: Path) -> None:
    """Each has asked for 32 MB and reads nothing; in pieces of 256 KiB they would hold 160 MB."""
    content = bytes(32 << 20)
    manifest = write_artifact(root / "one" / "demo")
    (root / "one" / "demo" / "params_shard_0.bin").write_bytes(content)
    manifest["files"]["params_shard_0.bin"]["bytes"] = len(content)
    (root / "one" / "demo" / "model.json").write_text(json.dumps(manifest))
    with serving(root) as (url, process), contextlib.ExitStack() as stack:
        host, port = url.removeprefix("http://").strip("/").split(":")
        request = f"GET /models/demo/params_shard_0.bin HTTP/1.1\r\nHost: {host}\r\nRange: bytes=1-\r\n\r\n"
        get(f"{url}models/demo/params_shard_0.bin")
        before = resident(process)
        visitors = []
        for _ in range(300):
            visitor = socket.socket()
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            visitor.connect((host, int(port)))
            visitors.append(stack.enter_context(visitor))
            visitor.sendall(request.encode())
        for visitor in visitors:
            assert b" 206 " in visitor.recv(64)
        sizes = [resident(process)]
        while len(sizes) < 10 or max(sizes[-10:]) - min(sizes[-10:]) > 1 << 20:  # until all hold what they take
            time.sleep(0.1)
            sizes.append(resident(process))
        assert sizes[-1] - before < 100 << 20


def resident(process: "subprocess.Popen[str]") -> int:
    """Bytes of memory."""
    size = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    assert size is not None
    return int(size[1]) << 10


def test_below_a_path(root: Path) -> None:
    with serving(root, base="/sub/chat/") as (url, _):
        assert url.endswith("/sub/chat/")
        page = get(url).decode()
        assert 'data-catalogue="/sub/chat/models"' in page
        script = re.search(r'src="(/sub/chat/static/page[.]js[^"]*)"', page)
        assert script is not None
        origin = url.removesuffix("/sub/chat/")
        assert get(origin + script[1]) == (root / "dist" / "page.js").read_bytes()
        (model,) = json.loads(get(f"{url}models"))["models"]
        assert model["url"] == "/sub/chat/models/demo/"
        assert get(f"{origin}{model['url']}params_shard_0.bin") == SHARD
        assert get(f"{url}isolation.js")
        for path in ("/", "/models", "/static/page.js"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(origin + path)


@pytest.mark.parametrize("base", ["sub/", "/sub", "//", "/../", "/a b/", "/a{b}/", "/.hidden/"])
def test_what_is_no_path_is_refused(root: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "WEB", root)
    with pytest.raises(ServeError, match="is no path"):
        serve(root / "one", port=0, base=base)


def test_several_directories(root: Path) -> None:
    write_artifact(root / "two" / "demo", context=2048)
    write_artifact(root / "two" / "other", "other")
    client = TestClient(create_app([root / "one", root / "two", root / "none"], root / "dist"))
    models = {model["id"]: model for model in client.get("/models").json()["models"]}
    assert sorted(models) == ["demo", "demo-2", "other"]
    assert (models["demo"]["context"], models["demo-2"]["context"]) == (1024, 2048)
    for model in models.values():
        assert client.get(f"{model['url']}model.json").json()["context"] == model["context"]
    write_artifact(root / "two" / "third", "third")
    assert "third" in [model["id"] for model in client.get("/models").json()["models"]]
    (root / "one" / "away").symlink_to(root / "two" / "other")
    assert [entry["id"] for entry in client.get("/models").json()["invalid"]] == ["away"]


def test_an_access_log_is_a_line_a_request(root: Path) -> None:
    for wanted in (True, False):
        with serving(root, access_log=wanted) as (url, process):
            get(f"{url}healthz")
            process.send_signal(signal.SIGINT)
            assert process.stdout is not None
            lines = process.stdout.read().splitlines()
            assert len([line for line in lines if '"GET /healthz HTTP/1.1" 200' in line]) == int(wanted)
