"""Strips a syntax tree of what never changes a time: names of local variables, annotations, docstrings, the order of
helpers.

It errs by leaving too much. A function that looks at its own variables by name (`locals()`) keeps them; a decorated one
keeps its annotations, since a decorator may read them (torch.library, triton); so does the body of a class, where they
may be fields.
"""
from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping

Function = ast.FunctionDef | ast.AsyncFunctionDef
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
BY_NAME = {"locals", "vars", "eval", "exec", "dir", "globals", "currentframe", "_getframe"}
FOR_TYPES = ("typing", "collections.abc", "__future__")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def neutral(tree: ast.Module) -> list[tuple[ast.stmt, str]]:
    """Lists the statements of a module with their normal form, helpers last. Changes the tree."""
    tree.body = [statement for statement in tree.body if not _only_for_types(statement)]
    for node in list(ast.walk(tree)):
        if isinstance(node, DOCUMENTED):
            node.body = _without_idle(node.body)
    _Annotations().visit(tree)
    for node in _functions(tree):
        if not _looks_by_name(node):
            _rename(node, {}, 0)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [statement for statement, _ in _ordered(node.body)]
    return _ordered(tree.body)


def emptied(tree: ast.Module, names: Mapping[Function, str]) -> tuple[list[str], dict[str, str]]:
    """Takes the bodies out of the functions of a module in normal form. Returns the text of what is left, and that of
    each body by the function's name in `names`. A helper that only bodies mention is not left at all: it may come and
    go, and its signature is a part of its body. Changes the tree."""
    bodies: dict[str, str] = {}
    for function in sorted(names, key=lambda one: -one.lineno):  # those within come first
        body, function.body = [ast.dump(one) for one in function.body], []
        bodies[names[function]] = "\n".join([*body, bodies.get(names[function], "")])
    left = _ordered(tree.body)
    text = "\n".join(text for node, text in left if not (isinstance(node, Function) and _movable(node)))
    for node, signature in list(left):
        if isinstance(node, Function) and _movable(node) and node.name[:2] != "__" and f"'{node.name}'" not in text:
            bodies[node.name] += signature
            left.remove((node, signature))
    return [text for _, text in left], bodies


def qualified(tree: ast.AST, outer: str = "") -> Iterator[tuple[Function, str]]:
    """Yields each function with its name as Python's `__qualname__` has it: "Attention.forward", "f.<locals>.g"."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            name = f"{outer}{node.name}"
            if isinstance(node, Function):
                yield node, name
            yield from qualified(node, f"{name}.<locals>." if isinstance(node, Function) else f"{name}.")
        else:
            yield from qualified(node, outer)


def _only_for_types(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module in FOR_TYPES and not node.level
    return (isinstance(node, ast.If) and not node.orelse
            and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"))


def _without_idle(body: list[ast.stmt]) -> list[ast.stmt]:
    """Drops the docstring of a body, and `pass` beside other statements."""
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) \
            and isinstance(body[0].value.value, str):
        body = body[1:]
    return [statement for statement in body if not isinstance(statement, ast.Pass)]


def _ordered(body: Iterable[ast.stmt]) -> list[tuple[ast.stmt, str]]:
    """Pairs each statement with its normal form. Functions whose place says nothing come last, sorted: those without
    a decorator whose defaults are constants. Of several functions of one name the last counts, so these keep their
    place."""
    code = [(statement, ast.dump(statement)) for statement in body]
    names = [statement.name for statement, _ in code if isinstance(statement, Function)]
    helpers = [one for one in code if isinstance(one[0], Function) and _movable(one[0])
               and names.count(one[0].name) == 1]
    return [one for one in code if one not in helpers] + sorted(helpers, key=lambda one: one[1])


def _movable(node: Function) -> bool:
    defaults = [*node.args.defaults, *(default for default in node.args.kw_defaults if default)]
    return not node.decorator_list and all(isinstance(default, ast.Constant) for default in defaults)


def _functions(tree: ast.AST) -> Iterator[Function]:
    """Yields the outermost functions: those of the module, and of its classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield node
        else:
            yield from _functions(node)


def _looks_by_name(function: Function) -> bool:
    """Tells whether renaming might change it: it asks for names, or has a scope that is not followed."""
    return any(isinstance(node, ast.ClassDef | ast.Match) or (isinstance(node, ast.Name) and node.id in BY_NAME)
               or (isinstance(node, ast.Attribute) and node.attr in BY_NAME) for node in ast.walk(function))


class _Annotations(ast.NodeTransformer):
    """Takes annotations away, where nothing reads them."""

    def visit_FunctionDef(self, node: Function) -> ast.AST:
        if node.decorator_list:
            return node
        node.returns = None
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg,
                         node.args.kwarg):
            if argument:
                argument.annotation = None
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = [self.visit(one) if isinstance(one, Function | ast.ClassDef) else one for one in node.body]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return node
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def _rename(scope: ast.AST, outer: Mapping[str, str], depth: int) -> None:
    """Numbers the variables of a scope and of those within, in the order in which they are bound."""
    kept, bound = _kept(scope), _bound(scope)
    others = {name for node in _own(scope) if isinstance(node, ast.Nonlocal) for name in node.names}
    mine = {name: f"{depth}.{i}" for i, name in enumerate(bound) if name not in kept | others}
    names = {**{name: new for name, new in outer.items() if name not in kept}, **mine}
    for node in _own(scope):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            node.name = names.get(node.name, node.name)
        elif isinstance(node, ast.Nonlocal):
            node.names = [names.get(name, name) for name in node.names]
        elif isinstance(node, SCOPES):
            if isinstance(node, Function):
                node.name = names.get(node.name, node.name)
            _rename(node, names, depth + 1)


def _kept(scope: ast.AST) -> set[str]:
    """Returns the names that stay: parameters, which callers may say, what is imported, and the module's."""
    names: set[str] = set()
    if isinstance(scope, Function | ast.Lambda):
        arguments = scope.args
        names |= {one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg,
                                      arguments.kwarg) if one}
    for node in _own(scope):
        if isinstance(node, ast.Global):
            names.update(node.names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
    return names


def _bound(scope: ast.AST) -> list[str]:
    """Lists the names that a scope binds, in order; a walrus within a comprehension binds in the function around it."""
    names: dict[str, None] = {}
    walrus = {node.target for node in _own(scope) if isinstance(node, ast.NamedExpr)} if isinstance(
        scope, Comprehension) else set()
    for node in _own(scope):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del) and node not in walrus:
            names[node.id] = None
        elif (isinstance(node, ast.ExceptHandler) and node.name) or isinstance(node, Function):
            names[str(node.name)] = None
        elif isinstance(node, Comprehension):
            names.update((inner.target.id, None) for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)
                         and isinstance(inner.target, ast.Name))
    return list(names)


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes of a scope in source order. It leaves out those of scopes within, but for what is evaluated
    outside of these."""
    if isinstance(scope, Comprehension):
        first, *others = scope.generators
        values = [scope.key, scope.value] if isinstance(scope, ast.DictComp) else [scope.elt]
        roots: list[ast.AST] = [first.target, *first.ifs, *others, *values]
    elif isinstance(scope, ast.Lambda):
        roots = [scope.body]
    else:
        assert isinstance(scope, Function)
        roots = list(scope.body)
    for root in roots:
        yield from _within(root)


def _within(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if isinstance(node, Comprehension):
        inside: list[ast.AST] = [node.generators[0].iter]
    elif isinstance(node, ast.Lambda):
        inside = [node.args]
    elif isinstance(node, Function):
        inside = [*node.decorator_list, node.args, *([node.returns] if node.returns else [])]
    else:
        inside = list(ast.iter_child_nodes(node))
    for child in inside:
        yield from _within(child)
