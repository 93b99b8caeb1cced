"""Logging the search model to MLflow.

Belongs here: signature, example and the call that logs a package. Does not: choosing the tracking server or the run
(`tracking.py`, `defs/`): the active ones are used.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from anmi_pipeline import __version__
from anmi_pipeline.serving.config import DEFAULT_HITS, HIT_COLUMNS, PackageSettings
from anmi_pipeline.serving.pipeline import read_settings

if TYPE_CHECKING:
    from mlflow.models.model import ModelInfo
    from mlflow.models.signature import ModelSignature

MODEL_FILE = Path(__file__).with_name("pyfunc_model.py")
PINNED = ("torch", "sentence-transformers", "polars", "faiss-cpu", "bm25s")
"""Packages whose version can change an answer; written down as requirements of the logged model."""


def search_signature(settings: PackageSettings) -> "ModelSignature":
    """Describe input (query, and group for scope group), output (hits) and the parameter k."""
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    kinds = {"rank": DataType.long, "score": DataType.double}
    asked = ("query", "group") if settings.scope == "group" else ("query",)
    inputs: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, name) for name in asked]
    outputs: list[ColSpec | TensorSpec] = [ColSpec(kinds.get(name, DataType.string), name) for name in HIT_COLUMNS]
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema([ParamSpec("k", DataType.long, DEFAULT_HITS)]))


def requirements() -> list[str]:
    """List this package and what it answers with, at the installed versions."""
    found = [f"anmi-pipeline=={__version__}"]
    for name in PINNED:
        try:
            found.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            continue
    return found


def log_search_model(
    package: Path, name: str = "search_model", registered_name: str | None = None, tags: dict[str, str] | None = None
) -> "ModelInfo":
    """Log a search package as an MLflow model in the active run.

    Args:
        package: folder that `write_search_package` wrote.
        name: name of the model within the run.
        registered_name: name in the model registry; None: not registered.
        tags: tags of the logged model; the settings' origin is added.

    Returns:
        MLflow's description of the logged model; its `model_uri` loads it.

    Raises:
        ArtifactError: the folder is no search package.
    """
    import mlflow

    settings = read_settings(package)
    return mlflow.pyfunc.log_model(
        name=name,
        python_model=str(MODEL_FILE),
        artifacts={"package": str(package)},
        signature=search_signature(settings),
        pip_requirements=requirements(),
        registered_model_name=registered_name,
        tags={**settings.origin, **(tags or {}), "system": settings.system},
    )
