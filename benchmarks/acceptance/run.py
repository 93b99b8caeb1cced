"""Run the acceptance scripts of an issue in order and say which bounds hold: `make acceptance ISSUE=2`."""

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    issue = sys.argv[1] if len(sys.argv) > 1 else "2"
    scripts = sorted(HERE.glob(f"{issue}_*.py"), key=lambda path: [int(part) for part in path.stem.split("_")[:2]])
    if not scripts:
        sys.stderr.write(f"no acceptance script of issue {issue} in {HERE}\n")
        return 2
    outcomes: list[tuple[str, int, float]] = []
    for script in scripts:
        sys.stdout.write(f"== {script.name}\n")
        sys.stdout.flush()
        started = time.monotonic()
        outcomes.append(
            (script.name, subprocess.run([sys.executable, str(script)], check=False).returncode, time.monotonic() - started)
        )
    sys.stdout.write("\n")
    for name, code, seconds in outcomes:
        sys.stdout.write(f"{'holds ' if code == 0 else 'BROKEN'} {name} ({seconds:.0f} s)\n")
    return int(any(code for _, code, _ in outcomes))


if __name__ == "__main__":
    sys.exit(main())
