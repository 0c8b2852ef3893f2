"""Reward models: the text to the byte, the head against transformers, the sum against its published example, and what is on disk."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from tests.models.random_models import random_config, random_hymba, random_llama, random_model, random_nemotron4, random_own
from tests.models.reward.small import CONFIG, FIVE, TOKENIZER, reward_model, said, with_head

from amaru.cli.main import main
from amaru.data.templates import CHATML
from amaru.data.tokenizer import Tokenizer
from amaru.errors import CheckpointError, ConfigError, DataError
from amaru.models import checkpoint
from amaru.models.reward import Attributes, Scorer, scorer
from amaru.models.reward.attributes import HELPSTEER, LEGACY, PUBLISHED, weights_of
from amaru.models.reward.checkpoint import Said, is_reward, load, save, trunk
from amaru.models.reward.head import head_bias, head_of, rewards
from amaru.models.reward.prompts import SYSTEM, Prompts
from amaru.nn.batch import Batch

TALK = [
    *said("two and three?", "five."),
    {"role": "user", "content": "<extra_id_2>is it\n"},
    {"role": "assistant", "content": " it is"},
]


def test_the_published_sum() -> None:
    example = [1.6171875, 1.6484375, 3.3125, 0.546875, 0.515625]
    assert FIVE.scalar(example) == pytest.approx(3.315625, abs=1e-12)
    nine = Attributes(names=(*LEGACY, *HELPSTEER), weights=weights_of((*LEGACY, *HELPSTEER), None), unused=LEGACY)
    assert [nine.weights[name] for name in nine.names] == [0, 0, 0, 0, 0.30, 0.74, 0.46, 0.47, -0.33]
    assert nine.scalar([9.0, -7.0, 1e3, 2.0, *example]) == pytest.approx(3.315625, abs=1e-12)
    assert [FIVE.scalar(values) for values in ([0, 0, 0, 0, 4], [4, 4, 4, 4, 0])] == pytest.approx([-1.32, 7.88], abs=1e-12)


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"names": ("a", "a"), "weights": {"a": 1.0}}, "have different names"),
        ({"names": ("a",), "weights": {"b": 1.0}}, "weights names 'b', which is no attribute; there is a"),
        ({"names": ("a",), "weights": {"a": 0.0}}, "not all of them 0"),
        ({"names": ("a",), "weights": {"a": 1.0}, "lowest": 4.0, "highest": 0.0}, "got 4.0 and 0.0"),
    ],
)
def test_attributes_that_make_no_sense(values: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Attributes(**values)


def test_the_text_to_the_byte() -> None:
    begins = f"<extra_id_0>System\n{SYSTEM}\n<extra_id_1>User\n"
    prompts = Prompts(TOKENIZER, "label-prefix")
    ids = prompts.ids(said("two and three?", "five."))
    assert TOKENIZER.decode(ids) == f"{begins}two and three?\n<extra_id_1>Assistant\nfive.\n<extra_id_2>"
    label = TOKENIZER.backend.token_to_id("<extra_id_2>")
    assert ids[-1] == label and ids[0] == TOKENIZER.backend.token_to_id("<extra_id_0>")
    ids = prompts.ids(TALK)
    turns = "two and three?\n<extra_id_1>Assistant\nfive.\n<extra_id_1>User\n<extra_id_2>is it\n\n"
    assert TOKENIZER.decode(ids) == f"{begins}{turns}<extra_id_1>Assistant\n it is\n<extra_id_2>"
    assert ids.count(label) == 1 and ids[-1] == label  # what people write is no label prefix
    own = prompts.ids([{"role": "system", "content": "Be brief."}, *said("a", "b")])
    assert TOKENIZER.decode(own) == "<extra_id_0>System\nBe brief.\n<extra_id_1>User\na\n<extra_id_1>Assistant\nb\n<extra_id_2>"
    other = Prompts(TOKENIZER, "label-prefix", system="").ids(said("a", "b"))
    assert TOKENIZER.decode(other).startswith("<extra_id_0>System\n\n<extra_id_1>User\na\n")


def test_the_end_of_turn() -> None:
    tokenizer = TOKENIZER.with_special(["<|im_start|>", "<|im_end|>"])
    with pytest.raises(DataError, match="no chat template, so there is no end of turn"):
        Prompts(tokenizer, "end-of-turn")
    ids = Prompts(tokenizer.with_chat(CHATML, "<|im_end|>"), "end-of-turn").ids(TALK)
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n it is<|im_end|>")
    with pytest.raises(DataError, match="lacks <extra_id_0>, <extra_id_1>, <extra_id_2>, which answers are scored with"):
        Prompts(Tokenizer.train(["text"], vocab=258), "label-prefix")


@pytest.mark.parametrize(
    "messages, sentence",
    [
        ([], "there is no message"),
        ([{"role": "user", "content": "a"}], "the last message is from 'user'"),
        ([{"role": "tool", "content": "a"}, *said("a", "b")], "Message 1 is from 'tool'"),
        ([*said("a", "b"), {"role": "system", "content": "c"}, *said("a", "b")], "Message 3 is from 'system'"),
        ([{"role": "user", "content": 3}, {"role": "assistant", "content": "b"}], "content of message 1 must be text; it is int"),
        (said("a", " \n"), "The answer is empty"),
    ],
)
def test_conversations_that_cannot_be_scored(messages: list, sentence: str) -> None:
    with pytest.raises(DataError, match=f"Conversation 2: .*{sentence}"):
        Scorer(reward_model())([said("a", "b"), messages])


def test_longer_than_the_model_reads() -> None:
    with pytest.raises(DataError, match=r"has 1[0-9][0-9] tokens; this reward model reads at most 40"):
        Scorer(reward_model(), max_tokens=40).ids(said("a", "b"))


STOCK = {"llama": (random_llama, "LlamaForSequenceClassification"), "nemotron": (random_nemotron4, "NemotronForSequenceClassification")}


@pytest.mark.parametrize("family", STOCK)
def test_the_head_is_that_of_transformers(family: str, tmp_path: Path) -> None:
    """Its classes read a linear layer without bias at the last token that is no padding."""
    draw, name = STOCK[family]
    config = replace(draw(1), vocab=97, tied=True)
    decoder = with_head(random_model(config, 1), names=3)
    checkpoint.save(decoder, tmp_path)
    stock = getattr(transformers, name).from_pretrained(tmp_path, num_labels=3, pad_token_id=96, dtype=torch.float32)
    with torch.no_grad():
        stock.score.weight.copy_(head_of(decoder).weight)
        sequences = [torch.arange(5, 5 + length) for length in (17, 3, 30)]
        padded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=96)
        expected = stock(padded, attention_mask=(padded != 96).long()).logits + head_bias(head_of(decoder))
        torch.testing.assert_close(rewards(decoder, Batch.of(sequences)), expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("draw", [random_config, random_nemotron4, random_llama, random_hymba, random_own])
def test_on_disk_and_back(draw, tmp_path: Path) -> None:
    """Every family, from a checkpoint with a head of its own, which is not written."""
    config = replace(draw(2), vocab=TOKENIZER.vocab_size, tied=False)
    checkpoint.save(random_model(config, 2), tmp_path / "base", TOKENIZER)
    decoder = with_head(trunk(tmp_path / "base"))
    settings = Said(attributes=FIVE, system="Be fair.")
    save(decoder, tmp_path / "reward", TOKENIZER, settings)
    back = load(tmp_path / "reward")
    assert back.said == settings and is_reward(tmp_path / "reward") and not is_reward(tmp_path / "base")
    asked = [said("two and three?", "five."), TALK]
    model = reward_model()._replace(decoder=decoder, said=settings, prompts=Prompts(TOKENIZER, "label-prefix", "Be fair."))
    assert scorer(tmp_path / "reward")(asked) == Scorer(model)(asked)
    written = json.loads((tmp_path / "reward" / "config.json").read_text())
    assert written["attributes"]["names"] == list(HELPSTEER)
    sizes = [_elements(tmp_path / name / "model.safetensors") for name in ("base", "reward")]
    assert sizes[0] - sizes[1] == config.vocab * config.hidden


def _elements(file: Path) -> int:
    with file.open("rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    return sum(torch.Size(each["shape"]).numel() for name, each in header.items() if name != "__metadata__")


def test_it_writes_no_text(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = reward_model()
    save(model.decoder, tmp_path / "reward", TOKENIZER, model.said)
    assert main(["generate", str(tmp_path / "reward"), "--prompt", "two"]) == 2
    assert "is a reward model, which scores answers and writes none: `amaru reward score`" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "reward"), "--json"]) == 0  # its shape is a decoder's
    assert json.loads(capsys.readouterr().out)["hidden"] == CONFIG.hidden
    (tmp_path / "reward" / "reward.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(CheckpointError, match=r"reward\.safetensors is cut short or damaged"):
        load(tmp_path / "reward")
    checkpoint.save(random_model(CONFIG), tmp_path / "base", TOKENIZER)
    with pytest.raises(CheckpointError, match="is no reward model"):
        load(tmp_path / "base")


def test_together_is_one_by_one() -> None:
    model = reward_model()._replace(decoder=with_head(random_model(CONFIG, 3).double()))
    asked = [said("two " * length, "three " * (9 - length)) for length in range(1, 9)]
    together, alone = Scorer(model)(asked), [Scorer(model, tokens=1)([each])[0] for each in asked]
    for one, other in zip(together, alone, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-9) and one.attributes == pytest.approx(other.attributes, abs=1e-9)
        assert one.score == pytest.approx(sum(PUBLISHED[name] * value for name, value in one.attributes.items()), abs=1e-12)
    assert len({each.score for each in together}) == len(asked)


def test_the_score_is_read_at_the_last_token() -> None:
    """What follows it is not there, and what stands before it all counts."""
    model = reward_model()
    first, other = (Scorer(model)([said("two", answer)])[0].score for answer in ("five.", "five?"))
    assert first != other
    ids = Scorer(model).ids(said("two", "five."))
    hidden = model.decoder.hidden_states(Batch.of([torch.tensor(ids)]))[-1]
    head = head_of(model.decoder)
    expected = (head.weight.double() @ hidden.double() + head_bias(head).double()).tolist()
    assert [*Scorer(model)([said("two", "five.")])[0].attributes.values()] == pytest.approx(expected, abs=1e-4)


def test_weights_that_nobody_published() -> None:
    assert weights_of(("reward",), None) == {"reward": 1.0} and weights_of(("a", "b"), {"a": 2.0}) == {"a": 2.0}
    with pytest.raises(ConfigError, match="no published weight for charm, wit; give weights such as charm=1,wit"):
        weights_of(("charm", "wit"), None)
