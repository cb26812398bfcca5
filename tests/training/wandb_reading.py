"""Reads what W&B wrote to the disk: its log of a run is a LevelDB log of protocol buffers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as messages

BLOCK, HEADER, FIRST_HEADER = 32768, 7, 7
WHOLE, LAST = 1, 4


@dataclass
class Logged:
    """What is in a run's log."""

    run_id: str = ""
    sweep_id: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[tuple[str, str]] = field(default_factory=list)  # type, name
    exit_code: int | None = None

    def values(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows if name in row]


def read_log(path: Path) -> Logged:
    out = Logged()
    for record in records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            out.run_id, out.sweep_id = record.run.run_id, record.run.sweep_id
            out.config |= updates(record.run.config.update)
        elif kind == "config":
            out.config |= updates(record.config.update)
        elif kind == "history":
            out.rows.append(updates(record.history.item))
        elif kind == "summary":
            out.summary |= updates(record.summary.update)
        elif kind == "artifact":
            out.artifacts.append((record.artifact.type, record.artifact.name))
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            artifact = record.request.log_artifact.artifact
            out.artifacts.append((artifact.type, artifact.name))
        elif kind == "exit":
            out.exit_code = record.exit.exit_code
    return out


def updates(items: Any) -> dict[str, Any]:
    return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}


def records(content: bytes) -> Iterator[Any]:
    at, parts = FIRST_HEADER, b""
    while at + HEADER <= len(content):
        if (room := BLOCK - at % BLOCK) < HEADER:
            at += room  # the rest of a block is padding
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + HEADER])
        parts += content[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (WHOLE, LAST):
            record = messages.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record
