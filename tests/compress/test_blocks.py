"""Blocks: which there are, that each is the parent's layer cut, what they learn alone, and what replacing one layer costs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.compress.oracles import small_config

from amaru.compress import CandidateStore, Scores, score
from amaru.compress.blocks import Block, Variants, cut_block, library
from amaru.compress.local import Library, LocalDistillation, Streams, added, normalised_error
from amaru.compress.replace import Sample, known_costs, replace_one
from amaru.errors import ConfigError, DataError
from amaru.models import Decoder
from amaru.nn import MLP, Batch

VARIANTS = Variants(shares={"head": (0.5,), "channel": (0.5,), "state": (0.5,), "kv_group": (0.5,), "ffn": (0.75, 0.5)})
GENTLE = LocalDistillation(tokens=900, lr=2e-3)


@pytest.fixture(scope="module")
def parent() -> Decoder:
    config = small_config("M-*M-")
    layers = tuple(replace(layer, ffn=48) if isinstance(layer, MLP) else layer for layer in config.layers)
    wide = (replace(layer, channels=16, state=16) if layer.kind == "mamba2" else layer for layer in layers)
    return Decoder(replace(config, layers=tuple(wide))).initialise(0).requires_grad_(False)


@pytest.fixture(scope="module")
def samples(parent: Decoder) -> list[Sample]:
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(parent.config.vocab, (29,), generator=draw) for _ in range(3)]
    targets = [torch.cat([row[1:], torch.tensor([-100])]) for row in rows]
    return [Sample(Batch.of([row]), wanted) for row, wanted in zip(rows, targets, strict=True)]


@pytest.fixture(scope="module")
def scores(parent: Decoder, samples: list[Sample]) -> Scores:
    return score(parent, [sample.batch for sample in samples])


def test_a_library_has_the_layer_its_narrower_forms_and_none(parent: Decoder) -> None:
    found = library(parent.config, VARIANTS)
    assert [len(blocks) for blocks in found] == [5, 3, 3, 5, 3]
    assert [block.layer for blocks in found for block in blocks[:1]] == list(parent.config.layers)
    assert all(blocks[-1].layer is None for blocks in found)
    mamba = [(b.layer.heads, b.layer.channels, b.layer.state) for b in found[0][:-1]]
    assert set(mamba) == {(6, 16, 16), (6, 8, 16), (4, 16, 16), (6, 16, 8)}
    assert [b.layer.ffn for b in found[1][:-1]] == [48, 32]
    joint = library(parent.config, replace(VARIANTS, joint=True, no_op=False, fixed=(1,)), [0, 1])
    assert [len(blocks) for blocks in joint] == [8, 1]
    assert len({block.key for blocks in found for block in blocks}) == sum(map(len, found))


def test_a_block_is_what_a_cut_of_the_whole_model_leaves(parent: Decoder, scores: Scores) -> None:
    """Its own layer is the parent's to the bit; a narrower one has the parent's rows."""
    for blocks in library(parent.config, VARIANTS):
        own = cut_block(parent, blocks[0], scores)
        assert own is not None
        for name, weight in own.named_parameters():
            assert torch.equal(weight, parent.layers[blocks[0].index].get_parameter(name)), name
    narrow = cut_block(parent, Block(index=1, layer=MLP(ffn=16)), scores)
    assert narrow is not None and cut_block(parent, Block(index=1, layer=None), scores) is None
    kept = np.sort(np.argsort(-scores.within[1]["ffn"], kind="stable")[:16])
    assert torch.equal(narrow.mixer.up_proj.weight, parent.layers[1].mixer.up_proj.weight[kept])


def test_blocks_learn_what_their_layer_adds(parent: Decoder, scores: Scores, samples: list[Sample], tmp_path) -> None:
    blocks = library(parent.config, VARIANTS)
    taught = Library(tmp_path, {"parent": "p"}, GENTLE)
    said: list[str] = []
    taught.teach(parent, blocks, scores, [sample.batch for sample in samples], said.append)
    errors = taught.errors()
    assert len(errors) == len(said) == sum(len(each) - 2 for each in blocks)
    assert all(after <= before for before, after in errors.values()), errors
    assert sum(after < 0.8 * before for before, after in errors.values()) >= 6, errors
    # One of them again, from the parent's own streams, by hand.
    block = next(block for block in blocks[3] if block.layer and block.layer.channels == 8)
    batch = samples[0].batch
    x = parent.embed(batch.ids)
    for layer in parent.layers[:3]:
        x, _ = layer(x, batch, None, None)
    wanted = parent.layers[3].mixer(parent.layers[3].norm(x), batch)
    cut, learned = cut_block(parent, block, scores), taught.layer(parent, block, scores)
    with torch.no_grad():
        before, after = (float(((layer.mixer(layer.norm(x), batch) - wanted) ** 2).sum()) for layer in (cut, learned))
    assert after < before
    # What is whole is not learned again; what is missing is, to the same numbers.
    (tmp_path / "layer-003.safetensors").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again: list[str] = []
    Library(tmp_path, {"parent": "p"}, GENTLE).teach(parent, blocks, scores, [sample.batch for sample in samples], again.append)
    assert len(again) == len(blocks[3]) - 2 and Library(tmp_path, {"parent": "p"}, GENTLE).errors() == errors
    assert all((tmp_path / name).stat().st_mtime_ns == then for name, then in times.items())


def test_an_error_of_one_is_a_block_that_adds_nothing() -> None:
    wanted = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    assert float(normalised_error(torch.zeros_like(wanted), wanted)) == 1
    assert float(normalised_error(wanted, wanted)) == 0


@torch.no_grad()
def judged_by_hand(parent: Decoder, samples: list[Sample], stack: list) -> dict[str, float]:
    """KL and loss of a stack of layers (None: no layer) from logits alone."""
    kl = loss = own = tokens = 0.0
    for batch, targets in samples:
        x = parent.embed(batch.ids)
        for layer in stack:
            x = x if layer is None else x + added(layer, x, batch, None)
        log_q = torch.log_softmax(parent.head(parent.norm(x)).double(), -1)
        log_p = torch.log_softmax(parent(batch).double(), -1)
        shown = targets >= 0
        kl += float(F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)[shown].sum())
        loss += float(F.nll_loss(log_q[shown], targets[shown], reduction="sum"))
        own += float(F.nll_loss(log_p[shown], targets[shown], reduction="sum"))
        tokens += int(shown.sum())
    return {"kl": kl / tokens, "loss": (loss - own) / tokens}


@pytest.mark.parametrize("stack", [[0, 1, 2, 3, 4], [0, 1, 3, 4]])
def test_replacing_one_block_costs_what_the_whole_stack_with_it_does(
    parent: Decoder, scores: Scores, samples: list[Sample], tmp_path, stack: list[int]
) -> None:
    blocks = library(parent.config, VARIANTS, stack)
    store = CandidateStore(tmp_path / "s.sqlite", "here")
    built: list[Block] = []

    def build(block: Block):
        built.append(block)
        return cut_block(parent, block, scores)

    assert known_costs(blocks, store) is None
    found = replace_one(parent, blocks, build, samples, store)
    for place, each in enumerate(blocks):
        for block in each:
            layers = [parent.layers[index] for index in stack]
            layers[place] = cut_block(parent, block, scores)
            assert found[block.key] == pytest.approx(judged_by_hand(parent, samples, layers), abs=2e-5), block.describe()
    assert len(built) == sum(len(each) - 1 for each in blocks), "the own layer is not built"
    built.clear()
    assert replace_one(parent, blocks, build, samples, store) == known_costs(blocks, store) == found and not built


def test_what_cannot_be_judged(parent: Decoder) -> None:
    with pytest.raises(DataError, match="there was none"):
        Streams(parent, [])
    with pytest.raises(ConfigError, match=r"above 0 and up to 1; got 0 for ffn"):
        Variants(shares={"ffn": (0.0,)})
