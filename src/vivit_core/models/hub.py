"""Published twins on the Hugging Face Hub, by ``huggingface_hub``, which comes with the extra ``vivit-core[hub]``.

What is fetched is kept in that library's cache, and taken from there without a network. Of a repository two files are
fetched, the weights and the description; nothing else in it matters, and nothing of it is run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vivit_core.models.published import CONFIG, WEIGHTS
from vivit_core.system.plain import in_a_line

ADDRESS = re.compile(r"hf:/{1,2}(?P<name>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?")  # a Path has one slash
NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_address(path: str | Path) -> bool:
    """Whether a path names a twin on the Hub."""
    return str(path).startswith("hf:/")


def fetched(address: str | Path) -> Path:
    """The folder of a published twin on the Hub: fetched, or from the cache.

    Parameters
    ----------
    address : ``hf://user/name``, or ``hf://user/name@revision`` with a branch, a tag or a commit.

    Raises
    ------
    ValueError
        Where it is no address, the library is not installed, or the Hub has no such twin, cannot be reached or answers
        nonsense.
    """
    found = ADDRESS.fullmatch(str(address))
    if found is None:
        raise ValueError(f"{address}: not an address on the Hub; give hf://user/name or hf://user/name@revision")
    name, revision = found["name"], found["revision"]
    with asked(f"hf://{name}" + (f"@{revision}" if revision else "")) as hub:
        config = Path(hub.hf_hub_download(name, CONFIG, revision=revision))
        # Both of one commit, whatever is pushed meanwhile.
        hub.hf_hub_download(name, WEIGHTS, revision=config.parent.name)
    return config.parent


def check_name(name: str) -> None:
    """Refuse what is no name on the Hub."""
    if not NAME.fullmatch(name):
        raise ValueError(f"push={name}: not a name on the Hub; give user/name")


def push(folder: Path, name: str, private: bool, files: Sequence[str]) -> str:
    """Upload a published folder; returns the page's address.

    Parameters
    ----------
    folder, files : what ``task=publish`` wrote; nothing else in the folder is uploaded.
    name : ``user/name``; the repository is made where there is none.
    private : of a new repository.

    Raises
    ------
    ValueError
        Where it is no name, the library is not installed, ``private`` and the repository is public, or the Hub refuses
        or answers nonsense.
    """
    check_name(name)
    with asked(f"hf://{name}") as hub:
        api = hub.HfApi()
        api.create_repo(name, private=private, exist_ok=True, repo_type="model")
        shown = private and api.repo_info(name).private is False  # there was one, which stays as it is
    if shown:
        raise ValueError(
            f"hf://{name}: this repository is there and is public, so nothing was uploaded; take another name, make it "
            "private on its page, or say private=false"
        )
    with asked(f"hf://{name}"):
        done = api.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=list(files), commit_message="Publish a twin"
        )
    return str(done.commit_url).split("/commit/")[0]


@contextmanager
def asked(what: str) -> Iterator[Any]:
    """The library; whatever goes wrong between it and the Hub is one line."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            f'{what}: needs huggingface_hub, which is not installed: pip install "vivit-core[hub]"'
        ) from error
    for name in ("httpx", "httpx2", "huggingface_hub"):  # which tell of each request, and of each trial
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield huggingface_hub
    except Exception as error:  # a hub may answer anything, and each answer has its own error
        raise ValueError(
            f"{what}: {type(error).__name__}: {in_a_line(error)}; correct the name, log in (hf auth login) where it is "
            "private, or try again"
        ) from error
