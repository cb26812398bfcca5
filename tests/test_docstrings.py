"""Docstrings say what names say no more: what a shape's letters stand for, and what each argument is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FILES = sorted(SOURCE.rglob("*.py"))
SUFFIX = re.compile(r"[a-z]\w*?_([A-Z]\w*|[0-9]+[A-Z]\w*)")  # x_BTU, frames_1HW; no constant
OWN = {"self", "cls"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


# --- shape letters ---------------------------------------------------------------------------------------------------


def letters_used(tree: ast.Module) -> dict[str, str]:
    """The letters of all names that a file makes, each with one of the names."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                if suffix := SUFFIX.fullmatch(name):
                    found |= dict.fromkeys(re.findall("[A-Z]", suffix[1]), name)
    return found


def legend(path: Path, source: Path) -> set[str]:
    """The letters that a file's header explains, after "Shape letters", or another one ("as in ``MODULE``": beside it,
    or as below ``vivit_core``)."""
    header = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    found = set[str]()
    for told in re.findall(r"Shape letters(.*?)(?:\n\n|\Z)", header, re.DOTALL):
        found |= set(re.findall(r"\b[A-Z]\b", told))
        for module in re.findall(r"as in\s+``([\w.]+)``", told):
            places = (path.parent, source / "vivit_core")
            others = [place.joinpath(*module.split(".")).with_suffix(".py") for place in places]
            found |= legend(next(other for other in others if other.is_file()), source)
    return found


def unexplained(path: Path, source: Path = SOURCE) -> str:
    lacking = letters_used(ast.parse(path.read_text(encoding="utf-8")))
    for letter in legend(path, source):
        lacking.pop(letter, None)
    return ", ".join(f"{letter} ({name})" for letter, name in sorted(lacking.items()))


def test_letters_of_shapes_are_explained() -> None:
    """In the header of the file that makes a name with such letters."""
    assert {str(path.relative_to(SOURCE)): told for path in FILES if (told := unexplained(path))} == {}


@pytest.mark.parametrize(
    ("header", "lacking"),
    [
        ("Sums.", "B (x_BT), T (x_BT)"),
        ("Sums.\n\nShape letters: B clips.", "T (x_BT)"),
        ("Sums.\n\nShape letters: B clips.\n\nT is no legend.", "T (x_BT)"),
        ("Sums. Shape letters: B clips, T bins.", ""),
        ("Sums.\n\nShape letters as in ``other``, T bins.", ""),
    ],
)
def test_a_letter_without_a_meaning_is_found(header: str, lacking: str, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text('"""Shape letters: B clips."""')
    (tmp_path / "a.py").write_text(f'"""{header}"""\nMOST_X = 1\ndef f(x_BT):\n    return x_BT.sum_K + MOST_X')
    assert unexplained(tmp_path / "a.py") == lacking


# --- parameters ------------------------------------------------------------------------------------------------------


def named(docstring: str) -> set[str] | None:
    """The names in a docstring's section of parameters; None where it has no such section."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=\n\n\S|\n[^\n]+\n---|\Z)", docstring, re.DOTALL | re.MULTILINE)
    if section is None:
        return None
    rows = re.findall(r"^(\S.*?)(?: ?:(?: |$)|$)", section[1], re.MULTILINE)
    return {name.strip(" *`") for row in rows for name in row.split(",")}


def arguments(node: Function) -> set[str]:
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {one.arg for one in every if one is not None and not one.arg.startswith("_")} - OWN


def described(node: ast.AST) -> set[str] | None:
    """The arguments that the docstring of a function or class should name; None where they stand elsewhere."""
    if isinstance(node, Function):
        return arguments(node)
    if not isinstance(node, ast.ClassDef):
        return None
    made = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
    return arguments(made[0]) if made else None


def ill_described(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if (wanted := described(node)) is None:
            continue
        assert isinstance(node, Function | ast.ClassDef)
        told = named(ast.get_docstring(node) or "")
        if told is not None and told != wanted:
            yield f"{node.name}: lacks {sorted(wanted - told)}, has no {sorted(told - wanted)}"


def test_a_section_of_parameters_names_every_argument() -> None:
    """Or there is none."""
    wrong = {str(path.relative_to(SOURCE)): list(ill_described(ast.parse(path.read_text("utf-8")))) for path in FILES}
    assert {path: told for path, told in wrong.items() if told} == {}


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ("a, b : two\n\n    numbers.\nc : one.", []),
        ("a, b : two.", ["f: lacks ['c'], has no []"]),
        ("a, b, c, d : four.", ["f: lacks [], has no ['d']"]),
    ],
)
def test_an_argument_that_is_not_named_is_found(rows: str, wrong: list[str]) -> None:
    docstring = f"Sums.\n\nParameters\n----------\n{rows}\n\nReturns\n-------\nthe sum : a number."
    assert list(ill_described(ast.parse(f"def f(a, *, b, **c):\n    {docstring!r}"))) == wrong
