"""Names and text from outside (ids, behaviors, paths, what a sweep tries), and what each output makes of them.

They are data: in a file's name, a picture, a table or a command they must stand for themselves and do nothing. Each
output has one function here; those of rich, which needs an import, are in ``terminal.py``. All take any ``str``, also
one with surrogates, which is how Python reads a file name that is not UTF-8.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST = 1000  # characters of an id or of a behavior's name
NAME_BYTES = 64  # of a file's name that is made of an id, before prefix and suffix
DIGITS = 10  # of the hash that tells apart what else would have one name
SHORT = 40  # characters of a name in a picture
LINE = 110  # characters of a line in a picture
FEW = 8  # names that a message lists

# What Windows keeps for itself, with any extension; CON is the console there.
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
HASHED = re.compile(rf".*-[0-9a-f]{{{DIGITS}}}")
DIRECTIONS = range(0x202A, 0x202F), range(0x2066, 0x206A)  # controls that turn the text after them around
WORDS = ("null", "true", "false", "nan", "inf")  # which Hydra does not take for text
FORMULA = tuple("=+-@\t\r＝＋－＠")  # how a spreadsheet's formula begins


# What a name may be -------------------------------------------------------------------------------------------------


def problem_of(name: str, longest: int | None = LONGEST) -> str | None:
    """What is wrong with an id or a behavior's name, in words; None where it may be used."""
    if not name:
        return "is empty"
    if longest is not None and len(name) > longest:
        return f"has {len(name)} characters, and at most {longest} are read"
    if any(unicodedata.category(c) == "Cs" for c in name):
        return "is not UTF-8"
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name):
        return "has a control character (a line break, a NUL, a tab or the like)"
    return None


# Files, metrics, arrays ---------------------------------------------------------------------------------------------


def file_name(name: str) -> str:
    """A file's name made of an id: of at most ``NAME_BYTES`` bytes, the same each time, and good on every file system.

    A plain name in lower case stays as it is. Any other becomes what is plain in it and a hash, so that names that
    differ only in case, in Unicode's normal form, or far behind their beginning, make different files everywhere.
    """
    plain = re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_-])?", name) and not DEVICES.fullmatch(name)
    return name if plain and len(name) <= NAME_BYTES and not HASHED.fullmatch(name) else _hashed(name)


def key_name(name: str) -> str:
    """An id as part of a metric's or an array's name, as in ``val/bps_<id>``; letters of both cases stay.

    ``mean`` is kept for the mean over all recordings.
    """
    plain = re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_-])?", name) and name != "mean"
    return name if plain and len(name) <= NAME_BYTES and not HASHED.fullmatch(name) else _hashed(name)


def _hashed(name: str) -> str:
    """What is plain in a name, and a hash of all of it."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    kept = re.sub(r"[^A-Za-z0-9_-]+", "_", letters).strip("_-")[: NAME_BYTES - DIGITS - 1]
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
    return f"{kept or 'name'}-{digest}"


# Text for people ----------------------------------------------------------------------------------------------------


def printable(text: str, lines: bool = False) -> str:
    r"""Text for a terminal or a log: characters that would act instead of being shown become escapes such as ``\x1b``.

    Parameters
    ----------
    text : of any kind.
    lines : whether line breaks and tabs stay, as in a message of several lines; in a name they do not.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if _acts(c) and not (lines and c in "\n\t") else c for c in text)


def _acts(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or any(ord(c) in turned for turned in DIRECTIONS)


def _escaped(c: str) -> str:
    return c.encode("unicode_escape").decode()


def short(name: str, most: int = SHORT) -> str:
    """A name in one line of at most ``most`` characters; what is left out of its middle is an ellipsis."""
    shown = printable(name)
    if len(shown) <= most:
        return shown
    tail = most // 3
    return f"{shown[: most - tail - 1]}…{shown[-tail:]}"


def few(names: Sequence[str]) -> str:
    """The first of some names, and how many there are where these are not all; empty where there is none."""
    return ", ".join(names[:FEW]) + (f" … ({len(names)} in all)" if len(names) > FEW else "")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant; None where nothing is like it."""
    return next(iter(difflib.get_close_matches(word, known, n=1)), None)


def picture_text(text: str) -> str:
    """Text for matplotlib, which takes what stands between two dollars for mathematics; long lines are shortened."""
    lines = (short(line, LINE) for line in text.split("\n"))
    return "\n".join(lines).replace("$", r"\$")


def page_text(text: str) -> str:
    """Text for a page, which escapes what would be HTML itself."""
    return "".join(_escaped(c) if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in text)


# CSV ----------------------------------------------------------------------------------------------------------------


def csv_text(text: str) -> str:
    """Text for a cell of a CSV file: what a spreadsheet would take for a formula begins with an apostrophe.

    Numbers stay as they are, and :func:`text_of_csv` gives any other text back.
    """
    text = "".join(_escaped(c) if c == "\0" or unicodedata.category(c) == "Cs" else c for c in text)
    return f"'{text}" if text.startswith((*FORMULA, "'")) and not _is_number(text) else text


def text_of_csv(cell: str) -> str:
    """The text of a cell that :func:`csv_text` made."""
    return cell.removeprefix("'")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and text == text.strip()


# Commands -----------------------------------------------------------------------------------------------------------


def setting(key: str, value: Any) -> str:
    """``key=value`` as it can be pasted into a command: in Hydra's quotes, and those in the shell's."""
    return shlex.quote(f"{key}={hydra_value(value)}")


def command(overrides: Sequence[str]) -> str:
    """The command line that hands these words to the program, as they stand (so in Hydra's quotes already)."""
    return shlex.join(["python", "run.py", *overrides])


def hydra_value(value: Any) -> str:
    r"""A value as Hydra's command line reads it back: text, a number, a truth value, None, or a list of those.

    Text that is not a plain word or path is quoted. In quotes only backslashes before a quote, and at the end, need
    another; and ``${`` would start a reference to another setting.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(hydra_value, value))}]"
    text = str(value)
    if re.fullmatch(r"([A-Za-z_]|\.{0,2}/)[A-Za-z0-9_./-]*", text) and text.lower() not in WORDS:
        return text
    text = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)
    text = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + found[2].replace("'", r"\'"), text)
    return f"'{text}'"
