"""The HTTP server as an ASGI application, in a clone of the project: `uvicorn server:app`.

`wisp serve` listens by itself. All of it is in `compiler/serving/`, which is `wisp.serving` where it is installed.
"""

from compiler.serving.app import create_app
from compiler.serving.asgi import app
from compiler.serving.listen import serve

__all__ = ["app", "create_app", "serve"]
