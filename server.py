"""The HTTP server as an ASGI application, for a server or a proxy of yours: `uvicorn server:app`.

`WISP_ARTIFACTS` says which directories are served (`artifacts`; several are separated as in PATH), `WISP_ALLOWED_HOSTS`
which names are answered (any, as the proxy's is not known here), `WISP_BASE` the path that everything lies below.
`wisp serve` listens by itself. All of it is in `compiler/serving/`.
"""

import os

from compiler.serving.app import create_app
from compiler.serving.listen import bind, serve

__all__ = ["app", "bind", "create_app", "serve"]

app = create_app(
    os.environ.get("WISP_ARTIFACTS", "artifacts").split(os.pathsep),
    allowed_hosts=[name.strip() for name in os.environ.get("WISP_ALLOWED_HOSTS", "*").split(",") if name.strip()],
    base=f"/{path}/" if (path := os.environ.get("WISP_BASE", "").strip("/")) else "/",
)
