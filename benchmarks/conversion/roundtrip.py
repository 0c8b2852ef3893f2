"""A large checkpoint to Megatron's format and back, bit for bit: time against a plain file copy, and memory of every process.

    python benchmarks/conversion/roundtrip.py --model nemotron-h-8b --place /somewhere/with/room

Writes random weights in bf16 (16.2 GB for 8B), needs twice that on the disk at a time, and deletes what it made. Every step
is a process of its own, begins with the files out of the page cache, and ends when what it wrote is on the disk.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

RANDOM_WEIGHTS = """
import sys, zlib, torch
from amaru.models.checkpoint import write
from amaru.models.families import config_of
config = config_of(sys.argv[1])
shapes = {name: spec.layout.shape(axes) for name, (spec, axes) in config.tensors().items()}
def read(name):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if name.endswith("norm.weight"):
        return torch.empty(shapes[name]).uniform_(0.5, 1.5, generator=generator)
    if name.endswith(("A_log", "D", "dt_bias")):
        return torch.empty(shapes[name]).uniform_(-1, 1, generator=generator)
    return torch.empty(shapes[name], dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
write(sys.argv[2], config, read, torch.bfloat16)
"""


def run(title: str, *words: str) -> dict[str, object]:
    """One process: seconds until its files are on the disk, and the most memory it held."""
    start = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    told = process.stdout.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{title} failed with {process.returncode}: {told}")
    os.sync()
    found = {"step": title, "seconds": round(time.monotonic() - start, 1), "peak_gb": round(used.ru_maxrss * 1024 / 1e9, 2), "told": told}
    print(f"{title:<40}{found['seconds']:>8} s {found['peak_gb']:>6} GB", flush=True)
    return found


def forget(directory: Path) -> None:
    """Take the files out of the page cache."""
    for path in files(directory):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def hashes(directory: Path) -> dict[str, str]:
    found = {}
    for path in files(directory):
        with open(path, "rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nemotron-h-8b", help="a preset, or a checkpoint directory whose shape is taken")
    parser.add_argument("--place", type=Path, required=True, help="a directory for the checkpoints; made, and deleted at the end")
    parser.add_argument("--tp", default="8", help="tensor-parallel ranks of the Megatron checkpoint")
    parser.add_argument("--compare", action="store_true", help="also compare the first and the second format (amaru verify)")
    options = parser.parse_args()
    place: Path = options.place
    place.mkdir(parents=True)
    amaru = (sys.executable, "-m", "amaru")
    first, megatron, back, copy = (place / name for name in ("hf", "megatron", "back", "copy"))
    try:
        steps = [run("random weights, written", sys.executable, "-c", RANDOM_WEIGHTS, options.model, str(first))]
        size, expected = sum(path.stat().st_size for path in files(first)), hashes(first)
        forget(first)
        steps.append(run("cp -r", "cp", "-r", str(first), str(copy)))
        shutil.rmtree(copy)
        forget(first)
        asked = ("--no-verify", "--json")
        steps.append(run("HF -> Megatron", *amaru, "convert", str(first), str(megatron), "--to", "megatron", "--tp", options.tp, *asked))
        if options.compare:
            forget(first)
            forget(megatron)
            steps.append(run("amaru verify HF Megatron", *amaru, "verify", str(first), str(megatron), "--out", str(place / "c.json")))
        shutil.rmtree(first)
        forget(megatron)
        steps.append(run("Megatron -> HF", *amaru, "convert", str(megatron), str(back), "--to", "hf", *asked))
        same = hashes(back) == expected
    finally:
        shutil.rmtree(place)
    print(json.dumps({"bytes": size, "files": len(expected), "bit_for_bit": same, "steps": steps}, indent=2))
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
