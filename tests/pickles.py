"""Writes pickles that name whatever they like, whether it exists or not: old tables and hostile files."""

import io
import pickle
import struct
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Name:
    """A global, as a file names it."""

    module: str
    name: str


@dataclass(eq=False)
class Call:
    """What a file asks to be called, and the state it asks to be set."""

    function: Any
    arguments: tuple[Any, ...] = ()
    state: Any = None
    new: bool = False  # by __new__


class _Pickler(pickle._Pickler):
    dispatch = pickle._Pickler.dispatch.copy()

    def save_name(self, x: Name) -> None:
        self.write(pickle.GLOBAL + f"{x.module}\n{x.name}\n".encode())  # type: ignore[attr-defined]

    def save_call(self, x: Call) -> None:
        self.save(x.function)  # type: ignore[attr-defined]
        self.save(x.arguments)  # type: ignore[attr-defined]
        self.write(pickle.NEWOBJ if x.new else pickle.REDUCE)  # type: ignore[attr-defined]
        if x.state is not None:
            self.save(x.state)  # type: ignore[attr-defined]
            self.write(pickle.BUILD)  # type: ignore[attr-defined]

    dispatch[Name] = save_name  # type: ignore[assignment]
    dispatch[Call] = save_call  # type: ignore[assignment]


def dumps(x: Any, *, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol=protocol).dump(x)
    return file.getvalue()


def absurd_sizes() -> dict[str, bytes]:
    """Files of a few bytes that claim gigabytes."""
    head, huge = pickle.PROTO + b"\x05", struct.pack("<Q", 1 << 40)
    return {
        "bytearray": head + pickle.BYTEARRAY8 + huge + b".",
        "bytes": head + pickle.BINBYTES8 + huge + b".",
        "text": head + pickle.BINUNICODE8 + huge + b".",
        "frame": head + pickle.FRAME + huge + b".",
        "memo": head + pickle.NONE + pickle.LONG_BINPUT + struct.pack("<I", (1 << 32) - 1) + b".",
    }
