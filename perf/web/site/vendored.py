"""Keeps the files of npm packages that asv's page needs in the repository, so that publishing needs no network.

`vendor/lock.toml` says of each file its package, version and hashes, and the address that it replaces.

    python -m perf.web.site.vendored          # are the files what the lock says?
    python -m perf.web.site.vendored fetch    # from npm again, after the lock was edited
"""
from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("vendor")
LICENCES = "LICENSES.txt"
AGAIN = "python -m perf.web.site.vendored fetch gets it from npm again"


@dataclass(frozen=True)
class File:
    """Is one file of a package: its path there, its SHA-256 in hex, and the address in asv's page that it replaces."""

    package: str
    version: str
    path: str
    sha256: str
    replaces: str

    @property
    def name(self) -> str:
        """Names the file in `vendor/` and on the site."""
        return Path(self.path).name

    def read(self, folder: Path = FOLDER) -> bytes:
        """Raises ValueError, in one line, if the file is missing or is another."""
        path = folder / self.name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}; {AGAIN}") from None
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ValueError(f"{path}: is not {self.package} {self.version}'s {self.path} (SHA-256); {AGAIN}")
        return data


@dataclass(frozen=True)
class Package:
    """Is an npm package: its version, and npm's own hash of it."""

    name: str
    version: str
    licence: str
    integrity: str
    files: tuple[File, ...]


def packages(folder: Path = FOLDER) -> list[Package]:
    """Lists the packages that the lock names."""
    lock = tomllib.loads((folder / "lock.toml").read_text(encoding="utf-8"))
    return [Package(**package, files=tuple(File(package["name"], package["version"], **file) for file in files))
            for package in lock["package"] for files in [package.pop("file")]]


def files(folder: Path = FOLDER) -> list[File]:
    """Lists all files that the lock names."""
    return [file for package in packages(folder) for file in package.files]


def fetch() -> None:
    """Gets every package by `npm pack`. Raises ValueError, in one line, for one that isn't what the lock says."""
    for package in packages():
        spec = f"{package.name}@{package.version}"
        with tempfile.TemporaryDirectory() as place:
            process = subprocess.run(["npm", "pack", "--silent", spec], cwd=place, capture_output=True, text=True)
            if process.returncode:
                raise ValueError(f"npm pack {spec}: {process.stderr.strip() or 'failed'}")
            archive = Path(place, process.stdout.split()[-1])
            integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
            if integrity != package.integrity:
                raise ValueError(f"{spec}: its integrity is {integrity}, the lock says {package.integrity}")
            with tarfile.open(archive) as content:
                for file in package.files:
                    member = content.extractfile(f"package/{file.path}")
                    assert member is not None
                    (FOLDER / file.name).write_bytes(member.read())


def main(arguments: Sequence[str]) -> int:
    """Checks the files, or fetches them; gives 1 where one is not what the lock says."""
    try:
        if arguments == ["fetch"]:
            fetch()
        elif arguments:
            raise ValueError(f"unknown argument {arguments[0]!r}; it takes fetch, or nothing")
        for file in files():
            print(f"{len(file.read()):7} bytes  {file.package} {file.version}  {file.name}")
    except ValueError as error:
        print(f"vendored: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
