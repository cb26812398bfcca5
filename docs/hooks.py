"""Write the site's reference pages: every key of conf/ with its comment, and every public module of the package.

MkDocs calls `on_files`; the pages exist in the site alone.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "vivit_core"
KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w/@?]+):(?P<value>.*)$")


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    for name, text in (("settings", settings()), ("python", python())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def settings() -> str:
    """One table for each file of conf/: key, value, comment."""
    out = [
        "# Settings",
        "",
        "Every file of `conf/`, with each key, its value and what it means. A file is chosen by `group=name`, "
        "a value is set by `group.key=value`. This page is made from the files themselves.",
        "",
    ]
    folder = ROOT / "conf"
    for path in [folder / "config.yaml", *sorted(p for p in folder.rglob("*.yaml") if p.name != "config.yaml")]:
        out += [f"## {path.relative_to(folder).with_suffix('')}", "", *table(path.read_text(encoding="utf-8")), ""]
    return "\n".join(out)


def table(text: str) -> list[str]:
    """The lines of a page for one file: its leading comment, then a row for each key."""
    lines = text.splitlines()
    lead = [line[1:].strip() for line in lines[: next(i for i, line in enumerate(lines + [""]) if line[:1] != "#")]]
    out = [" ".join(line for line in lead if not line.startswith("@package")), ""]
    rows, stack = [], list[tuple[int, str]]()
    for line in lines:
        body, _, comment = line.partition(" # ")
        found = KEY.match(body)
        if not found or body.lstrip().startswith("#"):
            continue
        indent = len(found["indent"])
        stack = [(at, key) for at, key in stack if at < indent] + [(indent, found["key"])]
        key = ".".join(key for _, key in stack)
        value = found["value"].strip()
        rows.append(f"| `{key}` | {f'`{cell(value)}`' if value else ''} | {cell(comment.strip())} |")
    return [*out, "| key | value | |", "|---|---|---|", *rows]


def cell(text: str) -> str:
    """Text of a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def python() -> str:
    """The public classes and functions of each module that has some."""
    out = [
        "# Python",
        "",
        "The package, module by module. `vivit_core.load_twin` is where most scripts begin.",
        "",
    ]
    for path in sorted(PACKAGE.rglob("*.py")):
        words = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if words[-1] in ("__init__", "__main__") or not public(path):
            continue
        out += [f"::: {'.'.join(words)}", ""]
    return "\n".join(out)


def public(path: Path) -> bool:
    """Whether a module defines a class or function with a docstring and without an underscore."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(
        isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_") and ast.get_docstring(node)
        for node in body
    )
