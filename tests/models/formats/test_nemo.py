"""NeMo 2 directories there and back, .nemo archives as the older NeMo packed them, and ones that are damaged or would run something."""

import gzip
import io
import itertools
import json
import shutil
import tarfile
from collections import OrderedDict

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from tests.models.formats.test_megatron import dense, expected_tensors, hybrid, model_at, stacked

from amaru.errors import CheckpointError
from amaru.models.formats.nemo import NemoArchive, NemoCheckpoint, export

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("make", [hybrid, dense])
def test_there_and_back_is_exact_whatever_tells_the_shape(tmp_path, make, ranks):
    source = model_at(tmp_path / "a", make(ranks, tied=ranks == 4), torch.bfloat16)
    export(source, tmp_path / "b", ranks=ranks)
    for removed in ("", "weights/config.json", "weights/common.pt", "context/model.yaml"):
        if removed:
            (tmp_path / "b" / removed).unlink()
        read = NemoCheckpoint(tmp_path / "b")
        assert read.config == source.config
        assert all(torch.equal(read.read(name), source.read(name)) for name in source.names)


def test_names_are_those_of_a_wrapped_module(tmp_path):
    source = model_at(tmp_path / "a", dense(0))
    export(source, tmp_path / "b")
    expected = {f"module.{name}": tensor for name, tensor in stacked(expected_tensors(source)).items()}
    read = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    dcp.load(read, checkpoint_id=tmp_path / "b" / "weights", no_dist=True)
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())


def called(graph, key):
    """What fiddle makes of its JSON: (class, arguments), inner calls included; every reference is followed."""
    entry = graph["objects"][key]
    assert entry["type"]["name"] == "Config"
    metadata = dict(graph["objects"][entry["metadata"]["key"]]["items"])
    function = metadata["Attr(name='fn_or_cls')"]
    names = [value for _, value in graph["objects"][metadata["Attr(name='argument_names')"]["key"]]["items"]]
    values = [called(graph, value["key"]) if value["type"] == "ref" else value["value"] for _, value in entry["items"]]
    assert all(graph["objects"][metadata[f"Attr(name='argument_{kind}')"]["key"]]["items"] == [] for kind in ("tags", "history"))
    return f"{function['module']}.{function['name']}", dict(zip(names, values, strict=True))


def test_the_context_is_a_graph_of_calls_that_nemo_makes(tmp_path):
    source = model_at(tmp_path / "a", hybrid(0))
    export(source, tmp_path / "b")
    graph = json.loads((tmp_path / "b" / "context" / "io.json").read_text())
    root, arguments = called(graph, graph["root"]["key"])
    model, inner = arguments["model"]
    config, fields = inner["config"]
    assert root == "nemo.lightning.io.pl.TrainerContext"
    assert (model, config) == tuple(f"nemo.collections.llm.gpt.model.ssm.{name}" for name in ("MambaModel", "NemotronHConfigBase"))
    assert fields["hidden_size"] == 17 and fields["num_layers"] == len(source.config.layers)
    assert graph["refcounts"].keys() == graph["objects"].keys()


def test_context_and_config_must_agree(tmp_path):
    export(model_at(tmp_path / "a", dense(0)), tmp_path / "b")
    path = tmp_path / "b" / "context" / "model.yaml"
    said = yaml.safe_load(path.read_text())
    said["config"]["hidden_size"] = 20
    path.write_text(yaml.safe_dump(said))
    with pytest.raises(CheckpointError, match=r"model\.yaml contradict each other: hidden_size is 19 in one, 20 in the other"):
        NemoCheckpoint(tmp_path / "b")


def model_config(config):
    """As the older NeMo described its models."""
    attention, mlp = config.layers[:2]
    return {
        "mcore_gpt": True,
        "num_layers": len(config.layers) // 2,
        "hidden_size": config.hidden,
        "ffn_hidden_size": mlp.ffn,
        "num_attention_heads": attention.query_heads,
        "num_query_groups": attention.kv_heads,
        "kv_channels": attention.channels,
        "normalization": "layernorm1p",
        "layernorm_epsilon": config.norm_eps,
        "activation": "squared-relu",
        "position_embedding_type": "rope",
        "rotary_base": attention.rope.base,
        "rotary_percentage": attention.rope.fraction,
        "max_position_embeddings": config.max_positions,
        "share_embeddings_and_output_weights": config.tied,
        "bias": False,
        "tokenizer": {"library": "sentencepiece", "model": "nemo:tokenizer.model"},
    }


def hybrid_config(config):
    mamba, attention, mlp = (next(layer for layer in config.layers if layer.letter == letter) for letter in "M*-")
    return {
        "num_layers": len(config.layers),
        "hybrid_override_pattern": "".join(layer.letter for layer in config.layers),
        "hidden_size": config.hidden,
        "ffn_hidden_size": mlp.ffn,
        "num_attention_heads": attention.query_heads,
        "num_query_groups": attention.kv_heads,
        "kv_channels": attention.channels,
        "mamba_num_heads": mamba.heads,
        "mamba_head_dim": mamba.channels,
        "mamba_num_groups": mamba.groups,
        "mamba_state_dim": mamba.state,
        "normalization": "RMSNorm",
    }


def packed(path, config, add):
    with tarfile.open(path, "w") as archive:
        text = yaml.safe_dump(config).encode()
        member = tarfile.TarInfo("./model_config.yaml")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
        add(archive)


@pytest.mark.parametrize("unpacked", [False, True])
def test_an_archive_with_a_distributed_checkpoint(tmp_path, unpacked):
    source = model_at(tmp_path / "a", dense(2))
    tensors = {f"model.{name}": tensor for name, tensor in stacked(expected_tensors(source)).items()}
    dcp.save(tensors, checkpoint_id=tmp_path / "model_weights", no_dist=True)
    (tmp_path / "model_weights" / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    packed(tmp_path / "m.nemo", model_config(source.config), lambda archive: archive.add(tmp_path / "model_weights", "./model_weights"))
    if unpacked:
        with tarfile.open(tmp_path / "m.nemo") as archive:
            archive.extractall(tmp_path / "m", filter="data")
    read = NemoArchive(tmp_path / ("m" if unpacked else "m.nemo"))
    assert read.config == source.config
    assert all(torch.equal(read.read(name), source.read(name)) for name in source.names)


def write_zarr(directory, tensors, cut):
    """Arrays as Megatron kept them: bfloat16 by its name, whole chunks even where the array ends inside one."""
    for name, tensor in tensors.items():
        grid = [-(-size // pieces) for size, pieces in zip(tensor.shape, (*cut, 1, 1), strict=False)]
        (directory / name).mkdir(parents=True)
        described = {"chunks": grid, "compressor": None, "dtype": "bfloat16", "fill_value": None, "filters": None, "order": "C"}
        (directory / name / ".zarray").write_text(json.dumps(described | {"shape": list(tensor.shape), "zarr_format": 2}))
        for place in itertools.product(*(range(-(-size // step)) for size, step in zip(tensor.shape, grid, strict=True))):
            padded = torch.full(grid, 9.0, dtype=torch.bfloat16)
            part = tensor[tuple(slice(at * step, (at + 1) * step) for at, step in zip(place, grid, strict=True))]
            padded[tuple(slice(size) for size in part.shape)] = part
            (directory / name / ".".join(map(str, place))).write_bytes(padded.view(torch.int16).numpy().tobytes())
    (directory / "metadata.json").write_text('{"sharded_backend": "zarr", "sharded_backend_version": 1}')


@pytest.mark.parametrize("cut", [(1, 1, 1), (3, 4, 2), (2, 3, 3)])
def test_an_archive_of_zarr_arrays(tmp_path, cut):
    source = model_at(tmp_path / "a", dense(2), torch.bfloat16)
    write_zarr(tmp_path / "weights", {f"model.{name}": tensor for name, tensor in stacked(expected_tensors(source)).items()}, cut)
    packed(tmp_path / "m.nemo", model_config(source.config), lambda archive: archive.add(tmp_path / "weights", "./model_weights"))
    read = NemoArchive(tmp_path / "m.nemo")
    assert read.config == source.config
    for name in source.names:
        assert torch.equal(read.read(name), source.read(name)) and torch.equal(read.rows(name, 3, 7), source.rows(name, 3, 7)), name


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"compressor": {"id": "zstd"}}, "is no plain array"),
        ({"dtype": "<i4"}, "is no plain array"),
        ({"chunks": [0, 19]}, "is no plain array"),
        ({"chunks": [1, 1], "shape": [2**40, 2**20]}, "at most 1,000,000 are read"),
        ({"shape": "x"}, "has no description of a zarr array"),
        ({"shape": [2**50, 19], "chunks": [2**50, 19]}, "is missing or has not"),
        ({"shape": [61, 19]}, "is missing or has not"),
    ],
)
def test_zarr_arrays_that_cannot_be_true(tmp_path, changed, sentence):
    source = model_at(tmp_path / "a", dense(0), torch.bfloat16)
    write_zarr(tmp_path / "model_weights", stacked(expected_tensors(source)), (1, 1, 1))
    path = tmp_path / "model_weights" / "output_layer.weight" / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(model_config(source.config)))
    with pytest.raises(CheckpointError, match=sentence):
        NemoArchive(tmp_path)


def one_rank(source):
    """The state dict of one rank: projections whole, each layer's norm a module of its own."""
    found = OrderedDict()
    for name, tensor in expected_tensors(source).items():
        name = name.replace("self_attention.linear_qkv.layer_norm_", "input_layernorm.")
        name = name.replace("mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm.")
        if name.endswith((".z", ".x", ".B", ".C", ".dt")):
            whole = name.rpartition(".")[0]
            found[f"model.{whole}"] = torch.cat([found[f"model.{whole}"], tensor]) if f"model.{whole}" in found else tensor
        else:
            found[f"model.{name}"] = tensor
    found["model.decoder.layers.0.mlp.linear_fc1._extra_state"] = None
    return found


def with_one_file(path, config, tensors, name="model_weights.ckpt"):
    """A .nemo whose tensors are one file."""
    torch.save(tensors, path.with_name("tensors"))
    packed(path, config, lambda archive: archive.add(path.with_name("tensors"), name))
    return path


@pytest.mark.parametrize("make", [hybrid, dense])
def test_an_archive_with_the_file_of_one_rank(tmp_path, make):
    config = make(0)
    source = model_at(tmp_path / "a", config)
    said = (model_config if make is dense else hybrid_config)(config)
    read = NemoArchive(with_one_file(tmp_path / "m.nemo", said, one_rank(source), "./model_weights.ckpt"))
    assert read.config.layers == config.layers
    assert all(torch.equal(read.read(name), source.read(name)) for name in source.names)


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w')",)


def test_no_code_of_an_archive_runs(tmp_path):
    source = model_at(tmp_path / "a", dense(0))
    hostile = one_rank(source) | {"model.decoder.hook": Runs(tmp_path / "ran")}
    with_one_file(tmp_path / "m.nemo", model_config(source.config), hostile)
    with pytest.raises(CheckpointError, match=r"asks for '\w+\.exec'.*nothing of it was run"):
        NemoArchive(tmp_path / "m.nemo")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model_config.yaml").write_text(f"hidden_size: !!python/object/apply:os.system ['touch {tmp_path / 'ran'}']")
    with pytest.raises(CheckpointError, match="holds no plain YAML"):
        NemoArchive(tmp_path / "b")
    assert not (tmp_path / "ran").exists()


def test_yaml_that_repeats_itself_costs_nothing(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 30)]
    (tmp_path / "model_config.yaml").write_text("\n".join([*lines, "hidden_size: *a29", "activation: *a29"]))
    source = model_at(tmp_path / "a", dense(0))
    torch.save(one_rank(source), tmp_path / "model_weights.ckpt")
    with pytest.raises(CheckpointError, match="lacks hidden_size"):
        NemoArchive(tmp_path)


def test_damaged_archives_are_one_sentence(tmp_path):
    source = model_at(tmp_path / "a", dense(0))
    path = with_one_file(tmp_path / "m.nemo", model_config(source.config), one_rank(source))
    data = path.read_bytes()
    for kept in (0, 100, 600, len(data) // 2):
        path.write_bytes(data[:kept])
        with pytest.raises(CheckpointError, match=r"no tar archive or a damaged one|is cut short|has no model_config"):
            NemoArchive(path)
    path.write_bytes(gzip.compress(data))
    with pytest.raises(CheckpointError, match="a compressed one is unpacked first"):
        NemoArchive(path)


def test_archives_of_several_ranks_say_what_to_do(tmp_path):
    source = model_at(tmp_path / "a", dense(0))
    with_one_file(tmp_path / "m.nemo", model_config(source.config), one_rank(source), "mp_rank_00/model_weights.ckpt")
    with pytest.raises(CheckpointError, match="are to be merged with NeMo first"):
        NemoArchive(tmp_path / "m.nemo")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("activation", "fast-swiglu", "squared ReLU only"),
        ("normalization", "rmsnorm", "is read with LayerNorm or layernorm1p"),
        ("bias", True, "with false only"),
        ("hidden_size", -3, "a whole number from 1"),
        ("num_layers", 10**9, "a whole number from 1"),
        ("ffn_hidden_size", 14, r"has shape \[12, 19\], but its config asks for \[14, 19\]|has shape \[20, 19\]"),
    ],
)
def test_what_a_config_cannot_say(tmp_path, name, value, sentence):
    source = model_at(tmp_path / "a", dense(0))
    torch.save(one_rank(source), tmp_path / "model_weights.ckpt")
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(model_config(source.config) | {name: value}))
    with pytest.raises(CheckpointError, match=sentence):
        NemoArchive(tmp_path)


def test_directories_that_are_none(tmp_path):
    with pytest.raises(CheckpointError, match="has no directory weights"):
        NemoCheckpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no model_config\.yaml"):
        NemoArchive(tmp_path)
    with pytest.raises(CheckpointError, match="There is no archive"):
        NemoArchive(tmp_path / "gone.nemo")
    export(model_at(tmp_path / "a", dense(0)), tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "context")
    (tmp_path / "b" / "weights" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="says nothing of its model's shape"):
        NemoCheckpoint(tmp_path / "b")
