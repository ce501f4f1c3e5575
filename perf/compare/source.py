"""One Python file, read but never run: what it imports, which of that it uses, and what its code comes to."""
from __future__ import annotations

import ast
import functools
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from perf.compare.neutral import emptied, neutral, qualified

Origin = tuple[str, str | None]  # a module's dotted name, and the name taken from it; None for the module itself
LEFT_OUT = {"tests", "__pycache__"}
DYNAMIC = ("import_module", "__import__")


@dataclass(frozen=True)
class Source:
    """Is what one file says. `digest` is of the code, without what never changes a time (perf/compare/neutral.py).
    `listing` is the same without imports and plain lists of names. `effects` is what importing the file does besides
    binding its own names. `bodies` are those of its functions, by qualified name, and `shell` is the digest of the code
    without them.

    `bindings` is what each imported name stands for, `assigned` are names bound by a plain assignment; `used` are the
    names that are read, `whole` those of them read otherwise than as `name.attribute`, `attributes` these.
    `registered` are names that a `register(backends=[...])` lists: a variant is registered on each of its backends,
    and uses one. `bare` are modules imported for nothing but their effects; `named` those imported by a constant
    name; `dynamic`: others are, by names known when it runs.
    """

    digest: str
    listing: str
    effects: str
    shell: str
    path: str  # relative to the tree
    package: bool
    bodies: dict[str, str] = field(default_factory=dict)
    bindings: dict[str, Origin] = field(default_factory=dict)
    assigned: frozenset[str] = frozenset()
    exported: frozenset[str] = frozenset()
    registered: frozenset[str] = frozenset()
    used: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    attributes: dict[str, frozenset[str]] = field(default_factory=dict)
    bare: tuple[Origin, ...] = ()
    named: tuple[str, ...] = ()
    dynamic: bool = False


class Tree:
    """Holds all sources of some `packages` in a folder, as they are now: `modules` by dotted name, and `others`,
    digests of what is no Python, by path. Tests are left out."""

    def __init__(self, folder: Path, packages: Iterable[str]) -> None:
        self.modules: dict[str, Source] = {}
        self.others: dict[str, str] = {}
        for place, folders, names in (step for package in packages for step in os.walk(folder / package)):
            folders[:] = sorted(set(folders) - LEFT_OUT)
            inside = os.path.relpath(place, folder).replace(os.sep, "/")
            for name in sorted(names):
                path, relative = os.path.join(place, name), f"{inside}/{name}"
                if name.endswith(".py"):
                    module = relative.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
                    self.modules[module] = read(path, module, relative)
                else:
                    self.others[relative] = hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read(path: str, module: str, relative: str) -> Source:
    """Reads the file at `path`, imported as `module`. One that doesn't parse is known by its bytes alone."""
    status = os.stat(path)
    return _parsed(_content(path, status.st_mtime_ns, status.st_size), module, relative)


@functools.lru_cache(maxsize=4096)
def _content(path: str, changed: int, size: int) -> bytes:
    return Path(path).read_bytes()


@functools.lru_cache(maxsize=4096)
def _parsed(raw: bytes, module: str, relative: str) -> Source:
    """Parses a file once, since two trees have most files in common."""
    package = relative.endswith("__init__.py")
    try:
        tree = ast.parse(raw)
    except (SyntaxError, ValueError):
        digest = hashlib.sha256(raw).hexdigest()
        return Source(digest, digest, digest, digest, relative, package, dynamic=True)
    nodes = list(ast.walk(tree))
    imports = list(_imports(nodes, module if package else module.rpartition(".")[0]))
    uses = _Uses()
    uses.visit(tree)
    named = [_constant(node) for node in nodes if isinstance(node, ast.Call) and _called(node) in DYNAMIC]
    assigned = [name for node in nodes if isinstance(node, ast.Assign) for name in _targets(node)]
    exported = frozenset(name for node in tree.body for name in _exported(node))
    functions = dict(qualified(tree))
    code = neutral(tree)
    digest, listing = _digest(text for _, text in code), _digest(text for node, text in code if not _lists(node))
    effects = _digest(text for node, text in code if not _defines(node))
    shell, bodies = emptied(tree, functions)  # last, for it changes the tree
    return Source(
        digest, listing, effects, _digest(shell), relative, package, bodies,
        bindings={name: origin for name, origin in imports if name},
        bare=tuple(origin for name, origin in imports if not name),
        assigned=frozenset(name for name in assigned if name),
        exported=exported,
        registered=frozenset(uses.registered), used=frozenset(uses.used), whole=frozenset(uses.whole),
        attributes={name: frozenset(paths) for name, paths in uses.attributes.items()},
        named=tuple(name for name in named if name), dynamic=None in named)


class _Uses(ast.NodeVisitor):
    """Collects the names that are read."""

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.registered: set[str] = set()
        self.whole: set[str] = set()
        self.attributes: dict[str, set[str]] = {}

    def visit_Name(self, node: ast.Name) -> None:
        self.used.add(node.id)
        self.whole.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Notes `a.b.c` as an attribute "b.c" of `a`."""
        path, value = [node.attr], node.value
        while isinstance(value, ast.Attribute):
            path.append(value.attr)
            value = value.value
        if isinstance(value, ast.Name):
            self.used.add(value.id)
            self.attributes.setdefault(value.id, set()).add(".".join(reversed(path)))
        else:
            self.visit(value)

    def visit_Call(self, node: ast.Call) -> None:
        self.visit(node.func)
        registers = _called(node) == "register"
        lists = [keyword.value for keyword in node.keywords if registers and keyword.arg == "backends"]
        for child in (*node.args, *(keyword.value for keyword in node.keywords)):
            items = child.elts if child in lists and isinstance(child, ast.List | ast.Tuple) else [child]
            for item in items:
                if child in lists and isinstance(item, ast.Name):
                    self.registered.add(item.id)
                else:
                    self.visit(item)


def _imports(nodes: Iterable[ast.AST], package: str) -> Iterator[tuple[str, Origin]]:
    """Yields each name that is imported, at any depth, with what it stands for; the name is "" where a module is
    imported for its effects."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    yield alias.asname, (alias.name, None)
                else:
                    yield alias.name.partition(".")[0], (alias.name.partition(".")[0], None)
                    if "." in alias.name:
                        yield "", (alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, package)
            for alias in node.names:
                if alias.name == "*":
                    yield "", (module, "*")
                else:
                    yield alias.asname or alias.name, (module, alias.name)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = ".".join(parts[:len(parts) - node.level + 1])
    return f"{base}.{node.module}" if node.module else base


def _called(node: ast.Call) -> str | None:
    return getattr(node.func, "attr", getattr(node.func, "id", None))


def _constant(call: ast.Call) -> str | None:
    first = call.args[0] if call.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def _exported(node: ast.stmt) -> Iterator[str]:
    """Yields what `__all__ = [...]` lists."""
    if isinstance(node, ast.Assign) and _targets(node) == ["__all__"] and isinstance(node.value, ast.List | ast.Tuple):
        for item in node.value.elts:
            if isinstance(item, ast.Constant) and isinstance(item.value, str):
                yield item.value


def _lists(node: ast.stmt) -> bool:
    """Tells whether a statement only imports, or lists names that others gave."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    return (isinstance(node, ast.Assign) and all(_targets(node)) and isinstance(node.value, ast.List | ast.Tuple)
            and all(isinstance(item, ast.Name | ast.Constant) for item in node.value.elts))


def _defines(node: ast.stmt) -> bool:
    """Tells whether a statement only binds names of its own file."""
    if isinstance(node, ast.Assign):
        return all(_targets(node))
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.target, ast.Name)
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        return True
    return isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _targets(node: ast.Assign) -> list[str | None]:
    """Lists their names; None for a target that belongs to another object: `masks.dense = faster`."""
    flat = [item for target in node.targets
            for item in (target.elts if isinstance(target, ast.Tuple | ast.List) else [target])]
    return [item.id if isinstance(item, ast.Name) else None for item in flat]


def _digest(code: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(code).encode()).hexdigest()


NOTHING = _digest([])
