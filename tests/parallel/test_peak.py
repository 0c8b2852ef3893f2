"""What reading a divided checkpoint takes: about the weights divided by the processes, and never a whole tensor beside them."""

from pathlib import Path

import pytest
import torch
from tests.parallel.ranks import Ranks

from amaru.models import Decoder, DecoderConfig
from amaru.models.checkpoint import save
from amaru.nn import MLP, Attention, Mamba2
from amaru.parallel.decoder import load_part

MAMBA, ATTENTION = Mamba2(heads=32, channels=64, groups=8, state=64), Attention(query_heads=16, kv_heads=4, channels=64)
LAYERS = (MAMBA, MLP(ffn=8192), ATTENTION, MLP(ffn=8192))
CONFIG = DecoderConfig(vocab=16384, hidden=1024, layers=LAYERS)


def high_water() -> int:
    """The most memory that this process has had (of `getrusage` a child inherits its parent's)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def peak(path: Path) -> tuple[int, int]:
    """Bytes of the weights that are held, and by how much the process grew at most while they were read."""
    load_warm = torch.zeros(8) @ torch.zeros(8)  # what torch itself takes at first use is none of this
    before = high_water()
    decoder = load_part(path)
    held = sum(parameter.nbytes for parameter in decoder.parameters()) + load_warm.nbytes
    return held, high_water() - before


@pytest.mark.soak
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_process_reads_its_part_and_a_little(tmp_path: Path, processes: int) -> None:
    decoder = Decoder(CONFIG).initialise(0)
    whole = sum(parameter.nbytes for parameter in decoder.parameters())
    save(decoder, tmp_path / "model")
    with Ranks(processes) as ranks:
        for held, grown in ranks(peak, tmp_path / "model"):
            print(f"{processes} processes: {held / 2**20:.0f} MiB of {whole / 2**20:.0f} held, {grown / 2**20:.0f} MiB at most")
            assert held == pytest.approx(whole / processes, rel=0.02)
            assert grown < held + 100 * 2**20
