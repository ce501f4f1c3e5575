"""Reads from the sources what a workload's time may depend on: if that is the same on both sides, it need not be timed.

    unchanged(workload, base, head)
    changed(workload, base, head)    -> {"attention/functions/alibi.py:Bias.__call__"}: but for their bodies it is

It starts from the files that define the variant (its function, and the classes and instance of its backend, as they
are registered here) and from what the harness itself calls, and follows imports within the side's packages.
Registration would make everything depend on everything, so it is seen through:

* a package's `__init__` counts by its own statements, not by what it imports; a name taken from it leads on to the
  file that defines the name;
* of the backends that a function's file only lists in `register(backends=[...])`, the variant's own counts.

What any other file does on import besides defining names, such as setting a flag of torch's, counts for all, and so
does every file that is no Python. Comments, layout, names of local variables, annotations and the order of helpers
don't (perf/compare/neutral.py). It errs by finding too much.
"""
from __future__ import annotations

import builtins
import contextlib
import functools
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from perf.compare.side import Side
from perf.compare.source import NOTHING, Origin, Source, Tree, read
from perf.workloads.workload import BARE, UNQUANTISED, Workload

# What the harness calls, whatever it measures.
CALLED: dict[str, tuple[Origin, ...]] = {
    "attention": (("attention", "create"), ("attention", "why_not"), ("attention", "peak_bytes"),
                  ("attention", "oracle"), ("attention", "DTYPES"), ("attention", "Unsupported"),
                  ("attention.registry", None), ("attention.testing", "Reference"), ("attention.testing", "inputs")),
    "models": (("models", "create"), ("models", "presets"), ("models", "get"), ("models", "family"),
               ("models", "catalogue"), ("models.registry", None)),
}
FAMILIES = "models.registry"  # imports the module of one family: models.<family>

# Packages of which it is known that nothing in them compiles Python of a side, or runs it in another thread, but
# torch.compile; and names that run text as code.
KNOWN = {"__future__", "collections", "contextlib", "dataclasses", "difflib", "enum", "fnmatch", "functools", "gzip",
         "importlib", "itertools", "json", "logging", "math", "numpy", "os", "pathlib", "re", "shutil", "sys",
         "sysconfig", "torch", "transformers", "types", "typing", "warnings", "weakref"}
RUNNERS = {"compile", "eval", "exec"}


def fingerprint(work: Workload | str, side: Side) -> str:
    """Hashes the code that it depends on."""
    return hashlib.sha256(repr(sorted(_closure(work, side).digests.items())).encode()).hexdigest()


def unchanged(workload: Workload, base: Side, head: Side) -> bool:
    """Tells whether both sides run the same code for it in the same environment; False of a variant or model that is
    not registered here."""
    if base.missing or head.missing or base.python != head.python or not _start(workload, base.packages)[0]:
        return False
    return fingerprint(workload, base) == fingerprint(workload, head)


def changed(workload: Workload, base: Side, head: Side) -> frozenset[str] | None:
    """Names the functions, "path:qualified name", in whose bodies alone the two sides differ, for it; None where they
    differ in more, or where more than Python and torch.compile may read or run a body."""
    if base.missing or head.missing or base.python != head.python or not _start(workload, base.packages)[0]:
        return None
    old, new = _closure(workload, base), _closure(workload, head)
    if old.shells != new.shells or old.obscure or new.obscure:
        return None
    found = set()
    for path, (before, after) in {path: (old.plain[path].bodies, new.plain[path].bodies) for path in old.plain}.items():
        moved = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        for name in moved & (before.keys() ^ after.keys()):  # came or went: nobody else may have asked for it
            if hasattr(builtins, name) or any(f"'{name}'" in before[one] for one in before if one not in moved):
                return None
        found |= {f"{path}:{name}" for name in moved}
    return None if any("/testing/" in name for name in found) else frozenset(found)  # which make the inputs


def _closure(work: Workload | str, side: Side) -> _Closure:
    return _Closure(side.folder, *_start(work, side.packages))


def _start(work: Workload | str, packages: tuple[str, ...]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Lists the files that define it, as this process imported them, and those of the packages that it is of."""
    bare = tuple(package for package in packages if package != "models")
    if isinstance(work, str):
        if ":" in work:
            return _files_of_variant(work, packages), bare
        return _files_of_model(work), packages
    variant = _files_of_variant(work.variant, packages)
    if work.model == BARE:
        return variant, bare
    model, eager = _files_of_model(work.model), _files_of_variant(f"{work.function}:eager", packages)  # built on eager
    method = _files_of_quantization(work.quantization) if work.quantization != UNQUANTISED else model
    return (*model, *variant, *eager, *method) if model and variant and method else (), packages


@functools.cache
def _files_of_variant(name: str, packages: tuple[str, ...]) -> tuple[Path, ...]:
    from attention import registry

    try:
        variant = registry.variant(name)
    except ValueError:
        return ()
    function, backend = variant.function, variant.backend
    made = [variant.compute, variant.peak_bytes, *(getattr(function, field.name) for field in fields(function))]
    files = {_file(one) for one in made if callable(one)} | {_file(kind) for kind in type(backend).__mro__[:-1]}
    return tuple(sorted(path for path in files | set(_makers(backend, packages)) if path))


def _file(made: Callable | type) -> Path | None:
    """Finds where a function or class is written; None of one without Python source."""
    while isinstance(made, functools.partial):
        made = made.func
    made = inspect.unwrap(made)
    if not (inspect.isroutine(made) or inspect.isclass(made)):
        made = type(made)
    try:
        return Path(inspect.getsourcefile(made) or inspect.getfile(made)).resolve()
    except TypeError:
        return None


def _makers(backend: Any, packages: tuple[str, ...]) -> Iterator[Path]:
    """Yields the files that made this backend: they assign it to a global."""
    for package in packages:
        if package == "models" or (home := _home(package)) is None:
            continue
        for module, source in Tree(home.parent, (package,)).modules.items():
            names = vars(sys.modules[module]) if module in sys.modules else {}
            if any(names.get(name) is backend for name in source.assigned):
                yield home.parent / source.path


@functools.cache
def _files_of_model(name: str) -> tuple[Path, ...]:
    import models

    preset = models.presets().get(name)
    if preset is None:
        return ()
    root = Path(models.__file__ or "").resolve().parent
    family = root / f"{preset.family}.py"
    if family.exists():
        return (family,)
    with contextlib.suppress(ImportError):  # another package's: it may use any of them
        return (*root.glob("*.py"), *filter(None, [_file(models.family(preset).build)]))
    return ()


@functools.cache
def _files_of_quantization(name: str) -> tuple[Path, ...]:
    """Lists the files of one method; none if it is not registered here. What all methods share, every model is built
    by."""
    from models import quantization

    if name not in quantization.methods():
        return ()
    kinds = type(quantization.get(name)).__mro__[:-1]
    return tuple(sorted({path for kind in kinds if (path := _file(kind))}))


class _Closure:
    """Follows imports from `files` in `folder`. `found` is what counts: the digests of files, by path, and in brackets
    where the names lead that packages pass on, and what the other files do on import."""

    def __init__(self, folder: Path, files: tuple[Path, ...], packages: tuple[str, ...]) -> None:
        self.digests: dict[str, str] = {}
        self.plain: dict[str, Source] = {}  # by path, what is no package
        self.packages = packages
        if not files:
            return
        self.tree = Tree(folder, packages)
        for path in files:
            self._add_file(path)
        for package in packages:
            for origin in CALLED.get(package, ()):
                self._resolve(*origin)
        self.digests.update(self.tree.others)
        for source in self.tree.modules.values():
            if source.path not in self.digests and source.effects != NOTHING:
                self.digests[f"(effects of {source.path})"] = source.effects

    @property
    def shells(self) -> dict[str, str]:
        """Gives the digests of what counts but for the bodies of functions."""
        return {**self.digests, **{path: source.shell for path, source in self.plain.items()}}

    @property
    def obscure(self) -> bool:
        """Tells whether it imports what is not known, runs text, or mentions another compiler of Python: a `jit`."""
        for source in (one for one in self.tree.modules.values() if one.path in self.digests):
            origins = [*source.bindings.values(), *source.bare]
            if ({module.partition(".")[0] for module, _ in origins} - KNOWN - set(self.packages)
                    or RUNNERS & source.used or "jit" in repr((origins, source.attributes))):
                return True
        return False

    def _add_file(self, path: Path) -> None:
        """Adds the file at the same place here, where the path is in an imported package; other files are the same on
        both sides."""
        for package in self.packages:
            home = _home(package)
            if home and path.is_relative_to(home):
                dotted = (package, *path.relative_to(home).with_suffix("").parts)
                self._add(".".join(dotted).removesuffix(".__init__"))
                return
        self._follow(path.stem, read(str(path), path.stem, path.name))

    def _add(self, module: str) -> None:
        """Adds all of a module, and what it uses of others; of a package only its own statements."""
        source = self.tree.modules.get(module)
        if source is None:
            self.digests[f"{module.replace('.', '/')}.py"] = "absent"
        elif source.path not in self.digests:
            self.digests[source.path] = source.listing if source.package else source.digest
            if "." in module:
                self._add(module.rpartition(".")[0])
            if not source.package:
                self.plain[source.path] = source
                self._follow(module, source)

    def _follow(self, module: str, source: Source) -> None:
        for name, origin in source.bindings.items():
            if name in source.used or name not in source.exported | source.registered:
                self._resolve(*origin)
            for path in source.attributes.get(name, ()):
                self._attribute(self._named(*origin), path.split("."))
            if name in source.whole:
                self._all_of(self._named(*origin))
        for named in (*source.bare, *((name, None) for name in source.named)):
            self._resolve(*named)
        if source.dynamic and module != FAMILIES:  # it may import any
            for other in self.tree.modules:
                self._add(other)

    def _resolve(self, module: str, name: str | None) -> None:
        """Follows `from module import name` to where it leads; without a name it adds the module alone."""
        if module.partition(".")[0] not in self.packages:
            return
        self._add(module)
        source = self.tree.modules.get(module)
        if source is None or name is None:
            return
        if f"{module}.{name}" in self.tree.modules:
            self._add(f"{module}.{name}")
        elif source.package and name not in source.bindings:  # a star, or made there of what it imports
            self._all_of(module)
        origin = source.bindings.get(name, (module, name))
        if origin != (module, name) and f"({module}.{name})" not in self.digests:
            self.digests[f"({module}.{name})"] = repr(origin)
            self._resolve(*origin)

    def _attribute(self, module: str | None, path: list[str]) -> None:
        """Follows `package.name`, or `package.module.name`."""
        if module and self.tree.modules[module].package and path:
            self._resolve(module, path[0])
            self._attribute(self._named(module, path[0]), path[1:])

    def _all_of(self, module: str | None) -> None:
        """Adds all that a package has imported: passed around as a whole, it may be asked for any of it."""
        if module and self.tree.modules[module].package and f"({module})" not in self.digests:
            self.digests[f"({module})"] = "whole"
            for origin in self.tree.modules[module].bindings.values():
                self._resolve(*origin)

    def _named(self, module: str, name: str | None) -> str | None:
        """Returns the module that an import binds; None if it is in none of these packages."""
        dotted = f"{module}.{name}" if name else module
        return dotted if dotted in self.tree.modules else None


@functools.cache
def _home(package: str) -> Path | None:
    """Finds where this process imports a package from; None where it can't."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).resolve().parent if spec and spec.origin else None
