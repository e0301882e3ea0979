"""Configuration of hosts for an exported site: Netlify's and Cloudflare's `_headers`, and parts for nginx and Caddy.

Knows headers and paths. Isolation is sent as headers, so that threads need no reload; a file that is asked for by its
hash (`?v=`) is kept for ever, others are asked for again.
"""

from collections.abc import Sequence

from ..serving.files import IMMUTABLE
from .files import HEADERS, TYPES, SiteFile

PLACE = "/srv/wisp"  # where the administrator puts the directory
MOST_RULES = 100  # of Cloudflare's
LARGE_FILE = 1 << 20  # bytes; what smaller files cost when they are asked for again is little


def host_files(base: str, files: Sequence[SiteFile]) -> dict[str, str]:
    """By name; `base` is the path that the site lies below, with slashes at both ends."""
    return {"_headers": headers_file(base, files), "nginx.conf": nginx_part(base), "Caddyfile": caddy_part(base)}


def headers_file(base: str, files: Sequence[SiteFile]) -> str:
    """Rules add up, so only one sets Cache-Control for a path; by default these hosts have files asked for again."""
    lines = [f"{base}*", *(f"  {name}: {value}" for name, value in HEADERS.items())]
    large = sorted((file for file in files if file.immutable and file.size >= LARGE_FILE), key=lambda file: -file.size)
    for file in large[: MOST_RULES - 1]:
        lines += [f"{base}{file.name}", f"  cache-control: {file.cache_control}"]
    return "\n".join(lines) + "\n"


def nginx_part(base: str) -> str:
    """For a `server` block: `include .../nginx.conf;`."""
    types = "".join(f"    {kind} {suffix.removeprefix('.')};\n" for suffix, kind in sorted(TYPES.items()))
    headers = "".join(f'  add_header {name} "{value}" always;\n' for name, value in HEADERS.items())
    return (
        f"# For a server block of nginx; the directory is expected at {PLACE}.\n"
        f"location {base} {{\n"
        f"  alias {PLACE}/;\n"
        "  index index.html;\n"
        f"  types {{\n{types}  }}\n"
        "  charset utf-8;\n"
        f"{headers}"
        '  set $wisp_cache "no-cache";\n'
        f'  if ($arg_v) {{ set $wisp_cache "{IMMUTABLE}"; }}\n'
        "  add_header cache-control $wisp_cache;\n"
        "  gzip on;\n"
        "  gzip_vary on;\n"
        "  gzip_types text/css text/javascript text/plain text/wgsl application/json application/wasm image/svg+xml;\n"
        "}\n"
    )


def caddy_part(base: str) -> str:
    """For a site block: `import .../Caddyfile`."""
    headers = "".join(f'    {name} "{value}"\n' for name, value in HEADERS.items())
    types = "".join(
        f'  @wisp{i} path *{suffix}\n  header @wisp{i} content-type "{kind}"\n'
        for i, (suffix, kind) in enumerate(sorted(TYPES.items()))
        if suffix in (".bin", ".wgsl", ".map")
    )
    return (
        f"# For a site block of Caddy; the directory is expected at {PLACE}.\n"
        f"handle_path {base}* {{\n"
        f"  root * {PLACE}\n"
        f"  header {{\n{headers}  }}\n"
        f"{types}"
        "  @versioned {\n    query v=*\n    file\n  }\n"
        f'  header @versioned cache-control "{IMMUTABLE}"\n'
        "  @unversioned not query v=*\n"
        '  header @unversioned cache-control "no-cache"\n'
        "  encode gzip\n"
        "  file_server\n"
        "}\n"
    )
