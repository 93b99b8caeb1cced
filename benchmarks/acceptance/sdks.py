"""Whether the official SDKs are as their publishers made them, on disk and in memory.

Belongs here: files against the hashes of their packages, functions against those of a fresh process. Does not: any claim. As a
program it reads names of modules as JSON and prints the fingerprint of their functions.
"""

import base64
import hashlib
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType

BELOW = ("httpx", "httpx2", "httpcore", "httpcore2", "aiohttp")
PACKAGES = ("openai", "anthropic", *(name for name in BELOW if find_spec(name) is not None))
"""Both SDKs and the HTTP libraries below them."""


def unpublished(package: str) -> list[str]:
    """Files of an installed package that are not what its publisher hashed (RECORD), and code files that stand beside them."""
    found = metadata.distribution(package)
    wrong: list[str] = []
    listed: set[Path] = set()
    for file in found.files or []:
        path = Path(str(found.locate_file(file)))
        listed.add(path)
        if file.hash is not None:
            digest = base64.urlsafe_b64encode(hashlib.new(file.hash.mode, path.read_bytes()).digest()).rstrip(b"=").decode()
            wrong += [str(file)] if digest != file.hash.value else []
    folder = Path(str(found.locate_file(package)))
    return wrong + [str(path) for path in folder.rglob("*.py") if path not in listed]


def functions(module: ModuleType) -> Iterator[tuple[str, FunctionType]]:
    """Every function of a module and of its classes, by name."""
    for name, value in list(vars(module).items()):
        if isinstance(value, FunctionType):
            yield f"{module.__name__}:{name}", value
        if isinstance(value, type) and value.__module__.split(".")[0] in PACKAGES:
            for method, attribute in list(vars(value).items()):
                wrapped = (getattr(attribute, held, None) for held in ("fget", "__func__", "func"))
                inner = next((one for one in wrapped if one is not None), attribute)
                if isinstance(inner, FunctionType):
                    yield f"{module.__name__}:{name}.{method}", inner


def fingerprint(modules: Sequence[str]) -> dict[str, str]:
    """Name of each function of some modules -> where its code stands and what it is."""
    found: dict[str, str] = {}
    for module in modules:
        for name, function in functions(importlib.import_module(module)):
            code = function.__code__
            found[name] = f"{code.co_filename}:{code.co_firstlineno}:{hashlib.sha256(code.co_code).hexdigest()[:16]}"
    return found


def loaded() -> list[str]:
    """Modules of the packages that this process has imported, in that order."""
    return [name for name, module in sys.modules.items() if name.split(".")[0] in PACKAGES and module is not None]


def patched(modules: Sequence[str]) -> tuple[list[str], int]:
    """Functions that are other ones here than in a process that only imports the modules, and how many were compared."""
    command = [sys.executable, str(Path(__file__).resolve())]
    fresh = subprocess.run(command, input=json.dumps(modules), capture_output=True, text=True, check=True)
    published, here = json.loads(fresh.stdout), fingerprint(modules)
    return sorted(name for name in set(published) | set(here) if published.get(name) != here.get(name)), len(here)


if __name__ == "__main__":
    print(json.dumps(fingerprint(json.load(sys.stdin))))
