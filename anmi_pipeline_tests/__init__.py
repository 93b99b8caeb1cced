"""Tests of anmi_pipeline; the tree mirrors the package."""

import os

# Workers of pytest-xdist share the processors: more threads than one in each make all slower. numpy, torch and polars read
# these when they are imported, so they are set before everything else.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ.setdefault(name, "1")
