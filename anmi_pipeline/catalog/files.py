"""Finding and reading YAML configuration: shipped files, a user's own, `extends` and errors that name the field.

Belongs here: file lookup, deep merge, validation messages. Does not: the models themselves.
"""

from collections.abc import Hashable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.settings import Config

Model = TypeVar("Model", bound=Config)
Node = dict[str, object]


def shipped(room: str) -> Path:
    """Folder of the shipped files of a kind (datasets, recipes)."""
    return Path(str(resources.files("anmi_pipeline"))) / "conf" / room


def names(room: str, conf: Path | None) -> list[str]:
    """Names of all files of a kind, shipped and the user's, sorted."""
    folders = [shipped(room), *([conf / room] if conf else [])]
    return sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")})


def locate(room: str, name: str, conf: Path | None, *, where: Path | None = None, above: Path | None = None) -> Path:
    """The file of a name; a user's file stands above a shipped one.

    Args:
        room: kind of file (datasets, recipes).
        name: name of the file.
        conf: the user's configuration folder.
        where: file that gives the name, for the message.
        above: file that stands above the wanted one, so that a user's scifact may extend the shipped scifact.

    Raises:
        InputError: there is none; the nearest name is offered.
    """
    candidates = [*([conf / room / f"{name}.yaml"] if conf else []), shipped(room) / f"{name}.yaml"]
    for path in candidates:
        if path.is_file() and (above is None or path.resolve() != above.resolve()):
            return path
    if above is not None and name == above.stem:
        raise InputError(f"{above}: extends goes in a circle: {name} -> {name}.")
    source = "" if where is None else f"{where}: "
    raise InputError(f'{source}unknown {room.removesuffix("s")} "{name}".{nearest(name, names(room, conf))}')


def read_yaml(path: Path) -> Node:
    """One YAML mapping.

    Raises:
        InputError: not there, not UTF-8, not YAML, a key given twice, or not a mapping; with line and column.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Give a YAML file that is there.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: byte {error.start}. Save it as UTF-8.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise InputError(f"{path}{place}: not YAML: {error.problem or error.context}. Correct the line.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(value, dict):
        found = "nothing" if value is None else type(value).__name__
        raise InputError(f"{path} must hold a mapping of settings, such as `description: ...`; it holds {found}.")
    return cast("Node", value)


class UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, which would take the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that stands twice in one mapping."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f'key "{key.value}" stands twice', key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def resolve(room: str, path: Path, conf: Path | None) -> tuple[Node, list[str]]:
    """A file merged over the files it extends.

    Returns:
        the merged settings without `extends`, and the chain of names, this file first and the root last.

    Raises:
        InputError: an unknown or circular `extends`.
    """
    merged: Node = {}
    chain: list[Path] = []
    current: Path | None = path
    while current is not None:
        if current.resolve() in chain:
            names_of = [link.stem for link in (*chain, current)]
            raise InputError(f"{path}: extends goes in a circle: {' -> '.join(names_of)}.")
        chain.append(current.resolve())
        node = read_yaml(current)
        parent = node.pop("extends", None)
        merged = merge(node, merged)
        current = locate(room, str(parent), conf, where=current, above=current) if parent is not None else None
    return merged, [link.stem for link in chain]


def merge(below: Mapping[str, object], above: Mapping[str, object]) -> Node:
    """Deep merge of mappings; lists and scalars of `above` replace those of `below`.

    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    result: Node = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            result[key] = merge(cast("Node", old), cast("Node", value))
        else:
            result[key] = value
    return result


def parse(model: type[Model], node: Mapping[str, object], where: str) -> Model:
    """Validate settings.

    Raises:
        InputError: names the field, its value, what was expected and, for an unknown field, the nearest valid one.
    """
    try:
        return model.model_validate(node)
    except ValidationError as error:
        # A misspelt field that is needed is both missing and unknown: the misspelling helps more.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        location = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise InputError(f'{where}: field "{location}" is missing. Add it.') from error
        if first["type"] == "extra_forbidden":
            known = fields_at(model, first["loc"][:-1])
            raise InputError(f'{where}: unknown field "{location}".{nearest(str(first["loc"][-1]), known)}') from error
        raise InputError(f'{where}: field "{location}": {first["msg"]} (found {first["input"]!r:.80}).') from error


def fields_at(model: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    """Field names of the model that a validation location points into.

    Discriminated unions add their tag to the location; a step that names no field narrows to the members with that tag.
    """
    models = [model]
    for step in location:
        below = [
            inner for outer in models if (field := outer.model_fields.get(str(step))) for inner in models_in(field.annotation)
        ]
        tagged = [one for one in models if str(step) in tags(one)]
        models = below or tagged or models
    return sorted({name for one in models for name in one.model_fields})


def models_in(annotation: object) -> list[type[BaseModel]]:
    """The pydantic models inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    arguments = cast("tuple[object, ...]", getattr(annotation, "__args__", ()))
    return [model for argument in arguments for model in models_in(argument)]


def tags(model: type[BaseModel]) -> set[str]:
    """Values of a model's one-valued literal fields: the tags of a discriminated union."""
    literals = (getattr(field.annotation, "__args__", ()) for field in model.model_fields.values())
    return {str(values[0]) for values in literals if len(values) == 1}
