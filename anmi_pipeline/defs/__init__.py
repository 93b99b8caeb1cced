"""All Dagster code: assets by group, partitions, resources, checks, schedules, launching.

Belongs here: how artifacts are orchestrated. Does not: how they are computed (the stage packages, which never import dagster).
"""
