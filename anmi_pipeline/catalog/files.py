"""Finding and reading YAML configuration: shipped files, a user's own, `extends` and errors that name the field.

Belongs here: file lookup, deep merge, validation messages. Does not: the models themselves.
"""

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import TypeVar, cast

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


def locate(room: str, name: str, conf: Path | None) -> Path:
    """The file of a name; a user's file stands above a shipped one.

    Raises:
        InputError: there is none; the nearest name is offered.
    """
    candidates = [*([conf / room / f"{name}.yaml"] if conf else []), shipped(room) / f"{name}.yaml"]
    for path in candidates:
        if path.is_file():
            return path
    raise InputError(f'unknown {room.removesuffix("s")} "{name}".{nearest(name, names(room, conf))}')


def read_yaml(path: Path) -> Node:
    """One YAML mapping.

    Raises:
        InputError: not UTF-8, not YAML, or not a mapping; with line and column.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: byte {error.start}. Save it as UTF-8.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a mapping of settings, not {type(value).__name__}.")
    return cast("Node", value)


def resolve(room: str, path: Path, conf: Path | None) -> tuple[Node, list[str]]:
    """A file merged over the files it extends.

    Returns:
        the merged settings without `extends`, and the chain of names, this file first and the root last.

    Raises:
        InputError: an unknown or circular `extends`.
    """
    merged: Node = {}
    chain: list[str] = []
    current: Path | None = path
    while current is not None:
        if current.stem in chain:
            raise InputError(f"{path}: extends goes in a circle: {' -> '.join([*chain, current.stem])}.")
        chain.append(current.stem)
        node = read_yaml(current)
        parent = node.pop("extends", None)
        merged = merge(node, merged)
        current = locate(room, str(parent), conf) if parent is not None else None
    return merged, chain


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
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"])
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
