"""Files that appear whole or not at all."""

import contextlib
import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

_LONGEST = 180  # characters of a file's name; file systems allow 255, with what is put before and behind


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; on success it is flushed and takes ``path``'s place, else it is removed.

    A process that is killed leaves at most the file aside (``.<name>.<pid>.tmp``), which nobody reads.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
        _flush_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` to fill; on success it takes ``path``'s place (which is empty or absent), else it goes.

    What a process that was killed left there is removed first.
    """
    aside = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        aside.replace(path)
        _flush_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _flush_folder(folder: Path) -> None:
    """A rename is safe once its folder is; file systems that can't flush a folder don't need to."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")


def is_text(text: str) -> bool:
    """Whether a text can be written to a file: it holds no half of a character (a surrogate)."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def quoted(label: object) -> str:
    """A label as a file's name: quoted as in addresses, so that it leads nowhere; plain ones stay as they are.

    `unquote` gives the label back, but for one that is longer than names can be: that ends in its checksum.
    """
    name = quote(str(label), safe="")
    if len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}~{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return f"%2E{name[1:]}" if name.startswith(".") else name


def archive_fault(archive: zipfile.ZipFile, *, size: int) -> str | None:
    """Why an archive of ``size`` bytes is none of torch's, by the list of its parts alone: no part is read."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "is packed, which torch doesn't do: it could be of any size"
    if sum(entry.file_size for entry in entries) > size:
        return "is damaged (its parts overlap)"
    if any(entry.external_attr or entry.is_dir() for entry in entries):
        return "is damaged (a part is marked as a folder)"  # and torch would read nothing of it
    return None
