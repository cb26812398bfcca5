"""A stand-in for the Hugging Face Hub on this machine, which speaks as much of its HTTP interface as is used.

It keeps commits of repositories in memory: made by uploads (create, preupload, commit), read by downloads (resolve).
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any


class Hub:
    """``with Hub() as hub:`` serves at ``hub.url``.

    Attributes
    ----------
    repos : name -> its commits, the newest last, each path -> bytes.
    asked : method and path of each request.
    nonsense : path's end -> status, headers and body that are answered instead; None ends the connection.
    """

    def __init__(self) -> None:
        self.repos: dict[str, list[dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.closed = False
        self.nonsense: dict[str, tuple[int, dict[str, str], bytes] | None] = {}

    def put(self, name: str, folder: Path) -> str:
        """A commit of a folder's files; returns its id."""
        files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        self.repos.setdefault(name, []).append(files)
        return commit_id(name, len(self.repos[name]) - 1)

    def __enter__(self) -> Hub:
        hub = self

        class Handler(Answers):
            owner = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Answer no more."""
        if not self.closed:
            self.closed = True
            self.server.shutdown()
            self.server.server_close()


def commit_id(name: str, number: int) -> str:
    return hashlib.sha1(f"{name} {number}".encode()).hexdigest()


class Answers(BaseHTTPRequestHandler):
    owner: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        pass

    def answer(self, status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> None:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        self.get()

    def do_GET(self) -> None:
        self.get()

    def amiss(self) -> bool:
        """Answer nonsense, where that is wanted."""
        self.owner.asked.append(f"{self.command} {self.path}")
        for end, what in self.owner.nonsense.items():
            if self.path.split("?")[0].endswith(end):
                if what is None:
                    self.close_connection = True
                    self.connection.close()
                else:
                    status, headers, body = what
                    self.answer(status, body, **headers)
                return True
        return False

    def get(self) -> None:
        if self.amiss():
            return None
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) == 4:
            name = "/".join(parts[2:])
            return self.answer(200, {"id": name, "private": self.owner.private[name]})
        if len(parts) < 5 or parts[2] != "resolve":
            return self.answer(404, {"error": "no such page"})
        name, revision, path = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        commits = self.owner.repos.get(name)
        if commits is None:
            return self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        known = {commit_id(name, number): number for number in range(len(commits))} | {
            "main": len(commits) - 1,
            "v0": 0,
        }
        if revision not in known:
            return self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="Revision not found")
        files, commit = commits[known[revision]], commit_id(name, known[revision])
        if path not in files:
            return self.answer(
                404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", X_Repo_Commit=commit
            )
        etag = hashlib.sha1(files[path]).hexdigest()
        return self.answer(200, files[path], ETag=f'"{etag}"', X_Repo_Commit=commit)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if self.amiss():
            return None
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            said = json.loads(body)
            name = "/".join(filter(None, [said.get("organization"), said["name"]]))
            self.owner.repos.setdefault(name, [])
            self.owner.private.setdefault(name, said.get("private") or said.get("visibility") == "private")
            return self.answer(200, {"url": f"{self.owner.url}/{name}", "name": name})
        if parts == ["api", "validate-yaml"]:
            return self.answer(200, {"errors": [], "warnings": []})
        name, what = "/".join(parts[2:4]), parts[4]
        if what == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            return self.answer(200, {"files": modes})
        assert what == "commit", self.path
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        self.owner.repos[name].append(files)
        commit = commit_id(name, len(self.owner.repos[name]) - 1)
        url = f"{self.owner.url}/{name}/commit/{commit}"
        return self.answer(200, {"success": True, "commitUrl": url, "commitOid": commit, "hookOutput": ""})
