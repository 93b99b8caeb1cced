"""Retrievers whose encoder is trained on text: top layers, all weights or low-rank adapters.

Belongs here: the training of a sentence-transformers model and its checkpoint. Does not: loading the base
(`retrieval/encoding.py`), losses, the loop. The gradient is exact whatever the number of texts per forward pass: embeddings are
computed in chunks without a graph, the loss gives their gradients, and each chunk is run again to carry its share back
(GradCache, Gao et al. 2021, arXiv 2101.06983). Dropout is seeded per (seed, step, chunk), so both passes and a resumed run agree.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from anmi_pipeline.errors import InputError
from anmi_pipeline.mining.curriculum import TrainingLists
from anmi_pipeline.retrieval.encoding import Encoder, Kind
from anmi_pipeline.training.config import TextTraining, TrainingConfig
from anmi_pipeline.training.loop import StepLists, Trained, Watch, run_steps
from anmi_pipeline.training.losses import Heads, loss_parts
from anmi_pipeline.training.map_retriever import bi_encoder_batch, new_heads, normalise, scalars_of
from anmi_pipeline.training.report import TrainingReport
from anmi_pipeline.training.state import StateFile
from anmi_pipeline.training.transformer_layers import merge_adapters, select_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Texts:
    """The texts of one step: each is encoded once, whatever the number of lists it stands in.

    Attributes:
        texts: distinct texts, queries first.
        kinds: query or document, one each.
    """

    texts: list[str]
    kinds: list[Kind]


def train_encoder(
    lists: TrainingLists,
    texts: Mapping[str, Mapping[str, str]],
    encoder: Encoder,
    config: TrainingConfig,
    seed: int,
    folder: Path,
    watch: Watch | None = None,
    state_folder: Path | None = None,
) -> TrainingReport:
    """Train an encoder and save it.

    Args:
        lists: compiled training set.
        texts: kind -> id -> text.
        encoder: the base encoder; it is changed in place.
        config: what is trainable, loss, steps.
        seed: training seed.
        folder: where the checkpoint goes.
        watch: who is told.
        state_folder: where the resumable state is kept; None: no state.

    Raises:
        InputError: a text is absent, or the configuration does not fit the model.
        ArtifactError: `state_folder` holds the state of another training.
    """
    import torch

    refuse_absent_texts(lists, texts)
    model = encoder.model
    trainable = "all" if config.trainable == "map" else config.trainable
    torch.manual_seed(seed)
    trained = Trained(select_weights(model, trainable, config), new_heads(config))
    model.max_seq_length = config.max_tokens
    model.train()

    def backward(rows: StepLists) -> dict[str, "Tensor"]:
        return chunked_backward(encoder, rows, lists, texts, config, trained.heads, seed)

    state = (
        StateFile(state_folder, identity_of(lists, config, seed, encoder.config.model), config.save_every)
        if state_folder
        else None
    )
    report = run_steps(trained, lists, config, seed, backward, watch or Watch(), state)
    model.eval()
    if trainable == "lora":
        merge_adapters(model)
    model.max_seq_length = encoder.config.max_tokens
    save_encoder(encoder, trained.heads, config, folder)
    if state:
        state.clear()
    return report


def refuse_absent_texts(lists: TrainingLists, texts: Mapping[str, Mapping[str, str]]) -> None:
    """Raise InputError when a query or document of the training set has no text."""
    kinds: tuple[tuple[Kind, Sequence[str]], ...] = (("query", lists.query_ids), ("document", lists.doc_ids))
    for kind, wanted in kinds:
        absent = [identifier for identifier in wanted if identifier not in texts[kind]]
        if absent:
            raise InputError(
                f"{len(absent)} {kind} text(s) of the training set are absent, first {absent[0]}. "
                "Materialize training_set again from this corpus and these queries."
            )


def identity_of(lists: TrainingLists, config: TextTraining, seed: int, base: str) -> str:
    """sha256 of everything that decides a training on text, for its state."""
    settings = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(f"{lists.digest}\n{settings}\n{seed}\n{base}".encode()).hexdigest()


def chunked_backward(
    encoder: Encoder,
    rows: StepLists,
    lists: TrainingLists,
    texts: Mapping[str, Mapping[str, str]],
    config: TrainingConfig,
    heads: Heads,
    seed: int,
) -> dict[str, "Tensor"]:
    """Add the gradient of a step to the weights, `config.chunk_texts` texts at a time."""
    import torch

    documents, place = np.unique(np.maximum(rows.document, rows.document[:, :1]), return_inverse=True)
    kinds: list[Kind] = [*["query" for _ in rows.query], *["document" for _ in documents]]
    batch = Texts(
        [texts["query"][lists.query_ids[i]] for i in rows.query] + [texts["document"][lists.doc_ids[i]] for i in documents],
        kinds,
    )
    chunks = chunk_bounds(batch, config.chunk_texts)
    with torch.no_grad():
        parts = [embed_chunk(encoder, batch, chunk, seed, rows.step) for chunk in chunks]
    vectors = torch.cat(parts).requires_grad_()
    queries = normalise(vectors[: len(rows.query)])
    embedded = normalise(vectors[len(rows.query) :])[torch.from_numpy(place.reshape(rows.document.shape))]
    loss = loss_parts(config.loss, bi_encoder_batch(queries, embedded, rows, lists, config), heads, rows.stage.alpha)
    loss["loss"].backward()
    if vectors.grad is None:
        raise InputError(f"loss {config.loss.kind} does not depend on the scores, so nothing can be trained with it.")
    for chunk in chunks:
        embed_chunk(encoder, batch, chunk, seed, rows.step).backward(vectors.grad[chunk])
    return {name: value.detach() for name, value in loss.items()}


def chunk_bounds(batch: Texts, size: int) -> list[slice]:
    """Cut the texts into runs of at most `size` of one kind, so that one prompt serves a run."""
    n_queries = batch.kinds.count("query")
    spans = ((0, n_queries), (n_queries, len(batch.texts)))
    return [slice(at, min(at + size, end)) for start, end in spans for at in range(start, end, size)]


def embed_chunk(encoder: Encoder, batch: Texts, chunk: slice, seed: int, step: int) -> "Tensor":
    """Embed one chunk with the dropout that belongs to it.

    Returns:
        (texts of the chunk, d), not normalised by us.
    """
    import torch

    prompt = encoder.prompt(batch.kinds[chunk.start])
    features = encoder.model.preprocess(batch.texts[chunk], prompt=prompt or None)
    placed = {name: value.to(encoder.device) if isinstance(value, torch.Tensor) else value for name, value in features.items()}
    draw = np.random.SeedSequence([seed, step, chunk.start]).generate_state(1, dtype=np.uint64)[0]
    torch.manual_seed(int(draw))
    with torch.autocast(encoder.device, torch.bfloat16, enabled=encoder.precision == "bfloat16"):
        return encoder.model(placed)["sentence_embedding"].float()


def save_encoder(encoder: Encoder, heads: Heads, config: TrainingConfig, folder: Path) -> None:
    """Write the encoder (safetensors, tokenizer, module files) and its scalars.

    Layout: `encoder/` is a sentence-transformers folder; `head.safetensors` and `settings.json` lie beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    encoder.model.save(str(folder / "encoder"), create_model_card=False, safe_serialization=True)
    slope, offset, scale = (np.array([value], dtype=np.float32) for value in scalars_of(heads))
    save_file({"head.slope": slope, "head.offset": offset, "student_scale": scale}, folder / "head.safetensors")
    settings = {"kind": "encoder", "normalize": True, "trainable": config.trainable}
    (folder / "settings.json").write_text(json.dumps(settings, sort_keys=True) + "\n", encoding="utf-8")
