"""Issue 2: what the browser must show. Runs the tests marked `ui`, none of which may be skipped."""

import sys
import xml.etree.ElementTree as ET

from harness import REPOSITORY, Figures, arguments, at_least, exactly, run, workplace


def main() -> int:
    """Run the marked tests and read their report."""
    options = arguments(__doc__ or "")
    figures = Figures("2.8 ui")
    with workplace(options.home) as place:
        report = place / "ui.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "ui",
            "anmi_pipeline_tests",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
        ]
        import os

        done = run(command, os.environ, folder=REPOSITORY)
        figures.check("pytest -m ui: exit code", done.code, exactly(0), detail=done.out[-1500:] if done.code else "")
        cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
        for case in cases:
            wrong = [part.tag for part in case if part.tag in ("failure", "error", "skipped")]
            figures.claim(f"{case.get('classname')}.{case.get('name')}", not wrong, detail=", ".join(wrong))
        figures.check("tests in the browser", len(cases), at_least(4))
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
