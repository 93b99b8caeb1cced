"""Reading the pages: fenced blocks, commands in them, tables, paths.

Belongs here: taking Markdown apart. Does not: what must hold of the parts (the tests).
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES.append(REPOSITORY / "docker" / "README.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"^[A-Z_]+=")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, its language and its text."""

    page: str
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command line of a page: the environment in front, the words."""

    page: str
    environment: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def line(self) -> str:
        """For messages and test ids."""
        return f"{self.page}: {shlex.join(self.words)}"


def blocks(*languages: str) -> list[Block]:
    """Fenced blocks of all pages in some languages."""
    found = [Block(page.name, match[1], match[2]) for page in PAGES for match in FENCE.finditer(page.read_text(encoding="utf-8"))]
    return [block for block in found if block.language in languages]


def commands(program: str) -> list[Command]:
    """Every call of a program in the shell blocks."""
    return [command for block in blocks("bash", "sh", "console") for command in calls(block) if command.words[0] == program]


def calls(block: Block) -> Iterator[Command]:
    """The command lines of one block."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        environment: list[str] = []
        if words and words[0] == "export":
            continue
        while words and ASSIGNMENT.match(words[0]):
            environment.append(words.pop(0).partition("=")[0])
        if words:
            yield Command(block.page, tuple(environment), tuple(words))


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def tables(page: Path) -> list[list[dict[str, str]]]:
    """The tables of a page, each as rows by heading."""
    found: list[list[dict[str, str]]] = []
    for match in re.finditer(r"(?:^\|.*\|\n)+", prose(page), re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in match[0].splitlines()]
        found.append([dict(zip(rows[0], row, strict=True)) for row in rows[2:]])
    return found


def table(page: Path, *headings: str) -> list[dict[str, str]]:
    """The rows of all tables of a page that start with these headings."""
    return [row for rows in tables(page) for row in rows if list(row)[: len(headings)] == list(headings)]
