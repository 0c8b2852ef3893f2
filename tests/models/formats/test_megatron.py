"""Megatron checkpoints: there and back for any ranks, and against torch's own reader and writer with the layouts spelled out by hand."""

import json
import random
import shutil
import weakref

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from tests.models.random_models import random_model
from torch.distributed.checkpoint import FileSystemReader

from amaru.errors import CheckpointError, ConfigError
from amaru.models import DecoderConfig
from amaru.models.checkpoint import Checkpoint, save, write
from amaru.models.formats.megatron import MegatronCheckpoint, export
from amaru.models.formats.megatron.export import remarks
from amaru.models.pattern import layers_from_pattern
from amaru.nn import MLP, Attention, Mamba2
from amaru.nn.moe import MoE
from amaru.nn.rope import Llama3Scaling, Rope

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
RANKS = (1, 2, 4)
SCALED = Attention(query_heads=2, kv_heads=1, channels=4, rope=Rope(scaling=Llama3Scaling(factor=2.0, low=1.0, high=4.0, original=8)))


def hybrid(seed, tied=False):
    """A Nemotron-H whose axes divide by four and are otherwise unlike one another."""
    draw = random.Random(seed)
    widths = {
        "M": Mamba2(heads=draw.choice((4, 12)), channels=draw.choice((3, 5)), groups=4, state=draw.choice((6, 7))),
        "*": Attention(query_heads=draw.choice((4, 12)), kv_heads=4, channels=draw.choice((5, 6))),
        "-": MLP(ffn=draw.choice((12, 20))),
    }
    layers = layers_from_pattern(draw.choice(("M-M*-", "*M-", "-MM*")), widths)
    return DecoderConfig(vocab=draw.choice((60, 76)), hidden=17, layers=layers, tied=tied)


def experts(seed, tied=False):
    """Nemotron-3: some layers are mixtures of experts, as Megatron's router can serve them."""
    draw = random.Random(seed)
    groups = draw.choice((1, 2))
    moe = MoE(experts=6, top_k=2, ffn=7, shared_ffn=8, groups=groups, top_groups=1, scale=2.5, latent=draw.choice((None, 5)))
    mamba = Mamba2(heads=4, channels=3, groups=4, state=6)
    return DecoderConfig(vocab=60, hidden=17, layers=(mamba, moe, MLP(ffn=12), moe), tied=tied)


def dense(seed, tied=False):
    draw = random.Random(seed)
    attention = Attention(query_heads=draw.choice((4, 12)), kv_heads=4, channels=8, rope=Rope(base=draw.choice((500.0, 1e4)), fraction=0.5))
    layers = (attention, MLP(ffn=draw.choice((12, 20)))) * draw.choice((1, 3))
    return DecoderConfig(vocab=60, hidden=19, layers=layers, norm="layernorm1p", norm_eps=1e-6, max_positions=96, tied=tied)


MOE_NAMES = {
    "router.weight": "gate.weight",
    "router.expert_bias": "gate.e_score_correction_bias",
    "experts.experts.linear_fc1.weight": "experts.up_proj",
    "experts.experts.linear_fc2.weight": "experts.down_proj",
    "shared_experts.linear_fc1.weight": "shared_experts.up_proj.weight",
    "shared_experts.linear_fc2.weight": "shared_experts.down_proj.weight",
    "fc1_latent_proj.weight": "fc1_latent_proj.weight",
    "fc2_latent_proj.weight": "fc2_latent_proj.weight",
}


def model_at(path, config, dtype=torch.float32):
    save(random_model(config), path, dtype=dtype)
    return Checkpoint(path)


def expected_tensors(source):
    """What Megatron holds, by its names, written out by hand from the description of its layouts."""
    c, read, found = source.config, source.read, {}
    dense_stack = c.norm == "layernorm1p"
    final = "decoder.final_layernorm" if dense_stack else "decoder.final_norm"
    found["embedding.word_embeddings.weight"] = read("embedding.weight")
    for name in c.norm_tensors():
        found[f"{final}.{name.removeprefix('norm.')}"] = read(name)
    if not c.tied:
        found["output_layer.weight"] = read("head.weight")
    for index, layer in enumerate(c.layers):
        ours, theirs = f"layers.{index}", f"decoder.layers.{index // 2 if dense_stack else index}"
        if isinstance(layer, MoE):
            found[f"{theirs}.pre_mlp_layernorm.weight"] = read(f"{ours}.norm.weight")
            found |= {f"{theirs}.mlp.{name}": read(f"{ours}.mixer.{mine}") for name, mine in MOE_NAMES.items() if mine in layer.tensors()}
            continue
        home = {Mamba2: "mixer.in_proj", Attention: "self_attention.linear_qkv", MLP: "mlp.linear_fc1"}[type(layer)]
        for name in c.norm_tensors():
            found[f"{theirs}.{home}.layer_norm_{name.removeprefix('norm.')}"] = read(f"{ours}.{name}")
        if isinstance(layer, Mamba2):
            inner, states = layer.heads * layer.channels, layer.groups * layer.state
            parts = read(f"{ours}.mixer.in_proj.weight").split([inner, inner, states, states, layer.heads])
            names = (f"{theirs}.mixer.in_proj.weight.{part}" for part in ("z", "x", "B", "C", "dt"))
            found |= dict(zip(names, parts, strict=True))
            for leaf in ("weight", "bias"):
                parts = read(f"{ours}.mixer.conv1d.{leaf}").split([inner, states, states])
                found |= {f"{theirs}.mixer.conv1d.{leaf}.{part}": t for part, t in zip("xBC", parts, strict=True)}
            for name in ("A_log", "D", "dt_bias", "norm.weight", "out_proj.weight"):
                found[f"{theirs}.mixer.{name}"] = read(f"{ours}.mixer.{name}")
        elif isinstance(layer, Attention):
            q, k, v = (read(f"{ours}.mixer.{name}_proj.weight").chunk(layer.kv_heads) for name in "qkv")
            found[f"{theirs}.self_attention.linear_qkv.weight"] = torch.cat([t for group in zip(q, k, v, strict=True) for t in group])
            found[f"{theirs}.self_attention.linear_proj.weight"] = read(f"{ours}.mixer.o_proj.weight")
        else:
            found[f"{theirs}.mlp.linear_fc1.weight"] = read(f"{ours}.mixer.up_proj.weight")
            found[f"{theirs}.mlp.linear_fc2.weight"] = read(f"{ours}.mixer.down_proj.weight")
    return found


def stacked(tensors):
    """Equal tensors of all layers as one, as Megatron keeps them where layers are alike."""
    found = {}
    for name, tensor in tensors.items():
        head, _, rest = name.partition("decoder.layers.")
        if not head and rest:
            found.setdefault("decoder.layers." + rest.partition(".")[2], []).append(tensor)
        else:
            found[name] = tensor
    return {name: torch.stack(tensor) if isinstance(tensor, list) else tensor for name, tensor in found.items()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("make", [hybrid, dense, experts])
def test_there_and_back_is_exact(tmp_path, make, ranks, tied):
    source = model_at(tmp_path / "a", make(ranks, tied), torch.bfloat16)
    export(source, tmp_path / "b", ranks=ranks)
    for config in (True, False):
        if not config:
            (tmp_path / "b" / "iter_0000000" / "config.json").unlink()
        read = MegatronCheckpoint(tmp_path / "b")
        assert read.config == source.config and read.names == source.names and not read.notes
        for name in source.names:
            assert torch.equal(read.read(name), source.read(name)) and read.dtype(name) == source.dtype(name), name
            assert torch.equal(read.rows(name, 1, 3), source.rows(name, 1, 3)), name


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("make", [hybrid, dense, experts])
def test_torch_reads_what_megatron_expects(tmp_path, make, ranks):
    source = model_at(tmp_path / "a", make(3))
    export(source, tmp_path / "b", ranks=ranks)
    expected = expected_tensors(source)
    expected = stacked(expected) if make is dense else expected
    read = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    dcp.load(read, checkpoint_id=tmp_path / "b" / "iter_0000000", no_dist=True)
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())
    held = FileSystemReader(tmp_path / "b" / "iter_0000000").read_metadata().state_dict_metadata
    assert {name for name in held if "_extra_state" not in name} == expected.keys()


def test_chunks_are_those_of_the_ranks(tmp_path):
    """Rank r of a column-parallel layer has rows r/4 to (r+1)/4, of a row-parallel one columns; norms are on all of them."""
    export(model_at(tmp_path / "a", hybrid(0)), tmp_path / "b", ranks=4)
    held = FileSystemReader(tmp_path / "b" / "iter_0000000").read_metadata().state_dict_metadata
    rows = "in_proj.weight.z in_proj.weight.dt conv1d.weight.B conv1d.bias.x A_log linear_qkv.weight linear_fc1.weight embeddings.weight"
    divided = dict.fromkeys(rows.split(), 0) | dict.fromkeys(("out_proj.weight", "linear_proj.weight", "linear_fc2.weight"), 1)
    for name, entry in held.items():
        dimension = next((dimension for end, dimension in divided.items() if name.endswith(end)), None)
        if dimension is not None:
            width = entry.size[dimension] // 4
            assert [chunk.offsets[dimension] for chunk in entry.chunks] == [rank * width for rank in range(4)], name
            assert all(chunk.sizes[dimension] == width for chunk in entry.chunks)
        elif "layer_norm" in name:
            assert len(entry.chunks) == 1


@pytest.mark.parametrize("prefix", ["", "module.", "model.module."])
@pytest.mark.parametrize(("make", "arranged"), [(hybrid, dict), (dense, dict), (dense, stacked), (experts, dict)])
def test_reads_what_torch_wrote(tmp_path, make, arranged, prefix):
    """One chunk per tensor, layers stacked or not, norms under the names that models without Transformer Engine give them."""
    source = model_at(tmp_path / "a", make(5))
    renamed = [("self_attention.linear_qkv.layer_norm_", "input_layernorm."), ("mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm.")]
    renamed.append(("mixer.in_proj.layer_norm_", "norm."))
    tensors = {}
    for name, tensor in arranged(expected_tensors(source)).items():
        for fused, alone in renamed:
            name = name.replace(fused, alone)
        tensors[prefix + name] = tensor
    training = {"optimizer.state.exp_avg.decoder.final_norm.weight": torch.zeros(3), "rng_state": torch.zeros(5)}
    dcp.save(tensors | training, checkpoint_id=tmp_path / "b", no_dist=True)
    shutil.copy(tmp_path / "a" / "config.json", tmp_path / "b")
    read = MegatronCheckpoint(tmp_path / "b")
    assert read.notes == ["2 tensors of the training state are left out"]
    assert all(torch.equal(read.read(name), source.read(name)) for name in source.names)


def test_padding_behind_the_vocabulary_is_left_out(tmp_path):
    source = model_at(tmp_path / "a", dense(0))
    tensors = stacked(expected_tensors(source))
    for name in ("embedding.word_embeddings.weight", "output_layer.weight"):
        tensors[name] = torch.cat([tensors[name], torch.full((68, 19), 7.0)])
    dcp.save(tensors, checkpoint_id=tmp_path / "b", no_dist=True)
    shutil.copy(tmp_path / "a" / "config.json", tmp_path / "b")
    read = MegatronCheckpoint(tmp_path / "b")
    assert read.notes == ["68 rows of padding behind a vocabulary of 60 are left out"]
    assert all(torch.equal(read.read(name), source.read(name)) for name in source.names)


def test_another_dtype_leaves_the_sensitive_tensors_in_fp32(tmp_path):
    source = model_at(tmp_path / "a", hybrid(1))
    export(source, tmp_path / "b", dtype=torch.bfloat16)
    read = MegatronCheckpoint(tmp_path / "b")
    kept = {name for name in read.names if read.dtype(name) == torch.float32}
    assert kept and kept == {name for name in read.names if name.endswith(("A_log", ".D", "dt_bias"))}
    assert torch.equal(read.read("embedding.weight"), source.read("embedding.weight").bfloat16())


class Watched:
    """A source that knows how many bytes of what it gave out are still in use."""

    def __init__(self, source):
        self.source, self.given, self.most = source, [], 0
        self.path, self.config, self.names, self.dtype = source.path, source.config, source.names, source.dtype

    def read(self, name):
        return self._watched(self.source.read(name))

    def rows(self, name, start, stop):
        return self._watched(self.source.rows(name, start, stop))

    def _watched(self, tensor):
        storage = tensor.untyped_storage()
        self.given = [(alive, size) for alive, size in self.given if alive() is not None] + [(weakref.ref(storage), storage.nbytes())]
        self.most = max(self.most, sum(size for _, size in self.given))
        return tensor


@pytest.mark.parametrize("ranks", RANKS)
def test_no_more_than_two_tensors_are_held(tmp_path, ranks):
    config = dense(0)
    source = Watched(model_at(tmp_path / "a", DecoderConfig(**{**vars(config), "layers": config.layers * 10})))
    largest = max(source.read(name).nbytes for name in source.names)
    source.most, source.given = 0, []
    export(source, tmp_path / "b", ranks=ranks)
    assert 0 < source.most <= 2 * largest
    back = Watched(MegatronCheckpoint(tmp_path / "b"))
    write(tmp_path / "c", back.config, back.read, back.dtype)
    assert 0 < back.most <= 2 * largest


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (DecoderConfig(vocab=8, hidden=8, layers=(Mamba2(heads=2, channels=2, groups=2, state=2, taps=3),)), "have 4 taps"),
        (DecoderConfig(vocab=8, hidden=8, layers=(Mamba2(heads=2, channels=2, groups=2, state=2),), norm_eps=1e-6), "epsilon of 1e-05"),
        (DecoderConfig(vocab=8, hidden=8, layers=(MLP(ffn=4), MLP(ffn=6))), "one width for all MLP layers"),
        (DecoderConfig(vocab=8, hidden=8, layers=(MoE(experts=4, top_k=2, ffn=2, shared_ffn=2, normalised=False),)), "router divides"),
        (DecoderConfig(vocab=8, hidden=8, layers=(MoE(experts=8, top_k=3, ffn=2, shared_ffn=2, groups=2),)), "router ranks groups"),
        (DecoderConfig(vocab=8, hidden=8, layers=(SCALED, MLP(ffn=4)), norm="layernorm1p"), "no scaled RoPE"),
    ],
)
def test_models_that_megatron_does_not_compute_are_refused(tmp_path, config, sentence):
    source = model_at(tmp_path / "a", config)
    with pytest.raises(CheckpointError, match=sentence):
        export(source, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_ranks_that_do_not_divide_are_refused_before_anything_is_written(tmp_path):
    source = model_at(tmp_path / "a", hybrid(0))
    with pytest.raises(ConfigError, match="which 8 processes cannot share evenly"):
        export(source, tmp_path / "b", ranks=8)
    with pytest.raises(CheckpointError, match="at least one rank; got 0"):
        export(source, tmp_path / "b", ranks=0)
    assert not (tmp_path / "b").exists()


def test_it_says_what_megatron_does_not_take_from_a_checkpoint():
    assert not list(remarks(hybrid(0)))
    assert "start it with --norm-epsilon 1e-06" in next(remarks(dense(0)))


def test_only_a_checkpoint_is_replaced(tmp_path):
    source = model_at(tmp_path / "a", dense(0))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="is no Megatron checkpoint, so it is not replaced"):
        export(source, tmp_path / "b")
    export(source, tmp_path / "c")
    export(source, tmp_path / "c", ranks=2)
    assert MegatronCheckpoint(tmp_path / "c").config == source.config


@pytest.mark.parametrize("make", [hybrid, dense])
def test_arguments_and_config_must_agree(tmp_path, make):
    export(model_at(tmp_path / "a", make(0)), tmp_path / "b")
    path = tmp_path / "b" / "iter_0000000" / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"intermediate_size": 99}))
    with pytest.raises(CheckpointError, match=r"contradict each other: ffn_hidden_size is 99 in one, (12|20) in the other"):
        MegatronCheckpoint(tmp_path / "b")


def run_config(config):
    """The section of run_config.yaml that Megatron-Bridge writes, with its classes and functions by name."""
    mamba, attention, mlp = (next((layer for layer in config.layers if layer.letter == letter), None) for letter in "M*-")
    model = {
        "_target_": "megatron.bridge.models.mamba.mamba_provider.MambaModelProvider",
        "activation_func": {"_target_": "megatron.core.activations.squared_relu", "_call_": False},
        "hidden_size": config.hidden,
        "ffn_hidden_size": mlp.ffn,
        "num_attention_heads": attention.query_heads,
        "num_query_groups": attention.kv_heads,
        "kv_channels": attention.channels,
        "layernorm_epsilon": config.norm_eps,
        "share_embeddings_and_output_weights": config.tied,
        "num_layers": len(config.layers) // (1 if mamba else 2),
        "normalization": "RMSNorm" if mamba else "LayerNorm",
        "layernorm_zero_centered_gamma": mamba is None,
        "gated_linear_unit": False,
        "add_bias_linear": False,
        "num_moe_experts": None,
        "vocab_size": config.vocab,
        "seq_length": config.max_positions,
    }
    if mamba:
        model["hybrid_override_pattern"] = "".join(layer.letter for layer in config.layers)
        model |= {"mamba_num_heads": mamba.heads, "mamba_head_dim": mamba.channels}
        return model | {"mamba_num_groups": mamba.groups, "mamba_state_dim": mamba.state, "position_embedding_type": "none"}
    return model | {"rotary_base": attention.rope.base, "rotary_percent": attention.rope.fraction, "position_embedding_type": "rope"}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("make", [hybrid, dense])
def test_a_config_of_megatron_bridge_is_read(tmp_path, make, tied):
    source = model_at(tmp_path / "a", make(2, tied))
    directory = tmp_path / "b" / "release"
    directory.mkdir(parents=True)
    dcp.save(expected_tensors(source), checkpoint_id=directory, no_dist=True)
    torch.save({"iteration": 7}, directory / "common.pt")
    (tmp_path / "b" / "latest_checkpointed_iteration.txt").write_text("release\n")
    (directory / "run_config.yaml").write_text(yaml.safe_dump({"model": run_config(source.config), "checkpoint": {"save": "/x"}}))
    read = MegatronCheckpoint(tmp_path / "b")
    assert read.config == source.config
    assert all(torch.equal(read.read(name), source.read(name)) for name in source.names)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("activation_func", {"_target_": "torch.nn.functional.silu"}, "squared ReLU only"),
        ("gated_linear_unit", True, "sets gated_linear_unit to true; amaru reads Megatron's models with false only"),
        ("normalization", "LayerNorm", "this kind of model is read with RMSNorm"),
        ("position_embedding_type", "rope", "hybrid models are read with 'none'"),
        ("hybrid_override_pattern", "M-*G", "Letter 'G' at place 3"),
        ("hybrid_override_pattern", 5, "a string such as 'M-M\\*-' is needed"),
        ("hidden_size", None, "lacks hidden_size"),
        ("hidden_size", 2**40, "a whole number from 1 to"),
        ("mamba_head_dim", "big", "a whole number from 1 to"),
    ],
)
def test_what_a_config_of_megatron_cannot_say(tmp_path, name, value, sentence):
    source = model_at(tmp_path / "a", hybrid(2))
    dcp.save(expected_tensors(source), checkpoint_id=tmp_path / "b", no_dist=True)
    (tmp_path / "b" / "run_config.yaml").write_text(yaml.safe_dump({"model": run_config(source.config) | {name: value}}))
    with pytest.raises((CheckpointError, ConfigError), match=sentence):
        MegatronCheckpoint(tmp_path / "b")


def test_missing_left_over_and_misshapen_tensors_are_named(tmp_path):
    source = model_at(tmp_path / "a", hybrid(0))
    tensors = expected_tensors(source)

    def complaint(changed):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        dcp.save(changed, checkpoint_id=tmp_path / "b", no_dist=True)
        shutil.copy(tmp_path / "a" / "config.json", tmp_path / "b")
        with pytest.raises(CheckpointError) as caught:
            MegatronCheckpoint(tmp_path / "b")
        return str(caught.value)

    norm = "decoder.final_norm.weight"
    assert complaint({name: t for name, t in tensors.items() if name != norm}).endswith(f"lacks 1 tensors: {norm}.")
    assert complaint(tensors | {"decoder.extra.weight": torch.zeros(2)}).endswith("its config does not know: decoder.extra.weight.")
    assert complaint(tensors | {norm: torch.zeros(18)}).endswith(f"{norm} has shape [18], but its config asks for [17].")
    assert f"{norm} is stored as torch.int32" in complaint(tensors | {norm: torch.zeros(17, dtype=torch.int32)})
    both = {"decoder.layers.0.norm.weight": torch.zeros(17), "decoder.layers.0.input_layernorm.weight": torch.zeros(17)}
    assert "one tensor under two names" in complaint(tensors | both)
    assert "has no embedding.word_embeddings.weight" in complaint({norm: torch.zeros(17)})


def test_without_any_word_on_the_shape_it_says_what_is_needed(tmp_path):
    dcp.save(expected_tensors(model_at(tmp_path / "a", dense(0))), checkpoint_id=tmp_path / "b", no_dist=True)
    with pytest.raises(CheckpointError, match=r"neither arguments in common\.pt, nor a config\.json"):
        MegatronCheckpoint(tmp_path / "b")


@pytest.mark.parametrize("said", ["99", "../../etc", "-1", "", "9" * 40])
def test_the_tracker_cannot_lead_elsewhere(tmp_path, said):
    export(model_at(tmp_path / "a", dense(0)), tmp_path / "b")
    (tmp_path / "b" / "latest_checkpointed_iteration.txt").write_text(said)
    with pytest.raises(CheckpointError, match=r"lacks the directory iter_0000099|the number of an iteration"):
        MegatronCheckpoint(tmp_path / "b")
