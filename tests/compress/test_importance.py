"""Scores against a forward pass written out by hand, and the file they are kept in."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.compress.oracles import small_batch, small_config, small_decoder

from amaru.compress import Scores, score
from amaru.errors import ArtifactError, CheckpointError, ConfigError, DataError
from amaru.nn import Batch


def rms(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def activations(decoder, batch, after):
    """For one sample: every norm's output, and by layer what the first matrix of the mixer gives (x part of Mamba)."""
    weights = {name: weight.detach().numpy() for name, weight in decoder.named_parameters()}
    stream, normed, inside = weights["embedding.weight"][batch.ids.numpy()], [], {}
    for index, layer in enumerate(decoder.layers):
        u = rms(stream, weights[f"layers.{index}.norm.weight"], 1e-5)
        normed.append(u)
        if f"layers.{index}.mixer.in_proj.weight" in weights:
            inside[index] = u @ weights[f"layers.{index}.mixer.in_proj.weight"][24:48].T  # rows: 24 of z, then 24 of x
        if f"layers.{index}.mixer.up_proj.weight" in weights:
            up = u @ weights[f"layers.{index}.mixer.up_proj.weight"].T
            inside[index] = np.maximum(up, 0) ** 2 if after else up
        with torch.no_grad():
            stream = stream + layer.mixer(torch.from_numpy(u), batch).numpy()
    return [*normed, rms(stream, weights["norm.weight"], 1e-5)], inside


def spelled_out(decoder, samples, after):
    """Mean over tokens of |activation|, then the L2 norm over samples, one index at a time."""

    def aggregate(per_sample):
        columns = range(per_sample[0].shape[1])
        return np.array([np.sqrt(sum(np.mean([abs(v) for v in tokens[:, c]]) ** 2 for tokens in per_sample)) for c in columns])

    read = [activations(decoder, batch, after) for batch in samples]
    hidden = sum(aggregate([normed[place] for normed, _ in read]) for place in range(len(read[0][0])))
    return hidden, {index: aggregate([inside[index] for _, inside in read]) for index in read[0][1]}


@pytest.mark.parametrize("after", [False, True])
def test_scores_equal_the_rule_spelled_out(after):
    decoder, samples = small_decoder(), [small_batch(seed) for seed in range(3)]
    scores = score(decoder, iter(samples), ffn_after_activation=after)
    hidden, inside = spelled_out(decoder, samples, after)
    np.testing.assert_allclose(scores.hidden, hidden, rtol=1e-10)
    assert [list(arrays) for arrays in scores.within] == [["group x head x channel"], ["ffn"], [], ["group x head x channel"], ["ffn"]]
    for index, expected in inside.items():
        (array,) = scores.within[index].values()
        np.testing.assert_allclose(array.ravel(), expected, rtol=1e-10)
    assert scores.within[0]["group x head x channel"].shape == (2, 3, 4)
    assert (scores.samples, scores.tokens) == (3, 69)
    scores.check(decoder.config)


def test_no_hook_stays_behind_and_nothing_wants_a_gradient():
    decoder = small_decoder()
    score(decoder, [small_batch()])
    assert not any(module._forward_hooks for module in decoder.modules())
    assert all(weight.grad is None for weight in decoder.parameters())


def test_samples_count_and_not_where_they_are_cut():
    """Two samples are two means; one sample of both texts is one mean: the scores differ."""
    decoder = small_decoder()
    batch = small_batch()
    first, second = batch.ids[:9], batch.ids[9:]
    together = score(decoder, [batch])
    apart = score(decoder, [Batch.of([first]), Batch.of([second])])
    assert together.tokens == apart.tokens
    assert not np.allclose(together.hidden, apart.hidden)


def test_progress_is_told():
    said = []
    score(small_decoder(), [small_batch(), small_batch()], progress=said.append)
    assert said == ["importance: sample 1, 23 tokens", "importance: sample 2, 46 tokens"]


def test_text_that_is_missing():
    with pytest.raises(DataError, match="at least one sample"):
        score(small_decoder(), [])
    with pytest.raises(DataError, match="no tokens"):
        score(small_decoder(), [Batch(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), torch.tensor([0]))])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_activation_that_is_not_finite_is_named_where_it_began(value):
    decoder = small_decoder()
    with torch.no_grad():
        decoder.layers[1].mixer.up_proj.weight[3, 0] = value
    with pytest.raises(CheckpointError, match=r"layer 1 \(its ffn\) on calibration sample 1"):
        score(decoder, [small_batch()])


def test_the_sample_is_named():
    decoder = small_decoder()
    with torch.no_grad():
        decoder.embedding.weight[7] = float("nan")
    clean, dirty = Batch.of([torch.tensor([1, 2, 3])]), Batch.of([torch.tensor([1, 7, 3])])
    with pytest.raises(CheckpointError, match=r"layer 0 \(its hidden\) on calibration sample 2"):
        score(decoder, [clean, dirty])


def test_saved_and_read_again(tmp_path):
    scores = score(small_decoder(), [small_batch()], made_from={"checkpoint": "ab", "calibration": "cd"})
    scores = replace(scores, layers=np.arange(5.0), layers_by="mse")
    scores.save(tmp_path / "scores")
    again = Scores.load(tmp_path / "scores", {"checkpoint": "ab"})
    np.testing.assert_array_equal(again.hidden, scores.hidden)
    np.testing.assert_array_equal(again.layers, scores.layers)
    for found, expected in zip(again.within, scores.within, strict=True):
        assert found.keys() == expected.keys()
        for name in found:
            np.testing.assert_array_equal(found[name], expected[name])
    assert (again.samples, again.tokens, again.ffn_read, again.layers_by) == (1, 23, "before activation", "mse")
    with pytest.raises(ArtifactError, match="made from another checkpoint"):
        Scores.load(tmp_path / "scores", {"checkpoint": "other"})


def test_scores_of_another_model_are_refused():
    scores = score(small_decoder(), [small_batch()])
    with pytest.raises(ConfigError, match="of a model with 5 layers and hidden 20; this one has 3 and 20"):
        scores.check(small_config("M-*"))
    with pytest.raises(ConfigError, match="in layer 1, which is"):
        scores.check(small_config("M*-M-"))
