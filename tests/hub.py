"""A stand-in for the Hugging Face Hub on loopback: as much of its HTTP interface as downloads and commits need."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_good"


class Hub:
    """Repositories by name. `private` ones are hidden and `gated` ones refused without TOKEN; `requests` logs paths.

    What is committed, with TOKEN, comes below `root`; `commits` are the names of each commit's files.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.requests: list[str] = []
        self.url = ""
        self.root: Path | None = None
        self.uploads: dict[str, bytes] = {}
        self.commits: list[list[str]] = []


def _full_name(repo: dict[str, Any]) -> str:
    return f"{repo['organization']}/{repo['name']}" if repo.get("organization") else str(repo["name"])


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            parts = path.strip("/").split("/")
            if parts[0] == "api" and parts[1] == "models":
                self._api("/".join(parts[2:4]), parts[4:])
            elif len(parts) >= 5 and parts[2] == "resolve":
                self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            else:
                self._refuse(404, "EntryNotFound")

        def do_POST(self) -> None:
            path = unquote(urlparse(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = path.strip("/").split("/")
            if self.headers.get("authorization") != f"Bearer {TOKEN}":
                self._refuse(401, "Unauthorized")
            elif path == "/api/repos/create":
                self._send(200, json.dumps({"url": f"{hub.url}/{_full_name(json.loads(body))}"}).encode())
            elif path == "/api/validate-yaml":
                self._send(200, b'{"errors": [], "warnings": []}')
            elif path.endswith("/info/lfs/objects/batch"):
                objects = [self._upload_action(item) for item in json.loads(body)["objects"]]
                self._send(200, json.dumps({"transfer": "basic", "objects": objects}).encode())
            elif parts[4] == "preupload":
                modes = [
                    {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".bin") else "regular"}
                    for f in json.loads(body)["files"]
                ]
                self._send(200, json.dumps({"files": [mode | {"shouldIgnore": False} for mode in modes]}).encode())
            else:
                self._commit("/".join(parts[2:4]), [json.loads(line) for line in body.splitlines()])

        def do_PUT(self) -> None:
            hub.uploads[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
            self._send(200, b"")

        def _upload_action(self, item: dict[str, Any]) -> dict[str, Any]:
            return {**item, "actions": {"upload": {"href": f"{hub.url}/upload/{item['oid']}", "header": {}}}}

        def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
            assert hub.root is not None
            root, names = hub.root / repo, []
            for line in lines[1:]:
                value = line["value"]
                content = hub.uploads[value["oid"]] if line["key"] == "lfsFile" else base64.b64decode(value["content"])
                (root / value["path"]).parent.mkdir(parents=True, exist_ok=True)
                (root / value["path"]).write_bytes(content)
                names.append(value["path"])
            hub.repositories[repo] = root
            hub.commits.append(names)
            done = {"success": True, "commitOid": COMMIT, "commitUrl": f"{hub.url}/{repo}/commit/{COMMIT}"}
            self._send(200, json.dumps(done).encode())

        def _api(self, repo: str, rest: list[str]) -> None:
            revision = rest[1] if len(rest) > 1 and rest[0] in ("revision", "tree") else "main"
            if self._repository(repo, revision) is None:
                return
            root = hub.repositories[repo]
            names = sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())
            if rest and rest[0] == "tree":
                entries = [
                    {"type": "file", "path": name, "size": (root / name).stat().st_size, "oid": "0" * 40}
                    for name in names
                ]
                self._send(200, json.dumps(entries).encode())
                return
            info = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._send(200, json.dumps(info | {"private": False, "tags": [], "downloads": 0}).encode())

        def _resolve(self, repo: str, revision: str, name: str) -> None:
            root = self._repository(repo, revision)
            if root is None:
                return
            if repo in hub.gated and self.headers.get("authorization") != f"Bearer {TOKEN}":
                self._refuse(403, "GatedRepo")
            elif not (root / name).is_file():
                self._refuse(404, "EntryNotFound")
            else:
                data = (root / name).read_bytes()
                etag = hashlib.sha256(data).hexdigest()
                self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

        def _repository(self, repo: str, revision: str) -> Path | None:
            hidden = repo in hub.private and self.headers.get("authorization") != f"Bearer {TOKEN}"
            if repo not in hub.repositories or hidden:
                self._refuse(401, "RepoNotFound")
                return None
            if revision not in ("main", COMMIT):
                self._refuse(404, "RevisionNotFound")
                return None
            return hub.repositories[repo]

        def _refuse(self, status: int, code: str) -> None:
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

        def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
