"""A model divided among processes against the same model in one: logits, gradients, and what each process holds."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.models.random_models import random_ids
from tests.parallel.ranks import Ranks
from tests.parallel.small import STACKS, VOCAB, model

from amaru.errors import ConfigError
from amaru.models import Decoder
from amaru.models.checkpoint import Checkpoint, save
from amaru.models.cost import parameters
from amaru.models.families import config_of
from amaru.nn import Attention, Batch
from amaru.parallel.collectives import Group
from amaru.parallel.decoder import SlicedStream, WholeStream, fill, load_part, skeleton
from amaru.parallel.shares import Share, cut, read


def divided(decoder: Decoder, group: Group, sliced: bool) -> Decoder:
    """This process's part of a model that every process has whole."""
    share = Share(decoder.config, group.rank, group.size)
    whole = dict(decoder.named_parameters())
    exchange = SlicedStream(group) if sliced else WholeStream(group)
    return fill(skeleton(share, exchange), lambda name: cut(whole[name].detach(), share.kept(name)).clone())


def logits_and_gradients(name: str, sliced: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    group = Group.of(dist.group.WORLD)
    decoder = divided(model(name), group, sliced)
    batch = Batch.of(random_ids(VOCAB, 11, 6, seed=4))
    logits = decoder(batch)
    (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum().backward()
    return logits.detach(), {name: parameter.grad for name, parameter in decoder.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("sliced", [False, True], ids=["whole stream", "sliced stream"])
@pytest.mark.parametrize("name", STACKS)
def test_logits_and_gradients_are_those_of_one_process(two: Ranks, name: str, sliced: bool) -> None:
    decoder = model(name)
    logits = decoder(Batch.of(random_ids(VOCAB, 11, 6, seed=4)))
    (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum().backward()
    found = two(logits_and_gradients, name, sliced)
    for rank, (theirs, gradients) in enumerate(found):
        share = Share(decoder.config, rank, 2)
        torch.testing.assert_close(theirs, logits, rtol=0, atol=1e-11)
        for key, parameter in decoder.named_parameters():
            if parameter.grad is None:
                assert key not in gradients
                continue
            expected, summed = cut(parameter.grad, share.kept(key)), gradients[key]
            if share.partial(key, sliced):
                summed = sum(each[key] for _, each in found)  # type: ignore[assignment]
            torch.testing.assert_close(summed, expected, rtol=1e-9, atol=1e-10, msg=lambda text, key=key: f"{key}: {text}")


def test_every_process_reads_its_own_rows_and_together_they_are_the_checkpoint(tmp_path: Path) -> None:
    decoder = model("nemotron_h", torch.float32)
    save(decoder, tmp_path / "model")
    checkpoint = Checkpoint(tmp_path / "model")
    for name, whole in decoder.named_parameters():
        rebuilt = torch.full_like(whole, torch.nan)
        for rank in range(4):
            share = Share(decoder.config, rank, 4)
            part = read(checkpoint, name, share.kept(name))
            assert part.shape == share.shape(name)
            held = zip(share.kept(name), whole.shape, strict=True)
            where = [torch.arange(size) if kept is None else torch.from_numpy(kept) for kept, size in held]
            rebuilt[torch.meshgrid(*where, indexing="ij")] = part
        assert torch.equal(rebuilt, whole), name


def loaded(path: Path) -> tuple[int, torch.Tensor]:
    decoder = load_part(path)
    with torch.inference_mode():
        logits = decoder(Batch.of(random_ids(VOCAB, 9, seed=2)))
    return sum(parameter.numel() for parameter in decoder.parameters()), logits


def test_a_checkpoint_on_two_processes_has_the_logits_of_one_and_half_of_its_parameters_on_each(two: Ranks, tmp_path: Path) -> None:
    decoder = model("nemotron_h", torch.float32)
    save(decoder, tmp_path / "model")
    expected = decoder(Batch.of(random_ids(VOCAB, 9, seed=2)))
    (first, ours), (second, theirs) = two(loaded, tmp_path / "model")
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    norms = 5 * 14
    assert first + second == parameters(decoder.config) + norms


def test_a_number_that_does_not_divide_is_refused_by_layer_axis_and_size() -> None:
    with pytest.raises(ConfigError, match=r"over 3: a mamba2 layer has 4 indices of 'group'.*\(layer 0\)\. 1, 2, 4 would do"):
        Share(STACKS["nemotron_h"], 0, 3)
    with pytest.raises(ConfigError, match=r"Layer 0 \(hybrid_head\) cannot be divided .* its x_proj.weight sums over 'kv_group'"):
        Share(config_of("hymba-1.5b"), 0, 5)


def test_more_processes_than_kv_heads_share_copies() -> None:
    config = STACKS["qwen2"]
    narrow = Attention(query_heads=4, kv_heads=2, channels=4)
    assert not Share(config, 0, 4).copies()
    assert Share(type(config)(vocab=VOCAB, hidden=16, layers=(narrow,)), 0, 4).copies()
