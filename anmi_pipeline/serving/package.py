"""The search package: one folder with everything a system needs to answer.

Belongs here: writing the folder and naming its parts. Does not: answering (`pipeline.py`).

Layout: `package.json` (settings), `corpus.parquet` (texts of the hits), `lexical/` (BM25 index), `vectors.npy` + `doc_ids.json`
(what queries are compared with), `index/` (approximate index in place of the vectors), `encoder/` (base encoder), `checkpoint/`.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.retrieval.lexical import LexicalIndex
from anmi_pipeline.retrieval.weights import MODEL_FILES, resolve_model
from anmi_pipeline.serving.config import USES_CHECKPOINT, USES_VECTORS, PackageSettings

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embedded:
    """Document vectors of the packaged system: the base encoder's, or a retriever's own.

    Attributes:
        doc_ids: (n_docs,) ids.
        vectors: (n_docs, d) float32.
    """

    doc_ids: Sequence[str]
    vectors: Vectors


def write_search_package(
    folder: Path,
    settings: PackageSettings,
    corpus: pl.DataFrame,
    *,
    lexical: LexicalIndex | None = None,
    embedded: Embedded | None = None,
    index: Path | None = None,
    checkpoint: Path | None = None,
    include_encoder: bool = True,
) -> None:
    """Write a package. Equal inputs give equal bytes.

    Args:
        folder: absent or empty folder.
        settings: what is packaged.
        corpus: CORPUS frame.
        lexical: BM25 index; required where the settings use one.
        embedded: document vectors; required for systems that embed, unless `index` is given.
        index: folder of a saved nearest-neighbour index over those vectors, searched in their place.
        checkpoint: folder of one seed's checkpoint; required for trained systems.
        include_encoder: copy the base encoder's files, so that the package runs where the model is not installed; a model that is
            only a Hugging Face id cannot be copied and is fetched when the package is loaded.

    Raises:
        InputError: a part that the system needs is not given, or the folder has content.
    """
    missing = missing_parts(settings, lexical, embedded, index, checkpoint)
    if missing:
        raise InputError(
            f"system {settings.system} (kind {settings.kind}) cannot be packaged without its {' and '.join(missing)}."
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"package folder {folder} is not empty; give a new folder, so that no old part stays in the package.")
    folder.mkdir(parents=True, exist_ok=True)
    corpus.select("doc_id", "title", "text", "group_id").sort("doc_id").write_parquet(folder / "corpus.parquet")
    if lexical is not None and settings.needs_lexical:
        lexical.save(folder / "lexical")
    if settings.kind in USES_VECTORS:
        write_vectors(folder, embedded, index)
        if include_encoder and not holds_encoder(checkpoint, settings):
            copy_encoder(settings, folder / "encoder")
    if checkpoint is not None and settings.kind in USES_CHECKPOINT:
        shutil.copytree(checkpoint, folder / "checkpoint")
    # Last: a folder with package.json is a whole package.
    (folder / "package.json").write_text(settings.model_dump_json(indent=1) + "\n", encoding="utf-8")


def missing_parts(
    settings: PackageSettings,
    lexical: LexicalIndex | None,
    embedded: Embedded | None,
    index: Path | None,
    checkpoint: Path | None,
) -> list[str]:
    """Name the parts that the settings need and that were not given."""
    needs = {
        "lexical index": settings.needs_lexical and lexical is None,
        "document vectors or index": settings.kind in USES_VECTORS and embedded is None and index is None,
        "checkpoint": settings.kind in USES_CHECKPOINT and checkpoint is None,
    }
    return [part for part, missing in needs.items() if missing]


def write_vectors(folder: Path, embedded: Embedded | None, index: Path | None) -> None:
    """Write the index when there is one, else the vectors with their ids in id order."""
    if index is not None:
        shutil.copytree(index, folder / "index")
    elif embedded is not None:
        order = sorted(range(len(embedded.doc_ids)), key=embedded.doc_ids.__getitem__)
        np.save(folder / "vectors.npy", np.ascontiguousarray(embedded.vectors[order], dtype=np.float32), allow_pickle=False)
        ids = [embedded.doc_ids[place] for place in order]
        (folder / "doc_ids.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")


def holds_encoder(checkpoint: Path | None, settings: PackageSettings) -> bool:
    """Whether a retriever's checkpoint brings a whole encoder of its own, so that the base is not needed."""
    return settings.kind == "retriever" and checkpoint is not None and (checkpoint / "encoder").is_dir()


def copy_encoder(settings: PackageSettings, target: Path) -> None:
    """Copy the files of the base encoder that can change an answer, when it is a local folder."""
    if settings.encoder is None:
        return
    place = Path(resolve_model(settings.encoder.model, settings.encoder.revision))
    if not place.is_dir():
        return
    for file in sorted({file for pattern in MODEL_FILES for file in place.rglob(pattern)}):
        copy = target / file.relative_to(place)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
