"""A file server on loopback that fails on demand, and wheels for it to serve."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import zipfile
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer:
    """Serves `files` (path to bytes) with ranges; its attributes switch faults on.

    cut_at: drop the connection after this many bytes of a file, `cuts` times; pause: called after each chunk;
    ignore_range: always send whole files; status: answer every file with this instead, or what it returns.
    headers: sent with every file; requests: (path, Range header) of every request, in order.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.cut_at = 0
        self.cuts = 0
        self.ignore_range = False
        self.status: Callable[[Mapping[str, str]], int] = lambda headers: 200
        self.pause: Callable[[], object] = lambda: None
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self) -> None:
                server.answer(self)

            def do_HEAD(self) -> None:
                server.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass  # a client that hangs up is part of the tests

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def ranges(self, ending: str) -> list[str | None]:
        """The Range headers of the requests for a file."""
        return [asked for path, asked in self.requests if path.endswith(ending)]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        asked = handler.headers.get("Range")
        self.requests.append((path, asked))
        body = self.files.get(path)
        status = 404 if body is None else self.status(handler.headers)
        if body is None or status != 200:
            handler.send_error(status)
            return
        start = int(found[1]) if (found := re.fullmatch(r"bytes=(\d+)-", asked or "")) and not self.ignore_range else 0
        if start >= len(body) and start:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(body)}")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body) - start))
        handler.send_header("Content-Type", "text/html" if path.endswith("/") else "application/octet-stream")
        handler.end_headers()
        if handler.command == "HEAD":
            return
        self._send(handler, body, start, is_file=not path.endswith("/"))

    def _send(self, handler: BaseHTTPRequestHandler, body: bytes, start: int, *, is_file: bool) -> None:
        end = len(body)
        if is_file and self.cuts and start < self.cut_at < end:
            self.cuts -= 1
            end = self.cut_at
        for offset in range(start, end, 1 << 14):
            handler.wfile.write(body[offset : min(offset + (1 << 14), end)])
            handler.wfile.flush()
            if is_file:
                self.pause()


class HubServer(FileServer):
    """As much of a model hub as fetching a repository needs. repos: repository to file name to contents."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self) -> None:
        super().__init__()
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        found = api or file
        files = self.repos.get(found[1]) if found else None
        if found is None or files is None:
            self._refuse(handler, 404, "RepoNotFound")
        elif found[1] in self.gated and (file or (api and api[2] == "tree")):
            self._refuse(handler, 403, "GatedRepo")
        elif api and api[3] not in (None, "main", self.COMMIT):
            self._refuse(handler, 404, "RevisionNotFound")
        elif api:
            self._send_json(handler, self._tree(files) if api[2] == "tree" else self._info(api[1], files))
        elif file and file[2] in files:
            self.files[path] = files[file[2]]
            self.headers = {"ETag": f'"{sha256(files[file[2]])}"', "X-Repo-Commit": self.COMMIT}
            super().answer(handler)
        else:
            self._refuse(handler, 404, "EntryNotFound")

    def _info(self, repo: str, files: Mapping[str, bytes]) -> dict[str, object]:
        return {"id": repo, "sha": self.COMMIT, "siblings": [{"rfilename": name} for name in files]}

    def _tree(self, files: Mapping[str, bytes]) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": name, "size": len(body), "oid": sha256(body)[:40]} for name, body in files.items()
        ]

    def _send_json(self, handler: BaseHTTPRequestHandler, answer: object) -> None:
        self.requests.append((handler.path, None))
        body = json.dumps(answer).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _refuse(self, handler: BaseHTTPRequestHandler, status: int, code: str) -> None:
        handler.send_response(status)
        handler.send_header("X-Error-Code", code)
        handler.send_header("X-Error-Message", code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


def wheel(name: str, version: str, members: Mapping[str, bytes]) -> tuple[str, bytes]:
    """A wheel's file name and contents."""
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    entries = dict(members)
    entries[f"{stem}.dist-info/METADATA"] = metadata.encode()
    entries[f"{stem}.dist-info/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    entries[f"{stem}.dist-info/RECORD"] = "".join(f"{path},,\n" for path in entries).encode()
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path, content in entries.items():
            archive.writestr(path, content)
    return f"{stem}-py3-none-any.whl", data.getvalue()


def serve_wheel(server: FileServer, name: str, version: str, members: Mapping[str, bytes]) -> str:
    """Add a wheel to a server's package index (at /simple/); returns the wheel's path."""
    filename, body = wheel(name, version, members)
    path = f"/files/{filename}"
    server.files[path] = body
    page = server.files.get(f"/simple/{name}/", b"<!DOCTYPE html>")
    server.files[f"/simple/{name}/"] = page + f'<a href="{path}#sha256={sha256(body)}">{filename}</a>'.encode()
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
