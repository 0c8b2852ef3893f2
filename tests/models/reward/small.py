"""A tokenizer that knows the control tokens of Nemotron-4, and small reward models that read with it."""

import torch
from tests.models.random_models import random_model

from amaru.data.tokenizer import Tokenizer
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.reward.attributes import HELPSTEER, PUBLISHED, Attributes
from amaru.models.reward.checkpoint import RewardModel, Said
from amaru.models.reward.head import give_head, head_bias, head_of
from amaru.models.reward.prompts import Prompts
from amaru.nn import MLP, Attention, Mamba2

SPECIAL = ("<|endoftext|>", "<|padding|>", "<extra_id_0>", "<extra_id_1>", "<extra_id_2>")
LAYERS = (Mamba2(heads=4, channels=4, groups=2, state=8), Attention(query_heads=2, kv_heads=1, channels=8), MLP(ffn=24))
TOKENIZER = Tokenizer.train(["what is two and three? it is five.\n" * 9], vocab=270, special=SPECIAL)
CONFIG = DecoderConfig(vocab=TOKENIZER.vocab_size, hidden=16, layers=LAYERS, tied=True)
FIVE = Attributes(names=HELPSTEER, weights=PUBLISHED, lowest=0.0, highest=4.0)


def said(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@torch.no_grad()
def with_head(decoder: Decoder, names: int = 5, seed: int = 0) -> Decoder:
    """Nothing of it 0, so that every part of it shows."""
    give_head(decoder, [0.0] * names)
    generator = torch.Generator().manual_seed(seed)
    head_of(decoder).weight.normal_(0, 1, generator=generator)
    head_bias(head_of(decoder)).normal_(2, 1, generator=generator)
    return decoder


def reward_model(seed: int = 0, config: DecoderConfig = CONFIG) -> RewardModel:
    decoder = with_head(random_model(config, seed), seed=seed)
    return RewardModel(decoder, Said(attributes=FIVE), Prompts(TOKENIZER, "label-prefix"))
