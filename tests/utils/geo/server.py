"""A file server on this machine that can be slow, break off, redirect, or refuse."""

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def serving(folder: Path, *, log: list[str] | None = None) -> Iterator[str]:
    """The address of a folder. The first part of a path says how it is served: plain, busy, slow, cut, away, secret."""
    busy: set[str] = set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            way, _, name = self.path.strip("/").partition("/")
            name = name.partition("?")[0]
            if log is not None:
                log.append(self.path)
            if way == "away":
                return self._end(302, {"Location": "http://localhost:9/elsewhere.tif"})
            if way == "slow":
                time.sleep(1)
            if way == "secret":
                return self._end(403, {})
            if way == "busy" and name not in busy:  # once
                busy.add(name)
                return self._end(503, {})
            content = (folder / name).read_bytes()
            first, last = 0, len(content) - 1
            if "Range" in self.headers:
                low, _, high = self.headers["Range"].removeprefix("bytes=").partition("-")
                first, last = int(low), min(int(high or last), last)
            part = content[first : last + 1]
            status = 206 if "Range" in self.headers else 200
            place = {"Content-Range": f"bytes {first}-{last}/{len(content)}", "Content-Length": str(len(part))}
            self._end(status, {**place, "Accept-Ranges": "bytes"})
            with contextlib.suppress(OSError):
                self.wfile.write(part[:100] if way == "cut" and len(part) > 100 else part)
            return None

        def _end(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
