"""Every command, target, link and path that a page names is there."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from anmi_pipeline.catalog.files import names
from anmi_pipeline.cli import app
from anmi_pipeline.defs.launch import AFTER, BEFORE, SYSTEM
from anmi_pipeline_tests.docs.pages import PAGES, REPOSITORY, Command, blocks, calls, commands, prose

PROGRAMS = {"anmi", "make", "docker", ".", "mlflow", "curl"}
EXAMPLES = REPOSITORY / "docs" / "examples"
OWN = {"anmi-all", "placebo-all"}
"""Recipes that a page has the reader write."""
TARGETS = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
PATH = re.compile(r"^(?:anmi_pipeline|anmi_pipeline_tests|benchmarks|docs|docker|examples)/[\w./-]*$")


def by_line(command: Command) -> str:
    return command.line


@pytest.mark.parametrize("command", commands("anmi"), ids=by_line)
def test_anmi_knows_the_command_and_its_options(command: Command) -> None:
    given = parsed(list(command.words[1:]))
    datasets = {*names("datasets", None), *names("datasets", EXAMPLES / "conf")}
    recipes = {*names("recipes", None), *names("recipes", EXAMPLES / "conf"), *OWN}
    assert given.get("dataset") in {None, *datasets}
    assert set(given.get("recipe") or ()) <= recipes
    assert given.get("until") in {None, *BEFORE, *SYSTEM, *AFTER}
    if given.get("file"):
        assert (REPOSITORY / str(given["file"])).is_file()


def parsed(words: list[str]) -> dict[str, object]:
    """Parse a command line as the program does, without running it: the options of the innermost command."""
    command, name, context = get_command(app), "anmi", None
    while True:
        context = command.make_context(name, words, parent=context)
        if not hasattr(command, "resolve_command"):
            return dict(context.params)
        words = [*context._protected_args, *context.args]
        found, command, words = command.resolve_command(context, words)
        assert command is not None
        name = found or ""


def test_a_misspelt_option_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed(["run", "--datset", "stdlib"])


@pytest.mark.parametrize("command", commands("make"), ids=by_line)
def test_make_has_the_target(command: Command) -> None:
    assert {word for word in command.words[1:] if "=" not in word} <= TARGETS


def test_commands_in_the_text_exist_too() -> None:
    known = {" ".join(path) for path in subcommands()}
    groups = {path[0] for path in subcommands() if len(path) == 2}
    for page in PAGES:
        for quoted in re.findall(r"`((?:anmi|make) [^`]*)`", prose(page)):
            program, *words = quoted.split()
            if program == "make":
                assert words[0] in TARGETS, f"{page.name}: {quoted}"
            else:
                spoken = " ".join(words[:2]) if words[0] in groups else words[0]
                assert spoken in known, f"{page.name}: {quoted}"


def subcommands() -> list[tuple[str, ...]]:
    """The commands of `anmi`, also those below another."""
    found: list[tuple[str, ...]] = []
    for name, command in get_command(app).commands.items():
        found += [(name, inner) for inner in command.commands] if hasattr(command, "commands") else [(name,)]
    return found


def test_every_command_of_anmi_is_in_the_readme() -> None:
    listed = {
        row.split("`")[1] for row in (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines() if row[:8] == "| `anmi "
    }
    assert listed == {" ".join(("anmi", *path)) for path in subcommands()}


def test_shell_blocks_hold_known_programs() -> None:
    unknown = {call.line for block in blocks("bash") for call in calls(block) if call.words[0] not in PROGRAMS}
    assert not unknown


def test_exported_variables_are_ours() -> None:
    source = (REPOSITORY / "anmi_pipeline" / "settings.py").read_text(encoding="utf-8")
    known = {*re.findall(r"ANMI_[A-Z_]+", source), "MLFLOW_TRACKING_URI"}
    for block in blocks("bash"):
        for line in block.text.splitlines():
            if line.startswith("export "):
                assert set(re.findall(r"([A-Z_]+)=", line)) <= known, f"{block.page}: {line}"
        for call in calls(block):
            assert set(call.environment) <= known, call.line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(page))
    absent = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not absent


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_the_text_exist(page: Path) -> None:
    quoted = [text for text in re.findall(r"`([^`\n]+)`", prose(page)) if PATH.match(text)]
    absent = [path for path in quoted if not any((base / path).exists() for base in (REPOSITORY, page.parent))]
    assert not absent


def test_the_file_tree_of_the_readme_exists() -> None:
    trees = [block for block in blocks("text") if block.page == "README.md"]
    listed = [line.split()[0] for block in trees for line in block.text.splitlines()]
    assert len(listed) > 15
    assert [path for path in listed if not (REPOSITORY / path).exists()] == []
    rooms = {f"anmi_pipeline/{room.parent.name}/" for room in (REPOSITORY / "anmi_pipeline").glob("*/__init__.py")}
    assert rooms <= set(listed)


def test_no_page_names_this_machine() -> None:
    here = {str(REPOSITORY), f"{Path.home()}/"}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not [name for name in here if name in text], page.name


def test_pictures_are_made_by_the_screenshot_script() -> None:
    declared = yaml.safe_load((REPOSITORY / "docs" / "screenshots.yaml").read_text(encoding="utf-8"))
    made = {f"{picture['id']}.png" for picture in declared["pictures"]}
    shown = {Path(link).name for page in PAGES for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", prose(page))}
    assert shown <= made
