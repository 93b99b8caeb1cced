"""Run the acceptance scripts of an issue in order and say which bounds hold: `make acceptance ISSUE=2`.

Belongs here: order and summary. Does not: any claim. Scripts that need the same collections share one ANMI_HOME, so that nothing
is encoded twice; with --home the runs of an earlier call are kept and used again.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHARED = dict.fromkeys(("2_2", "2_3", "2_4", "3_6", "3_7", "3_8", "3_9", "3_10"), "collections")
"""Script -> folder under --home that it shares with others; the others start from nothing."""


def chosen_scripts(issue: str, only: list[str]) -> list[Path]:
    """The scripts of an issue in the order of their numbers, all or those named (2_5 2_6)."""
    found = sorted(HERE.glob(f"{issue}_*.py"), key=lambda path: [int(number) for number in re.findall(r"\d+", path.stem)[:2]])
    return [path for path in found if not only or any(path.stem.startswith(f"{name}_") or path.stem == name for name in only)]


def run(path: Path, homes: Path) -> tuple[int, float]:
    """Run one script; its exit code and wall seconds."""
    print(f"== {path.name}", flush=True)
    shared = SHARED.get("_".join(path.stem.split("_")[:2]))
    home = ["--home", str(homes / shared)] if shared else []
    started = time.monotonic()
    return subprocess.run([sys.executable, str(path), *home], check=False).returncode, time.monotonic() - started


def main() -> int:
    """Run them all, whatever fails, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("issue", nargs="?", default="2", help="issue number")
    parser.add_argument("only", nargs="*", help="only these, such as 2_5 2_6")
    parser.add_argument("--home", type=Path, help="keep the shared ANMI_HOME here and use what it holds")
    options = parser.parse_args()
    scripts = chosen_scripts(options.issue, options.only)
    if not scripts:
        print(f"no acceptance script of issue {options.issue} {' '.join(options.only)} in {HERE}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="anmi-acceptance-", ignore_cleanup_errors=True) as folder:
        outcomes = {path.name: run(path, options.home or Path(folder)) for path in scripts}
    print()
    for name, (code, seconds) in outcomes.items():
        print(f"{'holds ' if code == 0 else 'BROKEN'} {name} ({seconds:.0f} s)")
    return int(any(code for code, _ in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
