"""The public name of everything the standard library documents: `json.dumps`, not `json.encoder`'s inner names.

Belongs here: following re-exports from private and inner modules to the name a person imports, and the resulting documents.
Does not: reading sources (`stdlib_parsing.py`), compiled modules (`stdlib_compiled.py`), sentences (`stdlib_sentences.py`).
"""

import csv
import functools
import io
import re
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from anmi_pipeline.collections.stdlib_compiled import is_compiled, read_class, read_compiled
from anmi_pipeline.collections.stdlib_parsing import SKIPPED, Doc, Module, clean, parse_module, source_files

NOT_PUBLIC = frozenset({"genericpath", "nt", "opcode", "posix", "pyexpat", "sre_compile", "sre_constants", "sre_parse"})
"""Modules without a leading underscore that are implementation: their objects are documented under whoever re-exports them."""
RENAMED = {
    "posixpath": "os.path",
    "_collections_abc": "collections.abc",
    "builtins": "",
    "concurrent.futures.thread": "concurrent.futures",
    "concurrent.futures.process": "concurrent.futures",
    "multiprocessing.context.BaseContext": "multiprocessing",
    "multiprocessing.process.BaseProcess": "multiprocessing.Process",
    "_thread.RLock": "threading.RLock",
    **{f"_hashlib.openssl_{name}": f"hashlib.{name}" for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")},
}
"""Public homes that only running code (module `__getattr__`, `globals().update`) establishes. The longest prefix wins."""

PLACEHOLDERS = frozenset({"XXX to be provided", "current value"})
"""Docstrings that stand for documentation nobody wrote, dozens of times each."""


@dataclass(frozen=True)
class Entry:
    """One document before its sentence is taken: qualified public name, readable title, cleaned docstring."""

    name: str
    title: str
    text: str


def read_entries(modules: Sequence[str] = ()) -> list[Entry]:
    """Read every documented public object of the running interpreter, one entry per public name, sorted by name.

    Args:
        modules: keep only these modules and what lies under them; empty = all. "builtins" = names without a module.
    """
    library = read_library()
    entries: dict[str, Entry] = {}
    for module in library.modules.values():
        for inner, doc in library.documented(module):
            name = library.public_name(module, inner)
            # Modules in Python come first: their docstrings are the longer ones where a compiled twin exists.
            if name and name not in entries and _says_something(name, doc.text):
                entries[name] = Entry(name, name + doc.signature, clean(doc.text))
    for name, live in live_types().items():
        for member, doc in read_class(live):
            full = f"{name}.{member}" if member else name
            entries.setdefault(full, Entry(full, full + doc.signature, doc.text))
    homes = {module.partition(".")[0] for module in library.modules}
    kept = (entry for entry in entries.values() if not modules or _inside(entry.name, modules, homes))
    return sorted(kept, key=lambda entry: entry.name)


def _says_something(name: str, text: str) -> bool:
    """Say whether a docstring tells more than the name does; some only repeat it (`ast.Add`: "Add") or hold a place."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return bool(words) and words != re.findall(r"[a-z0-9]+", name.rpartition(".")[2].lower()) and text.strip() not in PLACEHOLDERS


def live_types() -> dict[str, type]:
    """Return the types that a module makes without naming them in its source, by the name people know them by."""
    return {
        "csv.reader": type(csv.reader([])),
        "csv.writer": type(csv.writer(io.StringIO())),
        "re.Match": re.Match,
        "re.Pattern": re.Pattern,
        "threading.Lock": type(threading.Lock()),
        "types.GeneratorType": types.GeneratorType,
        "types.MappingProxyType": types.MappingProxyType,
        "types.SimpleNamespace": types.SimpleNamespace,
    }


def _inside(name: str, modules: Sequence[str], homes: set[str]) -> bool:
    """Say whether a public name lies in one of the modules."""
    if any(name == module or name.startswith(f"{module}.") for module in modules):
        return True
    return "builtins" in modules and name.partition(".")[0] not in homes


class Library:
    """All modules of the standard library that are read, and who re-exports what."""

    def __init__(self) -> None:
        """Parse every source file, then import the compiled modules that are public or that a source file imports from."""
        self.modules: dict[str, Module] = {name: parse_module(name, path) for name, path in source_files().items()}
        wanted = {name for name in sys.stdlib_module_names if not name.startswith("_")} | {"_hashlib", "_thread"}
        for module in self.modules.values():
            wanted |= {*module.stars, *(source for source, _ in module.imports.values())}
            wanted |= {base.rpartition(".")[0] for bases in module.bases.values() for base in bases}
        for name in sorted(wanted - set(self.modules) - SKIPPED):
            compiled = read_compiled(name) if is_compiled(name) else None
            if compiled is not None:
                self.modules[name] = compiled
        self._surfaces: dict[str, dict[str, tuple[str, str]]] = {}
        self._homes = self._choose_homes()

    def documented(self, module: Module) -> Iterator[tuple[str, Doc]]:
        """Yield (inner name, documentation): the module's own, then what it borrows from modules nobody reaches by name."""
        yield from module.docs.items()
        if "__doc__" in module.imports and module.imports["__doc__"][0] in self.modules:
            borrowed = self.modules[module.imports["__doc__"][0]].docs.get("")
            if borrowed:
                yield "", borrowed
        for name, (home, wrapped) in module.wrapped.items():
            if home in self.modules and wrapped in self.modules[home].docs:
                yield name, self.modules[home].docs[wrapped]
        for name in module.bases:
            yield from self._inherited(module, name, name, frozenset({name}))

    def _inherited(self, module: Module, name: str, heir: str, seen: frozenset[str]) -> Iterator[tuple[str, Doc]]:
        """Yield documentation of members that a class gets from bases without a public name (`argparse._ActionsContainer`)."""
        for base in module.bases.get(name, []):
            home, _, inner = base.rpartition(".")
            source = self.modules.get(home) if home else module
            if source is None or base in seen or self.public_name(source, inner):
                continue
            for member, doc in source.docs.items():
                # The class's own words fit the heir only when it is the same thing in Python: `_io._IOBase`, `io.IOBase`.
                twin = member == inner and inner.lstrip("_") == heir
                if twin or member.startswith(f"{inner}."):
                    yield heir + member.removeprefix(inner), doc
            yield from self._inherited(source, inner, heir, seen | {base})

    def public_name(self, module: Module, inner: str) -> str:
        """Return the name a person writes, or "" when the object cannot be reached by a public one."""
        inner = next((alias for alias, method in module.bound.items() if method == inner), inner)
        top, _, rest = inner.partition(".")
        written = f"{module.name}.{inner}" if inner else module.name
        renamed = _rename(written)
        if renamed == written and inner:
            home = self._homes.get((module.name, top), "" if _private(module.name) else f"{module.name}.{top}")
            renamed = _rename(f"{home}.{rest}" if rest and home else home)
        return "" if _private(renamed) else renamed

    def surface(self, name: str) -> dict[str, tuple[str, str]]:
        """Map each top-level name of a module to (module, name) where it is defined."""
        if name not in self._surfaces:
            self._surfaces[name] = {}  # a cycle of imports sees what is known so far
            module = self.modules[name]
            found: dict[str, tuple[str, str]] = {}
            for star in module.stars:
                found |= self._starred(star)
            for local, (source, original) in module.imports.items():
                if source in self.modules and original in self.surface(source):
                    found[local] = self.surface(source)[original]
            self._surfaces[name] = found | {local: (name, local) for local in module.defined}
        return self._surfaces[name]

    def _starred(self, name: str) -> dict[str, tuple[str, str]]:
        """Return what `from name import *` brings."""
        if name not in self.modules:
            return {}
        listed = self.modules[name].exported
        return {k: v for k, v in self.surface(name).items() if (k in listed if listed else not k.startswith("_"))}

    def _choose_homes(self) -> dict[tuple[str, str], str]:
        """Choose the public home of everything that is re-exported: a listed name first, then the shortest."""
        best: dict[tuple[str, str], tuple[bool, int, str]] = {}
        for exporter, module in self.modules.items():
            if _private(exporter):
                continue
            twins = [item for star in module.stars if _private(star) for item in self._starred(star).items()]
            # What `from _datetime import *` replaces is the same thing under the same name, and so are its stand-ins in Python.
            for local, (source, original) in (*self.surface(exporter).items(), *twins):
                own = exporter == source or (module.is_package and source.startswith(f"{exporter}."))
                if local.startswith("_") or not (own or _private(source)):
                    continue
                listed = local in module.exported if module.exported is not None else None
                if listed is False and exporter != source:
                    continue
                explicit = not own and listed is None and local in module.imports
                rank = (explicit, exporter.count("."), f"{exporter}.{local}")
                best[source, original] = min(best.get((source, original), rank), rank)
        return {origin: name for origin, (_, _, name) in best.items()}


@functools.cache
def read_library() -> "Library":
    """Read the interpreter's library once per process; it does not change while it runs."""
    return Library()


def _private(name: str) -> bool:
    """Say whether any part of a dotted name is private, or its module is implementation."""
    return name.partition(".")[0] in NOT_PUBLIC or re.search(r"(^|\.)_", name) is not None


def _rename(name: str) -> str:
    """Apply the longest prefix of `RENAMED`."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        prefix = ".".join(parts[:size])
        if prefix in RENAMED:
            return ".".join(part for part in (RENAMED[prefix], *parts[size:]) if part)
    return name
