"""The Dagster code location: everything under `defs/`, one resource, one executor.

Steps run in process: one whose artifact is known takes milliseconds, and a process of its own would cost seconds.
"""

import dagster as dg

from anmi_pipeline import defs as rooms
from anmi_pipeline.defs.workspace import WorkspaceResource

defs = dg.Definitions.merge(
    dg.load_definitions_from_package_module(rooms),
    dg.Definitions(resources={"workspace": WorkspaceResource()}, executor=dg.in_process_executor),
)
