"""Training of a cross-encoder on Elo lists.

Belongs here: the training and its checkpoint. Does not: scoring (`reranking/cross_encoder.py`), losses, the loop. Each query's
list is one group of pairs; lists are read in groups of pairs that fit `chunk_texts`, in two passes like `encoder_retriever.py`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from anmi_pipeline.errors import InputError
from anmi_pipeline.mining.curriculum import PADDING, TrainingLists
from anmi_pipeline.reranking.cross_encoder import CrossEncoder
from anmi_pipeline.training.config import CrossEncoderConfig
from anmi_pipeline.training.encoder_retriever import identity_of, refuse_absent_texts
from anmi_pipeline.training.loop import StepLists, Trained, Watch, run_steps
from anmi_pipeline.training.losses import Heads, ListBatch, loss_parts
from anmi_pipeline.training.map_retriever import new_heads, scalars_of
from anmi_pipeline.training.report import TrainingReport
from anmi_pipeline.training.state import StateFile
from anmi_pipeline.training.transformer_layers import merge_adapters, select_weights

if TYPE_CHECKING:
    from torch import Tensor


def train_cross_encoder(
    lists: TrainingLists,
    texts: Mapping[str, Mapping[str, str]],
    encoder: CrossEncoder,
    config: CrossEncoderConfig,
    seed: int,
    folder: Path,
    watch: Watch | None = None,
    state_folder: Path | None = None,
) -> TrainingReport:
    """Train a cross-encoder and save it.

    Args:
        lists: compiled training set.
        texts: kind -> id -> text.
        encoder: the cross-encoder; it is changed in place.
        config: what is trainable, loss, steps.
        seed: training seed.
        folder: where the checkpoint goes: `encoder/` (model and tokenizer), `head.safetensors`, `settings.json`.
        watch: who is told.
        state_folder: where the resumable state is kept; None: no state.

    Raises:
        InputError: a text is absent, or the configuration does not fit the model.
        ArtifactError: `state_folder` holds the state of another training.
    """
    import torch

    refuse_absent_texts(lists, texts)
    torch.manual_seed(seed)
    weights = select_weights(encoder.model, config.trainable, config)
    for name, weight in encoder.model.named_parameters():
        # Frozen or adapted, the scoring layer itself is new and must learn.
        if name.startswith(("classifier", "score")):
            weights[name] = weight.requires_grad_()
    trained = Trained(weights, logit_heads(config))
    encoder.model.train()

    def backward(rows: StepLists) -> dict[str, "Tensor"]:
        return pair_backward(encoder, rows, lists, texts, config, trained.heads, seed)

    base = config.base_model or str(getattr(encoder.model.config, "name_or_path", ""))
    state = StateFile(state_folder, identity_of(lists, config, seed, base), config.save_every) if state_folder else None
    report = run_steps(trained, lists, config, seed, backward, watch or Watch(), state)
    encoder.model.eval()
    if config.trainable == "lora":
        merge_adapters(encoder.model)
    save_cross_encoder(encoder, trained.heads, folder)
    if state:
        state.clear()
    return report


def logit_heads(config: CrossEncoderConfig) -> Heads:
    """Scalars for logits, which start on the labels' scale."""
    import torch

    heads = new_heads(config)
    return Heads(torch.tensor(1.0, requires_grad=True), heads.offset, heads.log_scale)


def pair_backward(
    encoder: CrossEncoder,
    rows: StepLists,
    lists: TrainingLists,
    texts: Mapping[str, Mapping[str, str]],
    config: CrossEncoderConfig,
    heads: Heads,
    seed: int,
) -> dict[str, "Tensor"]:
    """Add the gradient of a step to the weights, `config.chunk_texts` pairs at a time."""
    import torch

    at, place = np.nonzero(rows.document != PADDING)
    queries = [texts["query"][lists.query_ids[rows.query[i]]] for i in at]
    documents = [texts["document"][lists.doc_ids[rows.document[i, j]]] for i, j in zip(at, place, strict=True)]
    tokens = encoder.tokenize(list(zip(queries, documents, strict=True)))
    order = np.argsort([-len(row["input_ids"]) for row in tokens], kind="stable")
    chunks = [order[start : start + config.chunk_texts] for start in range(0, len(order), config.chunk_texts)]

    def logits(number: int) -> "Tensor":
        # Equal dropout in both passes and after a resume.
        torch.manual_seed(int(np.random.SeedSequence([seed, rows.step, number]).generate_state(1, dtype=np.uint64)[0]))
        return encoder.forward([tokens[member] for member in chunks[number]])

    scores = torch.zeros(rows.document.shape, device=encoder.device)
    with torch.no_grad():
        for number, members in enumerate(chunks):
            scores[torch.from_numpy(at[members]), torch.from_numpy(place[members])] = logits(number)
    scores.requires_grad_()
    tensors = [torch.from_numpy(array).to(encoder.device) for array in (rows.label, rows.weight, rows.mask)]
    loss = loss_parts(config.loss, ListBatch(scores, *tensors), heads, rows.stage.alpha)
    loss["loss"].backward()
    if scores.grad is None:
        raise InputError(f"loss {config.loss.kind} does not depend on the scores, so nothing can be trained with it.")
    for number, members in enumerate(chunks):
        logits(number).backward(scores.grad[torch.from_numpy(at[members]), torch.from_numpy(place[members])])
    return {name: value.detach() for name, value in loss.items()}


def save_cross_encoder(encoder: CrossEncoder, heads: Heads, folder: Path) -> None:
    """Write model, tokenizer, scalars and settings."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder.save(folder / "encoder")
    slope, offset, scale = (np.array([value], dtype=np.float32) for value in scalars_of(heads))
    save_file({"head.slope": slope, "head.offset": offset, "student_scale": scale}, folder / "head.safetensors")
    settings = {"kind": "cross_encoder", "max_tokens": encoder.max_tokens}
    (folder / "settings.json").write_text(json.dumps(settings, sort_keys=True) + "\n", encoding="utf-8")
