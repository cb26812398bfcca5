"""As much of a W&B server, on this machine alone, as `wandb sweep` and `wandb agent` ask for."""

from __future__ import annotations

import itertools
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY, PROJECT, SWEEP = "lab", "twins", "sweep0"


class SweepServer(ThreadingHTTPServer):
    """Takes one sweep, and hands out ``count`` runs of it, one after the other."""

    daemon_threads = True

    def __init__(self, count: int) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.count = count
        self.sweep: dict[str, Any] = {}
        self.text = ""
        self.given: list[dict[str, Any]] = []  # parameters of each run handed out

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, text: str) -> None:
        self.text, self.sweep = text, yaml.safe_load(text)

    def next_command(self, alive: bool) -> list[dict[str, Any]]:
        if alive:
            return []
        if len(self.given) == self.count:
            return [{"type": "exit"}]
        chosen = next(itertools.islice(combinations(self.sweep["parameters"]), len(self.given), None))
        self.given.append(chosen)
        arguments = {name: {"value": value} for name, value in chosen.items()}
        run_id = f"run{len(self.given)}"
        return [{"type": "run", "run_id": run_id, "program": self.sweep["program"], "args": arguments}]


def combinations(parameters: dict[str, Any]) -> Any:
    """A grid; of a continuous parameter its two ends."""
    values = [p["values"] if "values" in p else [p["min"], p["max"]] for p in parameters.values()]
    return (dict(zip(parameters, chosen, strict=True)) for chosen in itertools.product(*values))


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SweepServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        body = json.loads(self.body() or b"{}") if self.path.endswith("/graphql") else (self.body(), {})[1]
        query, variables = body.get("query", ""), body.get("variables") or {}
        self.answer({"data": self.data(query, variables)})

    def data(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        server = self.server
        project = {"id": "1", "name": PROJECT, "entity": {"id": "1", "name": ENTITY}}
        if "viewer" in query:
            people = {"id": "1", "username": ENTITY, "entity": ENTITY, "name": ENTITY, "email": "", "admin": False}
            return {"viewer": people | {"flags": "{}", "teams": {"edges": []}, "apiKeys": {"edges": []}}}
        if "upsertSweep" in query:
            server.take(variables["config"])
            return {"upsertSweep": {"sweep": {"name": SWEEP, "project": project}, "configValidationWarnings": []}}
        if "createAgent" in query:
            return {"createAgent": {"agent": {"id": "1"}}}
        if "agentHeartbeat" in query:
            alive = any(json.loads(variables.get("runState") or "{}").values())
            return {"agentHeartbeat": {"agent": {"id": "1"}, "commands": json.dumps(server.next_command(alive))}}
        if re.search(r"\bsweep\(", query):
            sweep = {"id": "1", "name": SWEEP, "method": server.sweep["method"], "state": "RUNNING"}
            empty = ("description", "createdAt", "heartbeatAt", "updatedAt", "bestLoss", "controller", "scheduler")
            sweep |= dict.fromkeys(empty) | {"config": server.text, "earlyStopJobRunning": False}
            return {"project": {"sweep": sweep | {"runs": {"edges": []}}}}
        if "serverInfo" in query or "ServerFeatures" in query:
            return {"serverInfo": {"features": [], "cliVersionInfo": {}, "latestLocalVersionInfo": None}}
        return {}

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def answer(self, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
