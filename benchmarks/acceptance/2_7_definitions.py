"""Issue 2: `dg check defs` passes without torch; the definitions load in under 3 seconds beyond Dagster's own import."""

import json
import os
import statistics
import sys
from pathlib import Path

from harness import REPOSITORY, Figures, Finished, Installation, arguments, at_most, exactly, run, workplace

LOADS = 5
SECONDS = 3.0
HEAVY = ("torch", "transformers", "sentence_transformers", "mlflow", "faiss", "sklearn", "scipy", "matplotlib", "numba", "duckdb")

BLOCKER = '''
"""Makes every import of torch fail, and keeps note of who asked, so that a caught ImportError shows as well."""
import importlib.machinery, os, sys

class Refuse:
    # A library may look whether torch is installed (polars does): only its execution is refused.
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] == "torch" else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        with open(os.environ["ANMI_TEST_ASKED"], "a") as stream:
            stream.write(module.__name__ + "\\n")
        raise ImportError(f"{module.__name__} must not be imported while definitions load")

sys.meta_path.insert(0, Refuse())
'''

TIMED = """
import json, sys, time
import dagster
started, processor = time.perf_counter(), time.process_time()
from anmi_pipeline.definitions import defs
defs.get_repository_def()
print(json.dumps([time.perf_counter() - started, time.process_time() - processor, [m for m in {heavy!r} if m in sys.modules]]))
"""


def check_without_torch(figures: Figures, installation: Installation, place: Path) -> None:
    """`dg check defs` in an interpreter whose torch cannot be imported."""
    blocker, asked = place / "blocker", place / "asked.txt"
    blocker.mkdir(parents=True, exist_ok=True)
    (blocker / "sitecustomize.py").write_text(BLOCKER)
    asked.unlink(missing_ok=True)
    environment = installation.environment() | {"PYTHONPATH": str(blocker), "ANMI_TEST_ASKED": str(asked)}
    proof = run([sys.executable, "-c", "import torch"], environment)
    figures.claim("the blocker works: import torch fails", proof.code != 0)
    asked.unlink(missing_ok=True)
    # dg looks for the project's environment; the running one is it.
    active = environment | {"VIRTUAL_ENV": sys.prefix, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"}
    done = run([str(Path(sys.executable).with_name("dg")), "check", "defs"], active, folder=REPOSITORY)
    figures.check("dg check defs without torch: exit code", done.code, exactly(0), detail=tail(done) if done.code else "")
    imports = asked.read_text().splitlines() if asked.exists() else []
    figures.check("imports of torch while it ran", len(imports), exactly(0), detail=", ".join(imports[:3]))


def tail(done: Finished) -> str:
    """The end of what a command said."""
    return done.text[-400:]


def check_load_time(figures: Figures, installation: Installation, loads: int = LOADS) -> None:
    """Load the definitions in fresh interpreters."""
    program, walls, processors, heavy = TIMED.format(heavy=HEAVY), [], [], set()
    for _ in range(loads):
        done = run([sys.executable, "-W", "ignore", "-c", program], installation.environment(), folder=REPOSITORY)
        if done.code != 0:
            figures.check("loading the definitions: exit code", done.code, exactly(0), detail=tail(done))
            return
        wall, processor, found = json.loads(done.out.splitlines()[-1])
        walls.append(wall)
        processors.append(processor)
        heavy |= set(found)
    shown = " ".join(f"{wall:.2f}" for wall in walls)
    figures.check(
        "definitions beyond `import dagster`: median wall seconds", statistics.median(walls), at_most(SECONDS), detail=shown
    )
    figures.note("definitions beyond `import dagster`: median processor seconds", statistics.median(processors))
    figures.check("heavy modules imported by then", len(heavy), exactly(0), detail=", ".join(sorted(heavy)))


def main() -> int:
    """Both."""
    options = arguments(__doc__ or "")
    figures = Figures("2.7 definitions")
    with workplace(options.home) as place:
        installation = Installation(place / "home")
        check_without_torch(figures, installation, place)
        check_load_time(figures, installation)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
