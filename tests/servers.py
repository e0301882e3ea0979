"""Debian's nginx and Caddy, run by a test on a free port with a configuration of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


def nginx() -> str | None:
    """The program, which is not on everybody's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def caddy() -> str | None:
    """The program."""
    return shutil.which("caddy")


@contextlib.contextmanager
def serving_nginx(program: str, work: Path, part: str) -> Iterator[str]:
    """nginx with one server block that holds `part`; yields its URL."""
    port = _free_port()
    work.mkdir(parents=True, exist_ok=True)
    temporary = "".join(
        f"{kind}_temp_path {work}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.getuid() == 0 else ""
    (work / "part.conf").write_text(part)
    (work / "nginx.conf").write_text(
        f"{user} daemon off; worker_processes 1; pid {work}/pid; error_log {work}/error.log warn;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; {temporary}\n"
        f"  server {{ listen 127.0.0.1:{port}; include {work}/part.conf; }} }}\n"
    )
    command = [program, "-c", str(work / "nginx.conf"), "-p", str(work), "-e", str(work / "error.log")]
    with _running(command, port) as url:
        yield url


@contextlib.contextmanager
def serving_caddy(program: str, work: Path, part: str) -> Iterator[str]:
    """Caddy with one site that holds `part`; yields its URL."""
    port = _free_port()
    work.mkdir(parents=True, exist_ok=True)
    (work / "Caddyfile").write_text(f"{{\n  admin off\n  auto_https off\n}}\nhttp://127.0.0.1:{port} {{\n{part}}}\n")
    command = [program, "run", "--adapter", "caddyfile", "--config", str(work / "Caddyfile")]
    with _running(command, port, XDG_DATA_HOME=str(work), XDG_CONFIG_HOME=str(work)) as url:
        yield url


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextlib.contextmanager
def _running(command: Sequence[str], port: int, **environment: str) -> Iterator[str]:
    # The error log is nginx's own; what Caddy says of itself is in its stderr.
    with subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE) as process:
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if process.poll() is not None:
                    assert process.stderr is not None
                    raise AssertionError(f"{command[0]} did not start: {process.stderr.read().decode()}")
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate()
