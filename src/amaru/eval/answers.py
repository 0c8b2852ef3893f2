"""How well a model answers: loss and accuracy on the tokens of answers, and how many answers it would give word for word."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from amaru.config import Config
from amaru.data.loader import TrainingBatch
from amaru.data.packing import IGNORED
from amaru.errors import DataError
from amaru.models.decoder import Decoder
from amaru.nn.batch import Batch


class Answers(Config):
    """Of `count` conversations with `tokens` learned tokens.

    loss      nats per token
    accuracy  share of tokens that have the highest logit
    exact     share of conversations in which all have it: greedy decoding would say them word for word
    """

    count: int
    tokens: int
    loss: float
    accuracy: float
    exact: float


@torch.inference_mode()
def answers(decoder: Decoder, batches: Iterable[TrainingBatch]) -> Answers:
    """`answers(decoder, in_order(rows, 8)).exact`, of rows of conversations; raises `DataError` where nothing is learned."""
    count = tokens = correct = exact = 0
    nats = 0.0
    for batch in batches:
        counted = batch.targets != IGNORED
        inputs = Batch(batch.ids, batch.positions, batch.cu_seqlens).to(decoder.embedding.weight.device)
        logits = decoder.logits(decoder.hidden_states(inputs)[counted.to(inputs.ids.device)]).cpu()
        wanted = batch.targets[counted]
        right = logits.argmax(-1) == wanted
        nats += float(F.cross_entropy(logits, wanted, reduction="none").double().sum())
        of = torch.bucketize(counted.nonzero()[:, 0], batch.cu_seqlens, right=True)  # which conversation each token belongs to
        asked, wrong = of.unique(), of[~right].unique()
        count, exact = count + len(asked), exact + len(asked) - len(wrong)
        tokens, correct = tokens + len(wanted), correct + int(right.sum())
    if not tokens:
        raise DataError("There is no answer to judge; give conversations with an assistant's turn.")
    return Answers(count=count, tokens=tokens, loss=nats / tokens, accuracy=correct / tokens, exact=exact / count)
