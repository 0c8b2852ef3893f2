"""The pieces of the measurement, each well under nine minutes: `python benchmarks/gpu/pieces.py NAME OUT` adds to OUT/records.json.

They stand in the order of their worth, the least risk first. Without a GPU a piece runs on a tiny model, to see that it runs.
"""

import gc
import importlib.metadata
import json
import platform
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import inference
import operations
import torch
import training
from measure import DEVICE, Ceilings, ceilings, wait
from piece import Lacking, Piece, Row, row

from amaru import __version__


def machine(limits: Ceilings) -> list[Row]:
    return [row("copy, bytes read and written", limits.copy / 1e12, "TB/s"), row("bf16 product 8192³", limits.product / 1e12, "TFLOP/s")]


PIECES: dict[str, Piece] = {
    "machine": machine,
    "smoke": operations.smoke,
    "decode": inference.decode,
    "prefill": inference.prefill,
    "kernels": operations.kernels,
    "scan": operations.scan,
    "products": operations.products,
    "training": training.training,
    "training_fp8": training.training_fp8,
    "throughput_nemotron_h_8b": inference.throughput("nemotron-h-8b"),
    "throughput_llama_3_1_8b": inference.throughput("llama-3.1-8b"),
    "throughput_qwen2_5_7b": inference.throughput("qwen2.5-7b"),
    "throughput_nemotron_h_56b": inference.throughput("nemotron-h-56b", fp8=True),
    "throughput_nemotron_h_47b": inference.throughput("nemotron-h-47b", fp8=True),
    "transformers": inference.transformers,
    "pretraining_bf16": training.pretraining_bf16,
    "pretraining_fp8": training.pretraining_fp8,
    "compression": training.compression,
}


def record(name: str) -> dict[str, Any]:
    """What a piece gave, or why it gave nothing, with the machine and the versions."""
    start, limits = time.time(), ceilings()
    said: dict[str, Any] = {"status": "done", "rows": []}
    try:
        said["rows"] = PIECES[name](limits)
        wait()
    except Lacking as reason:
        said |= {"status": "lacks", "said": str(reason)}
    except Exception as error:
        traceback.print_exc()
        said |= {"status": "failed", "said": f"{type(error).__name__}: {error}"[:500]}
    gc.collect()
    return {"piece": name, **said, "seconds": round(time.time() - start, 1), "ceilings": asdict(limits), "machine": here()}


def here() -> dict[str, str]:
    gpu = torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else "none"
    versions = {"amaru": __version__} | {each: version(each) for each in ("triton", "transformers", "torchao")}
    return {"gpu": gpu, "torch": torch.__version__, "python": platform.python_version(), "day": time.strftime("%Y-%m-%d"), **versions}


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main(name: str, out: str) -> None:
    found = record(name)
    keep(Path(out), found)
    print(json.dumps(found["rows"] or found.get("said"), indent=1))


def keep(folder: Path, found: dict[str, Any]) -> None:
    """One file for all, in the order of the pieces: what comes back from a machine elsewhere may be few files."""
    path = folder / "records.json"
    records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    records[found["piece"]] = found
    path.write_text(json.dumps({name: records[name] for name in PIECES if name in records}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--list"]:
            print("\n".join(PIECES))
        case [name, out]:
            main(name, out)
        case [name, out, said]:  # of a piece whose process did not come so far
            limits = Ceilings(0.0, 0.0)
            keep(Path(out), {"piece": name, "status": "failed", "said": said, "rows": [], "ceilings": asdict(limits), "machine": here()})
