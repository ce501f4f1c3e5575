"""Imports every file of a package, so that a new file joins without being listed anywhere."""
from __future__ import annotations

import importlib
import pkgutil
import traceback
from pathlib import Path


def load(*packages: str) -> None:
    """Imports the modules of `packages`, one package after the other, each in alphabetical order.

    A module whose name starts with an underscore is a helper, imported by those that need it.
    Raises ImportError, in one line that names the file, for a file that can't be imported.
    """
    folders = {package: list(importlib.import_module(package).__path__) for package in packages}
    for package, paths in folders.items():
        for module in pkgutil.iter_modules(paths):
            if module.name.startswith("_"):
                continue
            try:
                importlib.import_module(f"{package}.{module.name}")
            except Exception as error:
                file = _origin(error, {path for paths in folders.values() for path in paths}) or module.name
                reason = str(error).partition("\n")[0]
                raise ImportError(f"{file} can't be imported: {type(error).__name__}: {reason}") from error


def _origin(error: Exception, folders: set[str]) -> str | None:
    """The file in `folders` that the error comes from; the modules that import it fail too, but are not at fault."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        files.append(error.filename)
    return next((file for file in reversed(files) if str(Path(file).parent) in folders), None)
