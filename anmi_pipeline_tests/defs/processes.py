"""Which processes of a group still live; one that is dead but not yet collected by its parent does not."""

from pathlib import Path


def living(group: int) -> list[int]:
    """Process ids of a process group, without zombies."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the command name, which may hold spaces and brackets: state, parent, process group.
            state, _, process_group = path.read_text(encoding="utf-8").rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found
