"""A file server on this machine that can be slow, break off, redirect, or refuse."""

import contextlib
import functools
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def serving(folder: Path, *, log: list[str] | None = None) -> Iterator[str]:
    """The address of a folder. The first part of a path says how it is served: plain, busy, slow, cut, away, secret."""
    seen: list[str] = [] if log is None else log

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            way, _, name = self.path.partition("?")[0].strip("/").partition("/")
            is_first = self.path not in seen
            seen.append(self.path)
            if way == "slow":
                time.sleep(1)
            refused = {"away": 302, "secret": 403, "busy": 503 if is_first else 0}.get(way)
            if refused:
                return self._begin(refused, {"Location": "http://localhost:9/elsewhere.tif"})
            content = (folder / name).read_bytes()
            low, _, high = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            part = content[int(low) : int(high or len(content)) + 1]
            place = {"Content-Range": f"bytes {low}-{int(low) + len(part) - 1}/{len(content)}"}
            self._begin(206 if "Range" in self.headers else 200, {**place, "Content-Length": str(len(part))})
            with contextlib.suppress(OSError):
                self.wfile.write(part[:100] if way == "cut" else part)
            return None

        def _begin(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=functools.partial(server.serve_forever, 0.02), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
