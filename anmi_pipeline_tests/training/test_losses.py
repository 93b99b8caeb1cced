"""Losses: equations against torch, ties, absence, gradients, refusal of raw Elo."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

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
from anmi_pipeline.training.losses import Heads, ListBatch, listwise_kl, loss_parts, margin_mse, soft_infonce, weighted_infonce

EVERY: list[LossConfig] = [
    HybridLoss(),
    ListwiseKlLoss(),
    ListwiseKlLoss(positives="drawn"),
    InfoNceLoss(),
    MseLoss(),
    MarginMseLoss(),
    BceLoss(),
]


def heads() -> Heads:
    values = (3.0, 0.1, math.log(5.0))
    return Heads(*(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values))


def batch_of(seed: int, b: int = 4, n: int = 6, m: int = 3) -> ListBatch:
    draw = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    mask = uniform(b, n) > 0.3
    mask[:, 0] = True
    return ListBatch(
        scores=2 * uniform(b, n) - 1,
        labels=4 * uniform(b, n) - 2,
        weights=uniform(b, n) * mask,
        mask=mask,
        in_batch=2 * uniform(b, m) - 1,
        in_batch_mask=uniform(b, m) > 0.4,
    )


@pytest.mark.parametrize("seed", range(3))
def test_infonce_with_weight_one_is_cross_entropy(seed: int):
    batch = batch_of(seed)
    full = replace(batch, weights=torch.ones_like(batch.weights), mask=torch.ones_like(batch.mask), in_batch=None)
    expected = cross_entropy(20 * full.scores, torch.zeros(4, dtype=torch.long))
    assert torch.allclose(weighted_infonce(full, 20.0), expected)


@pytest.mark.parametrize("seed", range(3))
def test_weighted_infonce_against_the_equation(seed: int):
    batch = batch_of(seed)
    losses = []
    for i in range(4):
        positive = math.exp(5 * batch.scores[i, 0])
        rest = sum(batch.weights[i, j] * math.exp(5 * batch.scores[i, j]) for j in range(1, 6) if batch.mask[i, j])
        rest += sum(math.exp(5 * batch.in_batch[i, j]) for j in range(3) if batch.in_batch_mask[i, j])
        losses.append(-math.log(positive / (positive + rest)))
    assert float(weighted_infonce(batch, 5.0)) == pytest.approx(sum(losses) / 4)


def test_hybrid_at_alpha_one_is_infonce_and_at_zero_is_mse():
    batch = batch_of(0)
    infonce, mse = (loss_parts(loss, batch, heads(), 1.0)["loss"] for loss in (InfoNceLoss(), MseLoss()))
    assert torch.allclose(loss_parts(HybridLoss(), batch, heads(), 1.0)["loss"], infonce)
    assert torch.allclose(loss_parts(HybridLoss(), batch, heads(), 0.0)["loss"], mse)
    parts = loss_parts(HybridLoss(), batch, heads(), 0.7)
    assert torch.allclose(parts["loss"], 0.7 * infonce + 0.3 * mse)
    assert set(parts) == {"loss", "infonce", "mse"}


def test_soft_infonce_with_a_certain_teacher_is_infonce():
    batch = batch_of(2)
    certain = torch.full_like(batch.labels, -40.0)
    certain[:, 0] = 40.0
    plain = replace(batch, weights=torch.ones_like(batch.weights))
    assert torch.allclose(soft_infonce(replace(batch, labels=certain), 2.3, 20.0), weighted_infonce(plain, 20.0))


def test_soft_infonce_against_the_equation():
    batch = batch_of(4)
    losses = []
    for i in range(4):
        own = [j for j in range(6) if batch.mask[i, j]]
        total = sum(math.exp(7 * batch.scores[i, j]) for j in own)
        total += sum(math.exp(7 * batch.in_batch[i, j]) for j in range(3) if batch.in_batch_mask[i, j])
        teacher = [math.exp(2 * batch.labels[i, j]) for j in own]
        losses.append(
            -sum(p / sum(teacher) * (7 * float(batch.scores[i, j]) - math.log(total)) for p, j in zip(teacher, own, strict=True))
        )
    assert float(soft_infonce(batch, 2.0, 7.0)) == pytest.approx(sum(losses) / 4)


def test_kl_is_zero_for_the_teachers_own_scores_and_positive_otherwise():
    batch = batch_of(1)
    own = replace(batch, scores=batch.labels * 2.3 / 7.0)
    assert float(listwise_kl(own, 2.3, torch.tensor(7.0))) == pytest.approx(0.0, abs=1e-9)
    assert float(listwise_kl(batch, 2.3, torch.tensor(7.0))) > 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-3, 3), st.sampled_from(EVERY))
def test_ranking_losses_do_not_see_a_query_constant(seed: int, shift: float, loss: LossConfig):
    if isinstance(loss, MseLoss | BceLoss | HybridLoss):
        return
    batch = batch_of(seed)
    assert batch.in_batch is not None
    moved = replace(batch, scores=batch.scores + shift, in_batch=batch.in_batch + shift, labels=batch.labels + shift)
    first, second = (loss_parts(loss, one, heads(), 1.0)["loss"] for one in (batch, moved))
    assert torch.allclose(first, second, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(EVERY))
def test_masked_documents_are_absent(seed: int, loss: LossConfig):
    batch = batch_of(seed)
    other = torch.where(batch.mask, batch.scores, 0.77)
    garbage = replace(batch, scores=other, labels=torch.where(batch.mask, batch.labels, -9.0))
    first, second = (loss_parts(loss, one, heads(), 0.6)["loss"] for one in (batch, garbage))
    assert torch.allclose(first, second)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_weight_zero_equals_absence(seed: int):
    batch = batch_of(seed)
    drop = batch.weights > 0.5
    drop[:, 0] = False
    silenced = replace(batch, weights=torch.where(drop, 0.0, batch.weights))
    absent = replace(batch, mask=batch.mask & ~drop)
    assert torch.allclose(weighted_infonce(silenced, 20.0), weighted_infonce(absent, 20.0))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(EVERY), st.permutations(range(1, 6)))
def test_order_of_the_negatives_does_not_matter(seed: int, loss: LossConfig, order: list[int]):
    batch = batch_of(seed)
    place = [0, *order]
    moved = replace(
        batch,
        scores=batch.scores[:, place],
        labels=batch.labels[:, place],
        weights=batch.weights[:, place],
        mask=batch.mask[:, place],
    )
    first, second = (loss_parts(loss, one, heads(), 0.6)["loss"] for one in (batch, moved))
    assert torch.allclose(first, second)


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: loss.kind)
@pytest.mark.parametrize("case", ["ties", "one document", "no in-batch", "weight 0", "500 documents"])
def test_degenerate_lists_give_finite_loss_and_gradient(loss: LossConfig, case: str):
    batch = batch_of(3)
    if case == "ties":
        batch = replace(batch, scores=torch.zeros_like(batch.scores), labels=torch.zeros_like(batch.labels))
    if case == "one document":
        alone = torch.zeros_like(batch.mask)
        alone[:, 0] = True
        batch = replace(batch, mask=alone, in_batch=None, in_batch_mask=None)
    if case == "no in-batch":
        batch = replace(batch, in_batch_mask=torch.zeros_like(batch.in_batch_mask))
    if case == "weight 0":
        batch = replace(batch, weights=torch.zeros_like(batch.weights))
    if case == "500 documents":
        batch = batch_of(3, n=500)
    scores = batch.scores.clone().requires_grad_()
    scalars = heads()
    value = loss_parts(loss, replace(batch, scores=scores), scalars, 0.6)["loss"]
    value.backward()
    assert torch.isfinite(value)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert all(
        scalar.grad is None or torch.isfinite(scalar.grad) for scalar in (scalars.slope, scalars.offset, scalars.log_scale)
    )


def test_margin_mse_without_a_negative_is_zero():
    batch = batch_of(0)
    alone = torch.zeros_like(batch.mask)
    alone[:, 0] = True
    assert float(margin_mse(replace(batch, mask=alone), heads())) == 0.0


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: loss.kind)
def test_gradients(loss: LossConfig):
    batch, scalars = batch_of(5), heads()

    def value(scores: torch.Tensor, slope: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
        return loss_parts(loss, replace(batch, scores=scores), Heads(slope, scalars.offset, log_scale), 0.6)["loss"]

    assert torch.autograd.gradcheck(value, (batch.scores.clone().requires_grad_(), scalars.slope, scalars.log_scale))


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: loss.kind)
def test_raw_elo_is_refused(loss: LossConfig):
    batch = replace(batch_of(0), labels=torch.linspace(1180, 1912, 24).reshape(4, 6))
    with pytest.raises(
        InputError, match=rf"loss {loss.kind} got labels from 1180 to 1912 \(raw Elo\)\. Set the label transform to"
    ):
        loss_parts(loss, batch, heads(), 0.6)


def test_labels_that_are_not_finite_are_refused():
    batch = batch_of(0)
    with pytest.raises(InputError, match="got labels from nan to nan"):
        loss_parts(MseLoss(), replace(batch, labels=batch.labels * float("nan")), heads(), 0.6)
