"""A checkpoint's file, read as what anybody may have written.

It is a zip file of torch's: one pickle, and the bytes of the tensors. What reads it runs no code, takes no more memory
than the file has bytes (times a small number) and a time in proportion to them, and returns plain values and whole
tensors. What these mean is ``checkpoint``'s business.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from struct import unpack_from
from typing import Any

import torch
from torch import Tensor

from vivit_core.system.plain import Plain

MOST_STEPS = 8_000_000  # of the pickle: over a million units; torch takes about a second for a million
MOST_TENSORS = 16_384  # in one state: over a thousand recordings
MOST_UNKEPT = (
    2**26
)  # numbers of a model that come with no weights, such as fixed filters: of over a thousand recordings
MOST_CLAIMS = 4  # tensors' bytes over the file's, because a state may stand in a checkpoint twice

# What a pickle of plain values and tensors consists of, with the bytes of each step's argument. Anything else (an
# object, another protocol) has no place in a checkpoint.
_STEPS: dict[int, int] = {
    code[0]: size
    for size, codes in {
        0: (
            *(pickle.MARK, pickle.STOP, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINPERSID),
            *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
            *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
            *(pickle.REDUCE, pickle.BUILD),
        ),
        1: (pickle.PROTO, pickle.BININT1, pickle.BINGET, pickle.BINPUT),
        2: (pickle.BININT2,),
        4: (pickle.BININT, pickle.LONG_BINGET, pickle.LONG_BINPUT),
        8: (pickle.BINFLOAT,),
    }.items()
    for code in codes
}
_TEXT, _LONG, _GLOBAL, _STOP = pickle.BINUNICODE[0], pickle.LONG1[0], pickle.GLOBAL[0], pickle.STOP[0]
_GLOBALS = {
    b"collections OrderedDict",
    b"torch._utils _rebuild_tensor_v2",
    *(
        b"torch %sStorage" % kind
        for kind in (b"Float", b"Double", b"Half", b"BFloat16", b"Long", b"Int", b"Short", b"Char", b"Byte", b"Bool")
    ),
}


def read_archive(path: Path) -> Any:
    """What stands in the file: plain values and tensors.

    Raises
    ------
    Exception
        Whatever broken bytes lead to; ValueError where they are whole and claim more than they have, or hold anything
        else.
    """
    check_archive(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    return PlainAndTensors(path.stat().st_size).copy(loaded)


def check_archive(path: Path) -> None:
    """Compare what the zip file claims with its bytes, and look through its pickle before it is read."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > size:
            raise ValueError("it would take more memory than the file has bytes")
        if len(members) > 4 * MOST_TENSORS:
            raise ValueError(f"it has {len(members)} members, and a checkpoint at most {4 * MOST_TENSORS}")
        if (bad := archive.testzip()) is not None:
            raise ValueError(f"{bad} is damaged: its checksum differs")
        pickles = [member for member in members if member.filename.endswith("data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} data.pkl, and a checkpoint one")
        check_pickle(archive.read(pickles[0]))


def check_pickle(data: bytes) -> None:
    """Refuse a pickle that does anything but put plain values and tensors together, or that has too many steps."""
    at, steps, end = 0, 0, len(data)
    while at < end:
        step = data[at]
        at += 1
        steps += 1
        if (size := _STEPS.get(step)) is not None:
            at += size
        elif step == _TEXT:  # a text, its length in four bytes
            at += 4 + int(unpack_from("<I", data, at)[0])
        elif step == _LONG:  # a large integer, its length in one byte
            if data[at] > 8:
                raise ValueError("it holds an integer of more than 64 bits")
            at += 1 + data[at]
        elif step == _GLOBAL:  # a global: two lines
            stop = data.index(b"\n", data.index(b"\n", at) + 1)
            named = data[at:stop].replace(b"\n", b" ")
            if named not in _GLOBALS:
                raise ValueError(f"it holds {named[:80].decode(errors='replace')!r}, which no checkpoint needs")
            at = stop + 1
        else:
            raise ValueError(f"its pickle has the step {step:#x}, which no checkpoint needs")
        if steps > MOST_STEPS:
            raise ValueError(f"its pickle has more than {MOST_STEPS} steps, those of over a million units")
        if step == _STOP:
            return
    raise ValueError("its pickle has no end")


class PlainAndTensors(Plain):
    """Takes tensors too, but none that claim more bytes than are stored.

    Parameters
    ----------
    stored : bytes of the file.
    """

    def __init__(self, stored: int) -> None:
        super().__init__(MOST_STEPS)
        self.bytes = MOST_CLAIMS * stored

    def copy_one(self, value: Any) -> Any:
        if type(value) is not Tensor:
            return super().copy_one(value)
        self.bytes -= check_tensor(value)
        if self.bytes < 0:
            raise ValueError(f"its tensors claim more than {MOST_CLAIMS} times the bytes that it has")
        return value


def check_tensor(value: Tensor) -> int:
    """The bytes that a tensor claims; ValueError where it lies over itself or is no plain one."""
    if value.layout != torch.strided or value.is_quantized or value.is_nested or value.device.type != "cpu":
        raise ValueError("it holds a tensor that is not a plain one (sparse, quantized, nested or without numbers)")
    claimed = value.numel() * value.element_size()
    if claimed > value.untyped_storage().nbytes():
        raise ValueError(f"a tensor of shape {tuple(value.shape)} claims more numbers than are stored")
    return claimed
