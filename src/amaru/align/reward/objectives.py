"""What training a reward model minimises: the squared error of its attributes, or the surprise at which of two answers is better."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from amaru.align.reward.rows import RewardBatch
from amaru.data.loader import TrainingBatch
from amaru.models.decoder import Decoder
from amaru.models.loss import Loss
from amaru.models.reward.head import rewards
from amaru.nn.batch import Batch


@dataclass(frozen=True)
class Regression:
    """`Regression()(model, batch).total`: the mean of (prediction - label)^2 over the labels that there are.

    A label that is missing has no part in the loss, and no gradient.
    """

    def __call__(self, model: Decoder, batch: TrainingBatch, /) -> Loss:
        batch = cast(RewardBatch, batch)
        return Loss(total=squared_errors(predicted(model, batch), batch.labels).sum() / batch.count, tokens=batch.count)


@dataclass(frozen=True)
class BradleyTerry:
    """`BradleyTerry()(model, batch).total`: the mean of -log sigmoid(reward of the better - reward of the worse), in nats a pair."""

    def __call__(self, model: Decoder, batch: TrainingBatch, /) -> Loss:
        batch = cast(RewardBatch, batch)
        gaps = gaps_of(predicted(model, batch))
        right = (gaps > 0).double().mean().item()
        return Loss(total=-logsigmoid(gaps).mean(), tokens=batch.count, parts={"accuracy": right})


def predicted(model: Decoder, batch: RewardBatch) -> Tensor:
    """[sequences, attributes] in at least fp32."""
    return rewards(model, Batch(batch.ids, batch.positions, batch.cu_seqlens))


def squared_errors(predictions: Tensor, labels: Tensor) -> Tensor:
    """[sequences, attributes], 0 where there is no label; NaN never enters the arithmetic, whose gradient it would reach."""
    given = labels.isfinite()
    wanted = torch.where(given, labels, 0.0).to(predictions.dtype)
    return torch.where(given, predictions - wanted, 0.0).square()


def gaps_of(predictions: Tensor) -> Tensor:
    """[pairs]: by how much the better answer is scored higher."""
    better, worse = predictions[:, 0].view(-1, 2).unbind(1)
    return better - worse
