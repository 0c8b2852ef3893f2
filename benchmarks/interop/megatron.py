"""Does Megatron-Core compute what amaru computes, from checkpoints that either has written?

    python benchmarks/interop/megatron.py --python /path/to/environment/bin/python --json megatron.json

The environment needs torch, megatron-core, einops and safetensors. Small models of random weights, no parameter at a trivial value,
are written as checkpoints of several ranks; Megatron-Core loads each, in as many tensor-parallel processes as another number says,
computes logits on a CPU in fp32 and saves the model again; the logits are held against amaru's, and what it saved is read back.
Exit 1 when any differs.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from amaru import __version__
from amaru.models import Decoder, DecoderConfig
from amaru.models.checkpoint import Checkpoint, assemble, save
from amaru.models.formats.megatron import MegatronCheckpoint, export
from amaru.models.pattern import layers_from_pattern
from amaru.nn import MLP, Attention, Mamba2
from amaru.nn.batch import Batch
from amaru.nn.moe import MoE
from amaru.nn.rope import Rope

SIDE = Path(__file__).with_name("megatron_side.py")
RANKS = ((1, 1), (4, 1), (1, 2), (4, 2))  # how many ranks the checkpoint is cut for, and how many processes load it
TOLERANCE = 1e-4  # of the largest logit, in fp32

WIDTHS = {
    "M": Mamba2(heads=12, channels=6, groups=4, state=16),
    "*": Attention(query_heads=8, kv_heads=4, channels=6),
    "-": MLP(ffn=100),
}
EXPERTS = MoE(experts=8, top_k=4, ffn=20, shared_ffn=40, groups=4, top_groups=2, scale=2.5)
ROTARY = Attention(query_heads=12, kv_heads=4, channels=12, rope=Rope(fraction=0.5))
MODELS = {
    "nemotron-h": DecoderConfig(vocab=96, hidden=56, layers=layers_from_pattern("M-MM*-M-*-", WIDTHS)),  # type: ignore[arg-type]
    "nemotron-h, tied": DecoderConfig(vocab=96, hidden=56, layers=layers_from_pattern("*-M-", WIDTHS), tied=True),  # type: ignore[arg-type]
    "nemotron-3": DecoderConfig(vocab=96, hidden=56, layers=layers_from_pattern("MEM*E", WIDTHS | {"E": EXPERTS})),  # type: ignore[arg-type]
    "nemotron-4": DecoderConfig(vocab=100, hidden=72, layers=(ROTARY, MLP(ffn=120)) * 4, norm="layernorm1p", max_positions=512),
}


def main() -> int:
    asked = arguments()
    results = [compared(name, *ranks, asked.python) for name in asked.model or MODELS for ranks in RANKS]
    facts = {"amaru": __version__, "torch": torch.__version__, "models": results, "equal": all(each["equal"] for each in results)}
    for each in results:
        distance = f"logits {each['logits']:.1e} apart at a scale of {each['scale']:.2f}, saved again: {each['saved']}"
        title = f"{each['model']:18} cut for {each['ranks']}, loaded by {each['processes']}"
        print(f"{title}   {distance}   {'equal' if each['equal'] else 'DIFFERENT'}")
    print(f"megatron-core {results[0]['side']['versions']['megatron-core']}: {'equal' if facts['equal'] else 'DIFFERENT'}")
    if asked.json:
        asked.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return 0 if facts["equal"] else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter of an environment with megatron-core")
    parser.add_argument("--model", action="append", choices=MODELS, help="one of the models alone; may be repeated")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser.parse_args()


def compared(name: str, ranks: int, processes: int, python: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        save(random_model(MODELS[name]), here / "model")
        export(Checkpoint(here / "model"), here / "megatron", ranks=ranks)
        side = loaded(python, processes, here)
        source, again = Checkpoint(here / "model"), MegatronCheckpoint(here / "saved")
        theirs = load_file(here / "logits")
        with torch.no_grad():
            ours = assemble(source.config, source.read)(Batch.of(list(theirs["ids"]))).view_as(theirs["logits"])
        same = [torch.equal(again.read(each), source.read(each)) for each in source.names]
        saved = again.config.layers == source.config.layers and all(same)
    distance, scale = float((ours - theirs["logits"]).abs().max()), float(ours.abs().max())
    equal = distance <= TOLERANCE * scale and saved and not side["absent"]
    figures = {"logits": distance, "scale": scale, "saved": saved, "equal": equal}
    return {"model": name, "ranks": ranks, "processes": processes, **figures, "side": side}


def loaded(python: str, processes: int, here: Path) -> dict[str, Any]:
    """What the processes of Megatron-Core say of the checkpoint; -P, because this file too is called megatron."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [python, "-P", SIDE, here / "megatron" / "iter_0000000", here / "logits", here / "saved"]
    outputs = [here / f"output-{rank}" for rank in range(processes)]
    started = []
    for rank, output in enumerate(outputs):
        with open(output, "w") as file:
            started.append(subprocess.Popen([*command, str(rank), str(processes), port], stdout=file, stderr=subprocess.STDOUT))
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit("\n".join(output.read_text() for output in outputs) + "\nMegatron-Core could not load the checkpoint.")
    return json.loads(next(line for line in outputs[0].read_text().splitlines() if line.startswith('{"versions"')))


def random_model(config: DecoderConfig) -> Decoder:
    model = Decoder(config).initialise(seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
            elif name != "embedding.weight":
                parameter.mul_(2)
    return model


if __name__ == "__main__":
    sys.exit(main())
