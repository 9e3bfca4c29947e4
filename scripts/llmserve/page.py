"""The chat page at `/`: a few static files. Their headers let the page load and reach nothing but this server.

What a model writes is hostile text. The page builds its DOM from nodes and never from markup, and `require-trusted-types-for`
makes a browser that knows it refuse any markup made from text.
"""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "page"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
          "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")  # fmt: skip
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
           "Cache-Control": "no-cache"}  # fmt: skip


def page_routes() -> list[Route]:
    """`/` and `/static/NAME` for each file of the page; read once, so that a page belongs to its server's version."""
    index = FOLDER / "index.html"
    return [_route("/", index)] + [_route(f"/static/{path.name}", path) for path in sorted(FOLDER.iterdir()) if path != index]


def _route(url: str, path: Path) -> Route:
    content, media_type = path.read_bytes(), MEDIA_TYPES[path.suffix]

    def send(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return Route(url, send)
