"""DPO and IPO give TRL's losses and gradients, on the batch that TRL itself made."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from amaru.align.objective import Preference
from amaru.align.reference import Live
from amaru.align.rows import ComparisonRows
from amaru.align.terms import Terms
from amaru.data.loader import collate
from amaru.models.checkpoint import load

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

PAIRS = [
    {"prompt": "5 6 7", "chosen": " 8 9 10 11 31", "rejected": " 12 13"},
    {"prompt": "15 16", "chosen": " 3 4", "rejected": " 20 21 22 30"},
    {"prompt": "17", "chosen": " 40 41 42", "rejected": " 40 44"},
]
CHOSEN = 6 + 3 + 4  # tokens, each with its end


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and its reference."""
    config = LlamaConfig(
        vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    folder = tmp_path_factory.mktemp("trl")
    for seed, name in enumerate(("model", "reference")):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder / name)
    return folder / "model", folder / "reference"


def of_trl(models: tuple[Path, Path], out: Path, **settings: object) -> tuple[torch.Tensor, LlamaForCausalLM, dict[str, torch.Tensor]]:
    from datasets import Dataset  # here, so that other tests do not wait for it
    from trl import DPOConfig, DPOTrainer

    words = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2} | {str(n): n for n in range(3, 61)}, unk_token="<pad>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    model, reference = (LlamaForCausalLM.from_pretrained(path) for path in models)
    quiet: dict = {"report_to": [], "use_cpu": True, "bf16": False, "max_length": None, "disable_tqdm": True}
    config = DPOConfig(output_dir=str(out), per_device_train_batch_size=len(PAIRS), beta=0.3, **quiet, **settings)
    trainer = DPOTrainer(model=model, ref_model=reference, args=config, train_dataset=Dataset.from_list(PAIRS), processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    return loss.detach(), model, batch


def as_rows(batch: dict[str, torch.Tensor]) -> ComparisonRows:
    """TRL's padded batch, chosen ones first, as comparisons."""
    half = len(batch["input_ids"]) // 2
    order = [place for pair in range(half) for place in (pair, half + pair)]
    ids = [batch["input_ids"][place][batch["attention_mask"][place] == 1].numpy() for place in order]
    prompts = [int(batch["completion_mask"][place].argmax()) for place in order]
    return ComparisonRows(
        np.concatenate(ids),
        np.cumsum([0, *map(len, ids)]),
        np.array(prompts),
        np.arange(0, 2 * half + 1, 2),
        np.full(2 * half, np.nan),
        np.ones(half, dtype=bool),
        tuple(f"pair {pair}" for pair in range(half)),
        {},
        {},
    )


@pytest.mark.parametrize(
    "settings, terms",
    [
        ({"loss_type": ["sigmoid"]}, Terms(beta=0.3)),
        # TRL's SFT term is a mean over the tokens of a batch, ours a mean over comparisons of sums
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.4]}, Terms(beta=0.3, sft=0.4 * len(PAIRS) / CHOSEN)),
        ({"loss_type": ["ipo"]}, Terms(method="ipo", beta=0.3, by_length=True)),
    ],
    ids=["dpo", "dpo with SFT", "ipo"],
)
def test_loss_and_gradients_are_those_of_trl(settings: dict, terms: Terms, models: tuple[Path, Path], tmp_path: Path) -> None:
    loss, theirs, batch = of_trl(models, tmp_path, **settings)
    rows, ours = as_rows(batch), load(models[0], torch.float32)
    found = Preference(rows, terms, Live(load(models[1], torch.float32)))(ours, collate(rows, range(len(rows))))
    found.total.backward()
    torch.testing.assert_close(found.total.detach(), loss, atol=1e-6, rtol=1e-6)
    assert found.total.item() != pytest.approx(np.log(2), abs=1e-3)  # they are two models
    for mine, his in ((ours.head.weight, theirs.lm_head.weight), (ours.embedding.weight, theirs.model.embed_tokens.weight)):
        torch.testing.assert_close(mine.grad, his.grad, atol=2e-7, rtol=2e-5)
