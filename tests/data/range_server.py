"""A server of files on this machine that gives parts of them, as S3 does, and the faults that servers have; and a DANDI
archive in front of it, as much of its REST interface as is used."""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Files:
    """``with Files() as files:`` serves at ``files.url``.

    Attributes
    ----------
    content : path -> bytes.
    faults : path -> what happens to the next requests, one after the other; the last one stays where it is ``…!``.
    asked : path and range of each request.
    assets : the archive's: (dandiset, version) -> path -> path in ``content``; where None a Zarr folder.
    newest : dandiset -> its newest published version; None where there is none.
    """

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.assets: dict[tuple[str, str], dict[str, str | None]] = {}
        self.newest: dict[str, str | None] = {}
        self.signed = 0  # addresses to which downloads lead; older ones are no longer valid

    def __enter__(self) -> Files:
        owner = self

        class Handler(Answers):
            files = owner

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fault(self, path: str) -> str:
        waiting = self.faults.get(path, [])
        if not waiting:
            return ""
        return waiting[0][:-1] if waiting[0].endswith("!") else waiting.pop(0)


class Answers(BaseHTTPRequestHandler):
    files: Files
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def say(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.files.asked.append(f"{self.path} {self.headers.get('Range', '')}".strip())
        fault = self.files.fault(parts.path)
        if fault.isdecimal():
            self.say(int(fault), b"no", Content_Type="text/plain")
        elif fault == "hang":
            time.sleep(1.0)
            self.close_connection = True
        elif fault == "end":
            self.close_connection = True
        elif fault == "page":
            self.say(200, b"<html>log in</html>", Content_Type="text/html; charset=utf-8")
        elif fault == "loop":
            self.say(302, b"", Location=self.path)
        elif fault.startswith("to "):
            self.say(302, b"", Location=fault[3:])
        elif fault.startswith("{"):
            self.say(200, fault.encode())
        elif fault == "nonsense":
            self.say(200, b"\x00\xffnonsense")
        elif parts.path.startswith("/api/"):
            self.archive(parts.path[4:], parse_qs(parts.query))
        else:
            self.part(parts.path, parts.query, fault)

    def part(self, path: str, query: str, fault: str) -> None:
        content = self.files.content.get(path)
        if content is None:
            self.say(404, b"no")
            return
        if query and query != f"signed={self.files.signed}":
            self.say(403, b"expired")
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if found is None or fault == "whole":
            self.say(200, content)
            return
        first, last = int(found[1]), min(int(found[2]), len(content) - 1)
        if first >= len(content):
            self.say(416, b"")
            return
        body = content[first : last + 1 - (fault == "less")]
        told = f"bytes {first}-{last}/{len(content)}"
        if fault == "elsewhere":
            told = f"bytes {first + 1}-{last}/{len(content)}"
        elif fault == "unknown size":
            told = f"bytes {first}-{last}/*"
        self.send_response(206)
        self.send_header("Content-Range", told)
        self.send_header("ETag", '"another"' if fault == "changed" else '"one"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "short":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault == "slow":
            with suppress(OSError):  # the client goes away
                for number in range(len(body)):
                    self.wfile.write(body[number : number + 1])
                    self.wfile.flush()
                    time.sleep(0.02)
            self.close_connection = True
        else:
            self.wfile.write(body)

    def archive(self, path: str, query: dict[str, list[str]]) -> None:
        files = self.files
        if found := re.fullmatch(r"/dandisets/(\d+)/", path):
            if found[1] not in files.newest:
                self.json(404, {"detail": "Not found."})
            else:
                newest = files.newest[found[1]]
                self.json(200, {"most_recent_published_version": None if newest is None else {"version": newest}})
        elif found := re.fullmatch(r"/dandisets/(\d+)/versions/([^/]+)/assets/", path):
            own = files.assets.get((found[1], found[2]))
            if own is None:
                self.json(404, {"detail": "Not found."})
            else:
                begin = query["path"][0]
                listed = [(name, place) for name, place in own.items() if name.startswith(begin)]
                self.json(200, {"next": None, "results": [
                    {"asset_id": (place or "").strip("/"), "path": name, "zarr": None if place else "a-b"}
                    for name, place in listed
                ]})  # fmt: skip
        elif found := re.fullmatch(r"/assets/(.+)/download/", path):
            files.signed += 1
            self.say(302, b"", Location=f"{files.url}/{found[1]}?signed={files.signed}")
        else:
            self.json(404, {})

    def json(self, code: int, content: Any) -> None:
        self.say(code, json.dumps(content).encode(), Content_Type="application/json")
