"""Scores against a forward pass written out by hand, and the file they are kept in."""

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
    """For one sample: every norm's output, and by layer and axes the factors that are read of each mixer."""
    weights = {name: weight.detach().numpy() for name, weight in decoder.named_parameters()}
    stream, normed, inside = weights["embedding.weight"][batch.ids.numpy()], [], {}
    for index, layer in enumerate(decoder.layers):
        u = rms(stream, weights[f"layers.{index}.norm.weight"], 1e-5)
        normed.append(u)
        if f"layers.{index}.mixer.in_proj.weight" in weights:
            _, x, B, C, _ = np.split(u @ weights[f"layers.{index}.mixer.in_proj.weight"].T, [24, 48, 58, 68], axis=1)
            inside[index] = {"group x head x channel": [x], "group x state": [B, C]}
        if f"layers.{index}.mixer.up_proj.weight" in weights:
            up = u @ weights[f"layers.{index}.mixer.up_proj.weight"].T
            inside[index] = {"ffn": [np.maximum(up, 0) ** 2 if after else up]}
        if f"layers.{index}.mixer.q_proj.weight" in weights:
            q, k, v = (u @ weights[f"layers.{index}.mixer.{name}_proj.weight"].T for name in "qkv")
            inside[index] = {"kv_group x query x v_channel": [attended(q, k, v, batch)]}
        with torch.no_grad():
            stream = stream + layer.mixer(torch.from_numpy(u), batch).numpy()
    return [*normed, rms(stream, weights["norm.weight"], 1e-5)], inside


def attended(q, k, v, batch):
    """What 4 query heads of 6 channels read of 2 KV heads, one query and one head at a time."""
    out = np.zeros_like(q)
    starts = np.repeat(batch.cu_seqlens[:-1].numpy(), batch.lengths.numpy())
    for token, head in np.ndindex(len(q), 4):
        seen, kv = slice(starts[token], token + 1), slice(6 * (head // 2), 6 * (head // 2) + 6)
        weights = np.exp(k[seen, kv] @ q[token, 6 * head : 6 * head + 6] / np.sqrt(6))
        out[token, 6 * head : 6 * head + 6] = weights @ v[seen, kv] / weights.sum()
    return out


def spelled_out(decoder, samples, after):
    """Mean over tokens of |activation|, then the L2 norm over samples, one index at a time."""

    def aggregate(per_sample):
        columns = range(per_sample[0].shape[1])
        return np.array([np.sqrt(sum(np.mean([abs(v) for v in tokens[:, c]]) ** 2 for tokens in per_sample)) for c in columns])

    read = [activations(decoder, batch, after) for batch in samples]
    hidden = sum(aggregate([normed[place] for normed, _ in read]) for place in range(len(read[0][0])))
    of_layer = [[inside[index] for _, inside in read] for index in range(len(decoder.layers))]
    return hidden, [{axes: product([each[axes] for each in samples], aggregate) for axes in samples[0]} for samples in of_layer]


def product(samples, aggregate):
    """Of the aggregates of all factors; each sample has the activations of every factor."""
    return np.prod([aggregate(list(factor)) for factor in zip(*samples, strict=True)], axis=0)


@pytest.mark.parametrize("after", [False, True])
def test_scores_equal_the_rule_spelled_out(after):
    decoder, samples = small_decoder(), [small_batch(seed) for seed in range(3)]
    scores = score(decoder, iter(samples), ffn_after_activation=after)
    hidden, inside = spelled_out(decoder, samples, after)
    np.testing.assert_allclose(scores.hidden, hidden, rtol=1e-10)
    assert [arrays.keys() for arrays in scores.within] == [arrays.keys() for arrays in inside]
    for found, expected in zip(scores.within, inside, strict=True):
        for axes, array in expected.items():
            np.testing.assert_allclose(found[axes].ravel(), array, rtol=1e-10)
    assert scores.within[0]["group x head x channel"].shape == (2, 3, 4)
    assert (scores.samples, scores.tokens) == (3, 69)
    scores.check(decoder.config)


def read_by_projections(decoder, batch):
    """What the projections back to the stream read of one sample, by layer, and their weights; mixers put together from their parts."""
    read, stream = [], decoder.embedding(batch.ids)
    with torch.no_grad():
        for layer in decoder.layers:
            u, mixer = layer.norm(stream), layer.mixer
            if layer.mixer.config.kind == "mamba2":
                x, out = mixer._whole(u @ mixer.in_proj.weight.T, batch, None), mixer.out_proj
            elif layer.mixer.config.kind == "mlp":
                x, out = torch.relu(u @ mixer.up_proj.weight.T) ** 2, mixer.down_proj
            else:
                q, k, v = ((u @ proj.weight.T).numpy() for proj in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
                x, out = torch.from_numpy(attended(q, k, v, batch)), mixer.o_proj
            read.append((x.numpy(), out.weight.numpy()))
            stream = stream + x @ out.weight.T
    return read


def test_fluctuation_is_variance_over_all_tokens_times_the_squared_norm_of_the_column():
    decoder, samples = small_decoder(), [small_batch(seed) for seed in range(3)]
    with_attention = score(decoder, samples, fluctuation=("mlp", "attention", "mamba2"))
    read = [read_by_projections(decoder, batch) for batch in samples]
    for index, (found, means) in enumerate(zip(with_attention.within, with_attention.means, strict=True)):
        tokens, weight = np.concatenate([each[index][0] for each in read]), read[0][index][1]
        (axes,) = means
        np.testing.assert_allclose(found[axes].ravel() ** 2, tokens.var(0) * (weight**2).sum(0), rtol=1e-9)
        np.testing.assert_allclose(means[axes].ravel(), tokens.mean(0), rtol=1e-9, atol=1e-12)


def test_fluctuation_of_some_kinds_leaves_others_as_they_are():
    decoder, samples = small_decoder(), [small_batch(seed) for seed in range(2)]
    plain, mixed = score(decoder, samples), score(decoder, samples, fluctuation=("mlp",))
    assert (mixed.fluctuation, [list(each) for each in mixed.means]) == (("mlp",), [[], ["ffn"], [], [], ["ffn"]])
    for index, kind in enumerate("M-*M-"):
        for axes, array in plain.within[index].items():
            assert np.array_equal(mixed.within[index][axes], array) == (kind != "-")
    with pytest.raises(ConfigError, match="of the kinds mamba2, mlp, attention; got 'moe'"):
        score(decoder, samples, fluctuation=("moe",))


def test_tokens_are_counted():
    batch = Batch.of([torch.tensor([3, 3, 30]), torch.tensor([0])])
    assert score(small_decoder(), [batch, batch]).vocab.tolist() == [2, 0, 0, 4, *[0] * 26, 2]


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
    assert said[0] == "importance: layer 1/5, samples 1 to 2 of 2" and len(said) == 5


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
    scores = score(small_decoder(), [small_batch()], fluctuation=("mlp",), made_from={"checkpoint": "ab", "calibration": "cd"})
    scores = scores.with_layers({"mse": np.arange(5.0), "kl": np.arange(5.0) ** 2}, "mse")
    scores.save(tmp_path / "scores")
    again = Scores.load(tmp_path / "scores", {"checkpoint": "ab"})
    np.testing.assert_array_equal(again.hidden, scores.hidden)
    np.testing.assert_array_equal(again.layers, scores.layers)
    np.testing.assert_array_equal(again.vocab, scores.vocab)
    assert again.removals["kl"].tolist() == [0, 1, 4, 9, 16] and again.fluctuation == ("mlp",)
    for found, expected in zip([*again.within, *again.means], [*scores.within, *scores.means], strict=True):
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
