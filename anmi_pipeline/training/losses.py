"""The training losses: pure functions of a batch of lists.

Belongs here: equations on tensors and the batch they read. Does not: models, optimisers, where lists come from. Shapes: b lists
(one per query) of l documents, the positive in column 0; masked places are ignored by every loss.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anmi_pipeline.errors import InputError
from anmi_pipeline.training.config import (
    BceLoss,
    HybridLoss,
    InfoNceLoss,
    ListwiseKlLoss,
    LossConfig,
    MarginMseLoss,
    MseLoss,
)

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_LABEL = 50.0
"""A label beyond this is not scaled: z scores and Elo / 400 stay within 10, raw Elo is near 1500."""


@dataclass(frozen=True)
class ListBatch:
    """What a loss sees.

    Attributes:
        scores: (b, l) model scores; cosines for bi-encoders, logits for cross-encoders.
        labels: (b, l) scaled labels.
        weights: (b, l) contrastive weights, 0..1; the positive's is ignored.
        mask: (b, l) True where there is a document; column 0 always is.
        in_batch: (b, m) scores of each query against documents of other queries, or None.
        in_batch_mask: (b, m) True where such a document is a negative of the query.
    """

    scores: "Tensor"
    labels: "Tensor"
    weights: "Tensor"
    mask: "Tensor"
    in_batch: "Tensor | None" = None
    in_batch_mask: "Tensor | None" = None


@dataclass(frozen=True)
class Heads:
    """Trainable scalars that live in the model and are saved with it.

    Attributes:
        slope: of the affine head that maps scores to labels.
        offset: of the same head.
        log_scale: logarithm of the student scale of the listwise loss.
    """

    slope: "Tensor"
    offset: "Tensor"
    log_scale: "Tensor"


def loss_parts(loss: LossConfig, batch: ListBatch, heads: Heads, alpha: float) -> dict[str, "Tensor"]:
    """Compute a loss and its parts.

    Args:
        loss: which one, with its constants.
        batch: the lists.
        heads: trainable scalars.
        alpha: contrastive share of the hybrid loss at this step.

    Returns:
        "loss" (scalar, to be minimised) and, by name, the parts it is made of.

    Raises:
        InputError: labels are not finite or look like raw Elo.
    """
    refuse_raw_labels(loss.kind, batch)
    if isinstance(loss, HybridLoss):
        contrast = weighted_infonce(batch, loss.scale)
        regression = head_mse(batch, heads)
        return {"loss": alpha * contrast + (1 - alpha) * regression, "infonce": contrast, "mse": regression}
    if isinstance(loss, ListwiseKlLoss):
        divergence = listwise_kl(batch, loss.temperature, heads.log_scale.exp())
        if not loss.infonce_weight:
            return {"loss": divergence, "kl": divergence}
        soft = loss.positives == "soft"
        contrast = soft_infonce(batch, loss.temperature, loss.scale) if soft else weighted_infonce(batch, loss.scale)
        return {"loss": divergence + loss.infonce_weight * contrast, "kl": divergence, "infonce": contrast}
    return {"loss": single_loss(loss, batch, heads)}


def single_loss(loss: InfoNceLoss | MseLoss | MarginMseLoss | BceLoss, batch: ListBatch, heads: Heads) -> "Tensor":
    """The losses of one term."""
    if isinstance(loss, InfoNceLoss):
        return weighted_infonce(batch, loss.scale)
    if isinstance(loss, MseLoss):
        return head_mse(batch, heads)
    return margin_mse(batch, heads) if isinstance(loss, MarginMseLoss) else soft_bce(batch, heads)


def refuse_raw_labels(kind: str, batch: ListBatch) -> None:
    """Raise InputError when the labels are not on a scale a loss can read."""
    low, high = (float(value) for value in batch.labels.aminmax())
    if low >= -LARGEST_LABEL and high <= LARGEST_LABEL:
        return
    guess = " (raw Elo)" if high > LARGEST_LABEL else ""
    raise InputError(
        f"loss {kind} got labels from {low:.6g} to {high:.6g}{guess}. Set the label transform to elo_400 (Elo / 400), z or unit."
    )


def weighted_infonce(batch: ListBatch, scale: float) -> "Tensor":
    """Weighted InfoNCE, mean over lists.

    Equation: -log[exp(k s+) / (exp(k s+) + sum_i w_i exp(k s_i))], k = `scale` = 1 / tau (ANMI 2.0 report; Oord et al. 2018,
    arXiv 1807.03748, eq. 4 with weights). In-batch negatives have weight 1. Weight 0 equals absence; a list without negatives
    contributes 0.
    """
    import torch

    used = batch.mask & (batch.weights > 0)
    used[:, 0] = True
    # log w is added to the logit; where w is 0 the logit is masked, so log(0) never enters the graph.
    log_weight = torch.where(used, batch.weights, 1.0).log()
    log_weight[:, 0] = 0.0
    logits = (scale * batch.scores + log_weight).masked_fill(~used, -torch.inf)
    if batch.in_batch is not None and batch.in_batch_mask is not None:
        others = (scale * batch.in_batch).masked_fill(~batch.in_batch_mask, -torch.inf)
        logits = torch.cat([logits, others], dim=1)
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()


def soft_infonce(batch: ListBatch, temperature: float, scale: float) -> "Tensor":
    """InfoNCE whose positive is the teacher's distribution over the list, mean over lists.

    Equation: -sum_i p_i log[exp(k s_i) / (sum_j exp(k s_j) + sum_m exp(k s_m))], p = softmax(T y), j over the list, m over
    in-batch documents, k = `scale`. Ours: the positive is averaged over p instead of drawn, because the document with the highest
    Elo is often the wrong one when few pairs were asked. With a certain teacher it is plain InfoNCE. Contrastive weights are not
    used, the teacher grades the documents instead.
    """
    import torch

    floor = -1e4
    teacher = (temperature * batch.labels).masked_fill(~batch.mask, floor).softmax(dim=1)
    logits = (scale * batch.scores).masked_fill(~batch.mask, floor)
    if batch.in_batch is not None and batch.in_batch_mask is not None:
        logits = torch.cat([logits, (scale * batch.in_batch).masked_fill(~batch.in_batch_mask, floor)], dim=1)
    return -(teacher * logits.log_softmax(dim=1)[:, : teacher.shape[1]]).sum(dim=1).mean()


def head_mse(batch: ListBatch, heads: Heads) -> "Tensor":
    """Mean squared error of the affine head against the labels, mean over documents (zELO, arXiv 2509.12541, with z-Elo).

    Equation: mean_ij (a s_ij + c - y_ij)^2 over documents that are there.
    """
    error = (heads.slope * batch.scores + heads.offset - batch.labels) ** 2
    return error[batch.mask].mean()


def margin_mse(batch: ListBatch, heads: Heads) -> "Tensor":
    """Margin MSE, mean over negatives (Hofstaetter et al. 2020, arXiv 2010.02666, eq. 3), with a learnt slope.

    Equation: mean_i (a (s+ - s_i) - (y+ - y_i))^2 over the negatives that are there; 0 when there is none.
    """
    present = batch.mask[:, 1:]
    margin = heads.slope * (batch.scores[:, :1] - batch.scores[:, 1:])
    error = (margin - (batch.labels[:, :1] - batch.labels[:, 1:])) ** 2
    return (error * present).sum() / present.sum().clamp(min=1)


def listwise_kl(batch: ListBatch, temperature: float, student_scale: "Tensor") -> "Tensor":
    """KL divergence from the Elo distribution of a list to the student's, mean over lists.

    Equation: sum_i p_i (log p_i - log q_i), p = softmax(T y), q = softmax(k s). With y = Elo / 400 and T = ln 10 = 2.3, p is the
    Bradley-Terry-Luce choice probability. k is learnt: fixed at 20 on cosines it forces margins that the labels do not support.
    """
    import torch

    # A finite floor instead of -inf keeps p log p at masked places 0 rather than NaN.
    floor = -1e4
    teacher = (temperature * batch.labels).masked_fill(~batch.mask, floor).log_softmax(dim=1)
    student = (student_scale * batch.scores).masked_fill(~batch.mask, floor).log_softmax(dim=1)
    return torch.where(batch.mask, teacher.exp() * (teacher - student), 0.0).sum(dim=1).mean()


def soft_bce(batch: ListBatch, heads: Heads) -> "Tensor":
    """Binary cross-entropy against soft targets, mean over documents.

    Equation: mean_ij BCE(sigmoid(a s_ij + c), sigmoid(y_ij)).
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    logits = heads.slope * batch.scores + heads.offset
    return binary_cross_entropy_with_logits(logits[batch.mask], batch.labels.sigmoid()[batch.mask])
