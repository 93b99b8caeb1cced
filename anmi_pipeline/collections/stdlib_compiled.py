"""Documentation of the interpreter's compiled modules and builtin types, read from the live objects.

Belongs here: which compiled modules may be imported and what `inspect` says of their members. Does not: pure Python modules
(`stdlib_parsing.py`) and the choice of public names (`stdlib_names.py`).
"""

import importlib
import importlib.util
import inspect
import sys
import types
import warnings
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader

from anmi_pipeline.collections.stdlib_parsing import TITLE_LENGTH, Doc, Module, clean

NEVER_IMPORTED = frozenset({"readline", "_tkinter", "_curses_panel"})
"""Compiled modules whose import touches the terminal or a display."""


def is_compiled(name: str) -> bool:
    """Say whether `name` is a builtin or extension module of the standard library that is safe to import."""
    if name not in sys.stdlib_module_names or name in NEVER_IMPORTED or name.startswith(("xx", "_xx", "_test")):
        return False
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a module whose __spec__ is unset
        return False
    if spec is None:
        return False
    return spec.origin == "built-in" or (
        isinstance(spec.loader, ExtensionFileLoader) and (spec.origin or "").endswith(tuple(EXTENSION_SUFFIXES))
    )


def read_compiled(name: str) -> Module | None:
    """Import one compiled module and read its documentation; None when this build cannot load it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            live = importlib.import_module(name)
        except ImportError:  # the extension's shared library is not on this machine
            return None
        module = Module(name, is_package=False)
        if live.__doc__:
            module.docs[""] = Doc("", clean(live.__doc__))
        for attribute in sorted(vars(live)):
            if not attribute.startswith("__"):
                _read_member(module, attribute, vars(live)[attribute])
    return module


def _read_member(module: Module, name: str, value: object) -> None:
    """Record a function, or a class with its methods; other values carry their type's docstring, not their own."""
    if isinstance(value, type):
        # An alias of another class (`OSError` as `error`) is documented where it is named so.
        if value.__name__ != name or (value.__module__ == "builtins" and module.name != "builtins"):
            return
        module.defined.add(name)
        for member, doc in read_class(value):
            module.docs[f"{name}.{member}" if member else name] = doc
    elif isinstance(value, types.BuiltinFunctionType) and value.__doc__:
        module.defined.add(name)
        module.docs[name] = Doc(_signature(value), clean(value.__doc__))


def read_class(value: type) -> Iterator[tuple[str, Doc]]:
    """Yield ("", doc) of a compiled class and (name, doc) of each public member that it defines itself."""
    # `property` and `type` describe their instances' __doc__ in their own dictionary, so the attribute is asked.
    if "__doc__" in vars(value) and isinstance(value.__doc__, str) and value.__doc__.strip():
        yield "", Doc("", clean(value.__doc__))
    for name, found in sorted(vars(value).items()):
        member = found.__func__ if isinstance(found, staticmethod | classmethod) else found
        text = getattr(member, "__doc__", None)
        documented = inspect.ismethoddescriptor(member) or inspect.isdatadescriptor(member) or inspect.isbuiltin(member)
        if not name.startswith("_") and documented and text and text.strip():
            yield name, Doc(_signature(getattr(value, name)), clean(text))


def _signature(value: object) -> str:
    """Write the declared text signature without `self` or positional marks; nothing when the object declares none."""
    declared = getattr(value, "__text_signature__", None)
    if not callable(value) or not isinstance(declared, str) or isinstance(value, type):
        return ""
    parameters = [part.strip().removesuffix("=<unrepresentable>") for part in declared.strip("()").split(", ")]
    written = ", ".join(part for part in parameters if part and part != "/" and not part.startswith("$"))
    return f"({written})" if len(written) <= TITLE_LENGTH else "(...)"
