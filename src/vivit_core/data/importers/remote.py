"""Source files on a server, read in parts by HTTP ranges: ``https://…``, and ``dandi://…`` for files of DANDI archives.

What is read is kept in blocks in memory, the last ones; nothing is written to the disk. A server that fails is asked
again a few times, each time after a longer wait, and every wait has an end.

A DANDI archive is asked by its REST interface (api.dandiarchive.org/swagger): which version is the newest, and which
asset has the path. Its own Python client does the same in these two questions, and brings more than fifty packages.
"""

from __future__ import annotations

import io
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from vivit_core.names import short
from vivit_core.specs import RecordingError
from vivit_core.system.plain import in_a_line

ADDRESS = re.compile(r"(?P<scheme>https?|dandi)://(?P<rest>.+)")
ASSET = re.compile(r"(?P<dandiset>\d{6})(@(?P<version>[\w.-]+))?/(?P<path>.+)")
ARCHIVES = {  # names of DANDI_INSTANCE, as DANDI's own client has them -> their interface
    "dandi": "https://api.dandiarchive.org/api",
    "dandi-sandbox": "https://api.sandbox.dandiarchive.org/api",
    "ember-dandi": "https://api-dandi.emberarchive.org/api",
    "linc": "https://api.lincbrain.org/api",
}
BLOCK, BLOCKS = 1 << 21, 64  # bytes that are asked for at once, and so many such blocks are kept
ATTEMPTS, WAIT_S = 5, 0.5  # before giving up; the first wait, which doubles
CONNECT_S, SILENT_S, BLOCK_S = 10.0, 30.0, 300.0  # for a connection; without a byte; for a whole block
MOST_ANSWER = 1 << 22  # bytes of an answer of the archive
WORDS = 200  # characters shown of what others say
DOWNLOAD = "Download the file, and give its path"
EXPIRED = (401, 403, 410)  # what an address to which a server led answers some time later


class AgainError(Exception):
    """Something that may go better next time."""


def is_remote(source: str) -> bool:
    """Whether a source is an address. A ``Path`` is none: it keeps one slash of two."""
    return ADDRESS.fullmatch(source) is not None


class Remote:
    """A file on a server.

    Parameters
    ----------
    source : ``https://…``, ``http://…`` or ``dandi://DANDISET[@VERSION]/PATH``.

    Attributes
    ----------
    file : reads it.
    name, stem : as of a path.

    Raises
    ------
    ValueError
        Where it is no address, or a library is missing.
    RecordingError
        Where there is no such file, or the server does not answer or gives no ranges.
    """

    def __init__(self, source: str) -> None:
        found = ADDRESS.fullmatch(source)
        assert found is not None
        self.address = source
        try:
            parts = urlsplit(source)
        except ValueError as error:
            raise ValueError(f"source={source}: not an address ({error}); correct source=…") from error
        try:
            import fsspec  # noqa: F401
            import requests  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f'source={self.address}: reading from a server needs {error.name}: pip install "vivit-core[remote]"'
            ) from error
        url = asset_at(self.address, found["rest"]) if found["scheme"] == "dandi" else self.address
        self.name = PurePosixPath(unquote(parts.path)).name or parts.netloc
        self.stem = PurePosixPath(self.name).stem
        self.file = RangeFile(self.address, url)

    def __str__(self) -> str:
        return self.address


class RangeFile(io.RawIOBase):
    """A file on a server as Python reads files.

    Parameters
    ----------
    address : as the user gave it, for messages.
    url : where the file is.

    Attributes
    ----------
    size : bytes.
    state : what the server says that changes where the file does.
    loaded, requests : bytes and answers so far.
    failure : the error that reading ended with, which a library between may have hidden; else None.
    """

    def __init__(self, address: str, url: str) -> None:
        from fsspec.caching import BlockCache

        logging.getLogger("fsspec").setLevel(logging.WARNING)  # else a line a block
        self.address, self._url, self._led = address, url, ""
        self.size, self.state, self.loaded, self.requests = 0, "", 0, 0
        self.failure: RecordingError | None = None
        self._at = 0
        self._session = session()
        self._first = self._fetch(0, BLOCK)
        self._cache = BlockCache(BLOCK, self._block, self.size, BLOCKS)

    def __repr__(self) -> str:  # what h5py calls the file
        return self.address

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self.size)
        if stop <= self._at:
            return 0
        data = self._cache._fetch(self._at, stop)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed and hasattr(self, "_session"):
            self._session.close()
        super().close()

    def _block(self, start: int, stop: int) -> bytes:
        return self._first[:stop] if start == 0 and stop <= len(self._first) else self._fetch(start, stop)

    def _fetch(self, start: int, stop: int) -> bytes:
        """Bytes from the server, with patience."""
        try:
            return patiently(self.address, lambda: self._once(start, stop))
        except RecordingError as error:
            self.failure = error
            raise

    def _once(self, start: int, stop: int) -> bytes:
        asked = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        with answer_of(self._session, self.address, self._led or self._url, asked) as answer:
            if self._led and answer.status_code in EXPIRED:
                self._led = ""
                raise AgainError("the address to which the server led is no longer valid")
            check_answer(self.address, answer)
            self._check_range(answer, start)
            self._led = answer.url if answer.url != self._url else ""
            data = body(answer, min(stop, self.size) - start)
        self.loaded += len(data)
        self.requests += 1
        return data

    def _check_range(self, answer: Any, start: int) -> None:
        if answer.status_code == 200:
            size = answer.headers.get("Content-Length", "")
            much = f" of {int(size) / 1e6:.1f} MB" if size.isdecimal() else ""
            raise RecordingError(
                self.address, "address", f"the server gives no parts of files (no HTTP ranges), only the whole{much}",
                DOWNLOAD,
            )  # fmt: skip
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            raise RecordingError(
                self.address, "address",
                f"the server answers nonsense (asked for bytes from {start} on, it says that it gives "
                f"{short(answer.headers.get('Content-Range', 'nothing'), WORDS)})", DOWNLOAD,
            )  # fmt: skip
        size = int(found[2])
        state = f"{size} {answer.headers.get('ETag', '')} {answer.headers.get('Last-Modified', '')}"
        if self.state and state != self.state:
            raise RecordingError(self.address, "file", "changed while it was read", "Import it again")
        self.size, self.state = size, state


# The archive -------------------------------------------------------------------------------------------------------


def asset_at(address: str, rest: str) -> str:
    """Where a DANDI archive has a file.

    Parameters
    ----------
    address : for messages.
    rest : ``DANDISET[@VERSION]/PATH``; without a version the newest published one, else the draft. The environment
        variable DANDI_INSTANCE names another archive, or is the address of its interface (``https://…/api``).

    Raises
    ------
    ValueError
        Where it is no such address, or DANDI_INSTANCE is none.
    RecordingError
        Where the archive has no such file, cannot be reached, or answers nonsense.
    """
    found = ASSET.fullmatch(rest)
    if found is None:
        raise ValueError(
            f"source={address}: not a file of a DANDI archive; give dandi://DANDISET/PATH or "
            "dandi://DANDISET@VERSION/PATH, for example dandi://000006/sub-anm369962/sub-anm369962_ses-20170309.nwb"
        )
    instance = os.environ.get("DANDI_INSTANCE", "dandi")
    api = ARCHIVES.get(instance, instance).rstrip("/")
    if not re.match(r"https?://", api):
        raise ValueError(
            f"DANDI_INSTANCE={instance}: not a known archive ({', '.join(ARCHIVES)}), nor the address of an interface; "
            "correct the environment variable, or unset it"
        )
    dandiset, version, path = found["dandiset"], found["version"], unquote(found["path"])
    if version is None:
        about = asked(address, f"{api}/dandisets/{dandiset}/", f"dandiset {dandiset}")
        newest = about.get("most_recent_published_version") or {"version": "draft"}
        version = newest.get("version") if isinstance(newest, dict) else None
        if not isinstance(version, str):
            raise nonsense(address, f"{api}/dandisets/{dandiset}/", "no version")
    folder = f"{api}/dandisets/{dandiset}/versions/{version}/assets/"
    listed = asked(address, f"{folder}?path={quote(path)}&page_size=100", f"dandiset {dandiset}, version {version}")
    results = listed.get("results")
    if not isinstance(results, list) or not all(
        isinstance(one, dict) and isinstance(one.get("path"), str) and isinstance(one.get("asset_id"), str)
        for one in results
    ):
        raise nonsense(address, folder, "no list of assets")
    for one in results:
        if one["path"] == path and not one.get("zarr"):
            return f"{api}/assets/{one['asset_id']}/download/"
    begin = [one["path"] for one in results]
    other = f"; it begins the paths of {short(', '.join(begin[:3]), WORDS)}" if begin else ""
    raise RecordingError(
        address, "archive", f"dandiset {dandiset}, version {version}, has no file (in HDF5) {path}{other}",
        f"Correct the path; https://dandiarchive.org/dandiset/{dandiset} lists the files",
    )  # fmt: skip


def asked(address: str, url: str, what: str) -> Mapping[str, Any]:
    """What the archive says, a JSON object."""
    import json

    def once() -> Any:
        with session() as own, answer_of(own, address, url, {}) as answer:
            if answer.status_code == 404:
                raise RecordingError(address, "archive", f"there is no {what}", "Correct the number or the version")
            check_answer(address, answer)
            return json.loads(body(answer, None))

    try:
        said = patiently(address, once)
        if not isinstance(said, dict):
            raise ValueError("no JSON object")
    except RecordingError:
        raise
    except (ValueError, RecursionError) as error:
        raise nonsense(address, url, short(in_a_line(error), WORDS)) from error
    return said


def nonsense(address: str, url: str, what: str) -> RecordingError:
    return RecordingError(
        address, "archive", f"{url} answers nonsense ({what})",
        "Look whether DANDI_INSTANCE is right, try again later, or download the file",
    )  # fmt: skip


# Asking ------------------------------------------------------------------------------------------------------------


def session() -> Any:
    import requests

    made = requests.Session()
    made.headers["User-Agent"] = "vivit-core"
    made.hooks["response"].append(refuse_plain)
    return made


def refuse_plain(answer: Any, **_: Any) -> None:
    """Refuse to be led from an encrypted connection to one that is not, before that is asked."""
    import requests

    if answer.is_redirect and answer.url.startswith("https:"):
        to = urljoin(answer.url, answer.headers["Location"])
        if not to.startswith("https:"):
            raise requests.exceptions.InvalidSchema(f"the server leads from https to {to}")


def patiently(address: str, once: Any) -> Any:
    """What ``once`` gives; where it fails in a way that may pass, it is called again, ``ATTEMPTS`` times in all."""
    for attempt in range(ATTEMPTS):
        try:
            return once()
        except AgainError as error:
            said = str(error)
        if attempt + 1 < ATTEMPTS:
            time.sleep(WAIT_S * 2**attempt)
    raise RecordingError(
        address, "address", f"{said} (asked {ATTEMPTS} times)",
        "Look whether the server and the network are well, and start again: what is imported stays",
    )  # fmt: skip


def answer_of(own: Any, address: str, url: str, headers: Mapping[str, str]) -> Any:
    """The beginning of a server's answer."""
    import requests

    try:
        return own.get(url, headers=headers, stream=True, timeout=(CONNECT_S, SILENT_S))
    except (ValueError, requests.TooManyRedirects) as error:  # such as an invalid address
        raise RecordingError(
            address, "address", f"cannot be asked ({short(in_a_line(error), WORDS)})", "Correct source=…"
        ) from error
    except requests.RequestException as error:
        raise AgainError(why(error)) from error


def why(error: Exception) -> str:
    import requests

    if isinstance(error, requests.ConnectTimeout):
        return f"the server cannot be reached within {CONNECT_S:g} s"
    if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
        return f"the server says nothing for {SILENT_S:g} s"
    return f"the server cannot be reached, or breaks off ({short(in_a_line(error), WORDS)})"


def check_answer(address: str, answer: Any) -> None:
    """Refuse what is no answer with content."""
    code, said = answer.status_code, f"the server answers {answer.status_code} {short(str(answer.reason), WORDS)}"
    if code == 429 or code >= 500:
        raise AgainError(said)
    if code in (404, 410):
        raise RecordingError(address, "address", f"there is no such file ({said})", "Correct source=…")
    if code in (401, 403):
        raise RecordingError(
            address, "address", f"it may not be read ({said})",
            "Renew the link, or download the file with your account, and give its path",
        )  # fmt: skip
    if code == 416:
        raise RecordingError(address, "file", f"is empty, or shorter than it was ({said})", "Give a whole NWB file")
    if code not in (200, 206):
        raise RecordingError(address, "address", said, DOWNLOAD)
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise RecordingError(
            address, "address", "the server answers with a web page, not with a file",
            "Give the address that downloads the file",
        )  # fmt: skip


def body(answer: Any, wanted: int | None) -> bytes:
    """The content of an answer: so many bytes, or where that is not known no more than ``MOST_ANSWER``."""
    from urllib3.exceptions import HTTPError

    end, data = time.monotonic() + BLOCK_S, bytearray()
    most = MOST_ANSWER if wanted is None else wanted
    try:
        while piece := answer.raw.read1(1 << 16, decode_content=True):  # what is there, so that the end is looked at
            data += piece
            if time.monotonic() > end:
                raise AgainError(f"the server takes more than {BLOCK_S:g} s for {most} bytes")
            if len(data) > most:
                raise AgainError(f"the server sends more than {most} bytes")
    except (HTTPError, OSError) as error:
        raise AgainError(why(error)) from error
    if wanted is not None and len(data) < wanted:
        raise AgainError(f"the server breaks off after {len(data)} of {wanted} bytes")
    return bytes(data)
