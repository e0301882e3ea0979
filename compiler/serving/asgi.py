"""The application as a server or a proxy of yours runs it: `uvicorn wisp.serving.asgi:app`.

`WISP_ARTIFACTS` says which directories are served (`artifacts`; several are separated as in PATH), `WISP_ALLOWED_HOSTS`
which names are answered (any, as the proxy's is not known here), `WISP_BASE` the path that everything lies below.
"""

import os

from .app import create_app

app = create_app(
    os.environ.get("WISP_ARTIFACTS", "artifacts").split(os.pathsep),
    allowed_hosts=[name.strip() for name in os.environ.get("WISP_ALLOWED_HOSTS", "*").split(",") if name.strip()],
    base=f"/{path}/" if (path := os.environ.get("WISP_BASE", "").strip("/")) else "/",
)
