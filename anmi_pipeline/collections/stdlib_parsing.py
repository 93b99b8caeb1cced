"""Documentation of the running interpreter's pure Python modules, read from their source without importing one.

Belongs here: which files count, what a module defines, imports and exports, as plain values. Does not: compiled modules
(`stdlib_compiled.py`) and the choice of public names (`stdlib_names.py`).
"""

import ast
import inspect
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SKIPPED = frozenset(
    {"antigravity", "distutils", "encodings", "ensurepip", "idlelib", "idle_test", "lib2to3", "msilib", "nturl2path", "ntpath"}
    | {"pydoc_data", "test", "tests", "this", "tkinter", "turtle", "turtledemo", "__hello__", "__phello__"}
)
"""Top-level modules and path components left out: tests, jokes, code tables, deprecated copies, and the graphical packages that
many distributions ship apart (the corpus of one Python version should not depend on them)."""
TITLE_LENGTH = 100
"""Longest title in characters; a longer signature is cut to its parameter names, then to `...`."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Doc:
    """Documentation of one object: its signature (empty for a class or module) and cleaned docstring."""

    signature: str
    text: str


@dataclass
class Module:
    """What one source file says.

    Attributes:
        name: dotted module name.
        is_package: whether it is an `__init__.py`.
        docs: name inside the module ("" = the module itself) -> documentation.
        defined: top-level names bound by `def` or `class`.
        imports: top-level name -> (source module, name there), from `from m import name`.
        aliases: local name -> module, from `import m as name`.
        stars: modules imported by `from m import *`.
        exported: `__all__` when it is one literal that nothing extends, else None.
        bases: class -> dotted names of its bases, as written but with imported names resolved.
        wrapped: function -> (module, name) whose documentation it takes over, by `functools.wraps` or `f.__doc__ = g.__doc__`.
        bound: public alias -> what it is bound to ("choice" -> "Random.choice", from `choice = _inst.choice`).
    """

    name: str
    is_package: bool
    docs: dict[str, Doc] = field(default_factory=dict[str, Doc])
    defined: set[str] = field(default_factory=set[str])
    imports: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    aliases: dict[str, str] = field(default_factory=dict[str, str])
    stars: list[str] = field(default_factory=list[str])
    exported: frozenset[str] | None = None
    bases: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    wrapped: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    bound: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def package(self) -> str:
        """Package that relative imports of this module start from."""
        return self.name if self.is_package else self.name.rpartition(".")[0]


def source_files() -> dict[str, Path]:
    """Map dotted module names to the standard library's source files, tests and `SKIPPED` left out, in name order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, Path] = {}
    for top in sorted(sys.stdlib_module_names - SKIPPED):
        single, package = root / f"{top}.py", root / top
        if single.is_file():
            found[top] = single
        elif (package / "__init__.py").is_file():
            for path in package.rglob("*.py"):
                parts = path.relative_to(root).with_suffix("").parts
                if not SKIPPED.intersection(parts) and "__main__" not in parts and all(part.isidentifier() for part in parts):
                    found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return dict(sorted(found.items()))


def parse_module(name: str, path: Path) -> Module:
    """Read one source file into a `Module`; nothing of it is executed."""
    module = Module(name, path.name == "__init__.py")
    tree = ast.parse(path.read_bytes())
    module_doc = ast.get_docstring(tree)
    if module_doc:
        module.docs[""] = Doc("", module_doc)
    instances: dict[str, str] = {}
    literals = 0
    for node in _statements(tree.body):
        if isinstance(node, ast.ImportFrom):
            _read_import(module, node)
        elif isinstance(node, Definition):
            module.defined.add(node.name)
            _read_definition(module, node, "")
        elif isinstance(node, ast.Import):
            module.aliases |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            literals += _read_assignment(module, node.targets[0], node.value, instances)
        literals += _touches_all(node)
    if literals != 1:
        module.exported = None
    return module


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements that run at this level, those inside if, try and with included."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from _statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            yield from _statements([*node.body, *node.orelse, *handlers, *node.finalbody])
        elif isinstance(node, ast.With):
            yield from _statements(node.body)


def _read_import(module: Module, node: ast.ImportFrom) -> None:
    """Record a `from m import ...`, relative ones made absolute."""
    source = node.module or ""
    if node.level:
        package = module.package.split(".")
        base = ".".join(package[: len(package) - node.level + 1])
        source = f"{base}.{source}" if source else base
    for alias in node.names:
        if alias.name == "*":
            module.stars.append(source)
        else:
            module.imports.setdefault(alias.asname or alias.name, (source, alias.name))


def _read_assignment(module: Module, target: ast.expr, value: ast.expr, instances: dict[str, str]) -> int:
    """Record what an assignment says of documentation and names; count assignments to `__all__`."""
    if (
        isinstance(target, ast.Attribute)
        and target.attr == "__doc__"
        and isinstance(value, ast.Attribute)
        and value.attr == "__doc__"
    ):
        home, _, name = ast.unparse(value.value).rpartition(".")
        module.wrapped[ast.unparse(target.value)] = (module.aliases.get(home, home), name)
    if not isinstance(target, ast.Name):
        return 0
    if target.id == "__all__":
        if isinstance(value, ast.List | ast.Tuple) and all(isinstance(item, ast.Constant) for item in value.elts):
            module.exported = frozenset(str(item.value) for item in value.elts if isinstance(item, ast.Constant))
            return 1
        return 2
    if target.id == "__doc__" and isinstance(value, ast.Constant) and isinstance(value.value, str):
        module.docs.setdefault("", Doc("", value.value))
    elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        instances[target.id] = value.func.id
    elif isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name) and value.value.id in instances:
        module.bound.setdefault(target.id, f"{instances[value.value.id]}.{value.attr}")
    elif isinstance(value, ast.Name) and module.exported and target.id in module.exported and value.id not in module.exported:
        module.bound.setdefault(target.id, value.id)
    return 0


def _touches_all(node: ast.stmt) -> int:
    """Say 1 when the statement extends `__all__` (`+=`, `.append`, `.extend`), so that the literal is not the whole truth."""
    if isinstance(node, ast.AugAssign):
        return int(isinstance(node.target, ast.Name) and node.target.id == "__all__")
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        owner = node.value.func.value
        return int(isinstance(owner, ast.Name) and owner.id == "__all__")
    return 0


def _read_definition(module: Module, node: Definition, prefix: str) -> None:
    """Record the documentation of a function or class and of the public members of the class."""
    name = prefix + node.name
    text = ast.get_docstring(node) or ""
    if isinstance(node, ast.ClassDef):
        members = [item for item in _statements(node.body) if isinstance(item, Definition)]
        start = next((item for item in members if item.name == "__init__"), None)
        # The constructor is how a class is called, so what it says belongs to the class.
        text = "\n\n".join(part for part in (text, (ast.get_docstring(start) or "") if start else "") if part)
        module.bases[name] = [_dotted(module, base) for base in node.bases]
        if text:
            module.docs.setdefault(name, Doc("", text))
        for item in members:
            if not item.name.startswith("_"):
                _read_definition(module, item, f"{name}.")
    elif text:
        module.docs.setdefault(name, Doc(_signature(node, drop_first=bool(prefix)), text))
    else:
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).rpartition(".")[2].lstrip("_") == "wraps":
                home, _, wrapped = ast.unparse(decorator.args[0]).rpartition(".")
                module.wrapped[name] = (module.aliases.get(home, home), wrapped)


def _dotted(module: Module, base: ast.expr) -> str:
    """Write a base class as `module.name` when it was imported from a module, else as it stands."""
    written = ast.unparse(base)
    return ".".join(module.imports[written]) if written in module.imports else written


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, drop_first: bool) -> str:
    """Write `(a, b=1)` without annotations, `self` or `cls`; parameter names only, then `(...)`, when it grows too long."""
    decorators = {ast.unparse(item).rpartition(".")[2] for item in node.decorator_list}
    if decorators & {"property", "cached_property", "getter", "abstractproperty"}:
        return ""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    for item in (*positional, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if item is not None:
            item.annotation = None
    full = ast.unparse(arguments)
    names = [item.arg for item in (*positional, *arguments.kwonlyargs)]
    if drop_first and names[:1] and "staticmethod" not in decorators and positional:
        full, names = full.partition(", ")[2] if ", " in full else "", names[1:]
        full = full.removeprefix("/, ").removeprefix("/")
    short = ", ".join(names)
    return next((f"({form})" for form in (full, short) if len(form) <= TITLE_LENGTH), "(...)")


def clean(text: str) -> str:
    """Return a docstring as one would print it: no common indent, no trailing blanks, Unix line ends."""
    return "\n".join(line.rstrip() for line in inspect.cleandoc(text).splitlines()).strip()
