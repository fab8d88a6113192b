"""A hub of weights on this machine that speaks as much of Hugging Face's protocol as a download needs."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Repositories by name: files by path. `cut` ends the next transfer of a file after so many bytes."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories = repositories
        self.cut: dict[str, int] = {}
        self.asked: list[tuple[str, str]] = []  # (file, range) of each transfer
        self.wrong: set[str] = set()  # files whose published checksum is another
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator["FakeHub"]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        parts = request.path.partition("?")[0].strip("/").split("/")
        listing = parts[:2] == ["api", "models"]
        files = self.repositories.get("/".join(parts[2:4] if listing else parts[:2]))
        if files is None:
            self.send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        elif listing:
            tree = parts[4] == "tree"
            value = [self.entry(*item) for item in files.items()] if tree else {"id": "x/y", "sha": COMMIT}
            self.send(request, 200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body)
        else:
            commit = parts[3] if len(parts[3]) == len(COMMIT) else COMMIT
            self.send_file(request, "/".join(parts[4:]), files, commit, body)

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        checksum = hashlib.sha256(content + (b"?" if path in self.wrong else b"")).hexdigest()
        lfs = {"oid": checksum, "size": len(content), "pointerSize": 1}
        return {"type": "file", "path": path, "size": len(content), "oid": checksum[:40], "lfs": lfs}

    def send_file(
        self, request: BaseHTTPRequestHandler, path: str, files: dict[str, bytes], commit: str, body: bool
    ) -> None:
        content = files[path]
        wanted = request.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if body:
            self.asked.append((path, wanted))
        self.send(
            request, 206 if wanted else 200, content[start:], headers, body, self.cut.pop(path, None) if body else None
        )

    def send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        headers: dict[str, str],
        body: bool,
        cut: int | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if body:
            request.wfile.write(content[:cut])
        if cut is not None:
            request.wfile.flush()
            request.close_connection = True
            request.connection.close()
