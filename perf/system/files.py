"""Files that outlive what happens to them. Text is written at once: whoever reads meanwhile, or after a kill, sees the
old file or the new one. A file of JSON lines grows line by line, each with its checksum and on the disk once `append`
returns.

Several processes may append to one file. A kill or a power cut leaves at most one line without its end, the last: it is
left out, with a warning.

What was read from JSON is checked against the types that a dataclass declares (`check_types`).
"""
from __future__ import annotations

import fcntl
import functools
import gzip
import json
import os
import shutil
import tempfile
import tomllib
import types
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Union, get_args, get_origin, get_type_hints

SEAL = ', "crc": "'  # and eight hex digits of the text before it: the last item of a line
YEAR_10000 = 253402300800  # in seconds since 1970: no date can be told from then on
LARGEST = 1e30  # no figure of ours is larger, and floating point can still compute with its square
POINTER = b"version https://git-lfs."  # what a clone without Git LFS has in a file's place


def write(path: Path, text: str) -> None:
    """Writes a text file at once, and the folders that lead to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def from_json(text: str) -> Any:
    """Reads JSON. Raises ValueError for anything else, for what is nested so deeply that Python can't read it, and for
    an integer that is larger than any float."""
    return _flat(functools.partial(json.loads, parse_int=_int), text)


def _int(digits: str) -> int:
    value = int(digits)
    try:
        float(value)
    except OverflowError:
        raise ValueError("a number is larger than any float") from None
    return value


def from_toml(text: str) -> dict[str, Any]:
    """Reads TOML. Raises as `from_json`."""
    return _flat(tomllib.loads, text)


def _flat(read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """Gives a scratch folder on the same disk for a while: what is written there is moved into `folder` at once."""
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def seal(record: Mapping[str, Any]) -> str:
    """Writes a record as a line, without its end, that carries its checksum."""
    text = json.dumps(record)[:-1]
    return f'{text}{SEAL}{zlib.crc32(text.encode()):08x}"}}'


def unseal(line: bytes) -> dict[str, Any]:
    """Reads a line. Raises ValueError for what is no record, or no longer the one that was written.

    A line without a checksum, of an earlier version or edited by hand, is taken as it is.
    """
    try:
        record = from_json(line.decode())
    except UnicodeDecodeError:
        raise ValueError("not text") from None
    if not isinstance(record, dict):
        raise ValueError("no record")
    if (crc := record.pop("crc", None)) is not None:
        text, _, _ = line.rpartition(SEAL.encode())
        if crc != f"{zlib.crc32(text):08x}":
            raise ValueError("its checksum is another, so it was changed")
    return record


def append(path: Path, *records: Mapping[str, Any]) -> None:
    """Appends lines, and returns when the disk has them. Raises OSError where they can't be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _mend(path, file)
        file.write("".join(f"{seal(record)}\n" for record in records).encode())
        file.flush()
        os.fsync(file.fileno())


def _mend(path: Path, file: IO[bytes]) -> None:
    """Ends the last line if only its end is missing, and takes it away if more is."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return
    file.seek(size - 1)
    if file.read() == b"\n":
        return
    file.seek(0)
    last = file.read().rpartition(b"\n")[2]
    if _is_cut(last):
        _warn(path)
        file.truncate(size - len(last))
    else:
        file.write(b"\n")


def read(path: Path) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    """Yields number and record of each line, or the error that says why it is none. A name in .gz is decompressed.

    Raises ValueError for a compressed file that is broken, and for what stands in a file's place in a clone without it.
    """
    with open_bytes(path) as file:
        try:
            for number, line in enumerate(file, 1):
                if number == 1 and line.startswith(POINTER):
                    raise ValueError(f"{path}: a pointer of Git LFS, not the file itself; git lfs pull")
                try:
                    yield number, unseal(line)
                except ValueError as error:
                    if _is_cut(line):
                        _warn(path)
                    else:
                        yield number, error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: not evidence: {error}") from error


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a file that can be read; none where there is no file."""
    for _, record in read(path) if path.exists() else ():
        if isinstance(record, dict):
            yield record


def open_bytes(path: Path) -> IO[bytes]:
    """Opens a file of lines to be read; one that ends in .gz is decompressed on the way."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _is_cut(line: bytes) -> bool:
    """Tells whether a line is only the beginning of one, or zeros: a disk's room for what it had yet to write."""
    if line.endswith(b"\n") or line.strip(b"\0")[:1] not in (b"", b"{"):
        return False
    try:
        unseal(line)
    except ValueError:
        return True
    return False


def _warn(path: Path) -> None:
    warnings.warn(f"{path}: its last line was cut off while it was written, so that row is left out", stacklevel=3)


def check_types(record: Any) -> None:
    """Raises TypeError, in one line, for a dataclass with a field of another type than its class declares."""
    declared: Any = type(record)
    for name, kind in _kinds(declared).items():
        if not fits(value := getattr(record, name), kind):
            raise TypeError(f"{name}: not {getattr(kind, '__name__', kind)}: {value!r:.60}")


@functools.cache
def _kinds(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def fits(value: Any, kind: Any) -> bool:
    """Tells whether a value is of a declared type. A whole number is a float as well, a list a tuple; True is no
    number, nor is what is beyond `LARGEST`, but infinity."""
    origin, inside = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inside)
    if origin in (tuple, Sequence):
        return isinstance(value, list | tuple) and all(fits(one, inside[0]) for one in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(fits(k, inside[0]) and fits(v, inside[1]) for k, v in value.items())
    if kind in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
        return whole or (kind is float and isinstance(value, float) and not LARGEST <= abs(value) < float("inf"))
    return isinstance(value, kind)
