"""Every family into every format and back, each time with a certificate: `python benchmarks/interop/formats.py --write`.

Draws a small random model of each family (all widths odd, no parameter at its usual start), converts it, converts the copy back, and
compares bytes. Prints one table; `--write` puts it into docs/formats.md. Exit 1 when a cell that should hold does not.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import transformers  # noqa: E402
from drawn import experts  # noqa: E402
from tests.models.random_models import FAMILIES, random_model  # noqa: E402

import amaru.models.hf  # noqa: E402, F401  (Auto classes for hymba and amaru)
from amaru.errors import AmaruError  # noqa: E402
from amaru.models import Decoder, DecoderConfig  # noqa: E402
from amaru.models.checkpoint import Checkpoint, save  # noqa: E402
from amaru.models.convert import Job  # noqa: E402
from amaru.models.targets import Request  # noqa: E402
from amaru.models.verify import verify  # noqa: E402
from amaru.nn import MLP, Attention, Mamba2  # noqa: E402

BEGIN, END = "<!-- measured by benchmarks/interop/formats.py -->", "<!-- end -->"
TITLES = {
    "nemotron_h": "Nemotron-H, Nano v2",
    "pruned": "Nemotron-H, widths that differ by layer",
    "nemotron_h with experts": "Nemotron-3 (mixture of experts)",
    "nemotron": "Nemotron-4, Minitron",
    "llama": "Llama 3",
    "qwen2": "Qwen 2.5",
    "hymba": "Hymba",
    "amaru": "any other tuple of layers",
}


def pruned(seed: int) -> DecoderConfig:
    """A Nemotron-H whose layers have widths of their own."""
    mamba = [Mamba2(heads=heads, channels=channels, groups=2, state=8) for heads, channels in ((16, 16), (24, 16))]
    attention = Attention(query_heads=4, kv_heads=2, channels=32)
    layers = (mamba[0], MLP(ffn=20), mamba[1], MLP(ffn=13), attention, MLP(ffn=20))
    return DecoderConfig(vocab=67, hidden=96, layers=layers)


@torch.no_grad()
def loud(decoder: Decoder) -> Decoder:
    """Mamba outputs of the size that trained models have; of tiny ones a gated norm would mostly see its epsilon, which padding changes."""
    for name, parameter in decoder.named_parameters():
        if name.endswith("mixer.D"):
            parameter.mul_(8)
    return decoder


# Beside what the tests draw: layers as published models have them, where a format cannot say every Nemotron-3 that transformers can.
DRAWN: dict[str, Callable[[int], DecoderConfig]] = {"pruned": pruned, "nemotron_h with experts": lambda seed: experts(1)}


def there_and_back(path: Path, to: str, work: Path, **asked: object) -> str:
    """Converted with a certificate, then back to Hugging Face's layout, where every stored byte is the first one's."""
    out, again = work / f"{path.name}-{to}", work / f"{path.name}-{to}-back"
    Job(Request(source=str(path), out=str(out), to=to, **asked)).run()  # type: ignore[arg-type]
    Job(Request(source=str(out), out=str(again), to="hf")).run()
    first, last = Checkpoint(path), Checkpoint(again)
    if first.config != last.config or any(not torch.equal(first.read(name), last.read(name)) for name in first.names):
        return "differs after the way back"
    return "yes"


def certified(path: Path, to: str, work: Path, **asked: object) -> str:
    """Converted with a certificate, for formats that keep another number than the stored one: the largest difference of a logit."""
    found = Job(Request(source=str(path), out=str(work / f"{path.name}-only-{to}"), to=to, **asked)).run()  # type: ignore[arg-type]
    return f"yes, {found.differences['float32']:.0e}" if found.differences["float32"] else "yes"


def stock(path: Path, work: Path) -> str:
    """transformers' own code for this family, layer by layer."""
    certificate = verify(path, f"transformers:{path}")
    return "yes" if certificate.equal else certificate.verdict


def registered(path: Path, work: Path) -> str:
    """The Auto classes, with amaru's classes where transformers has none."""
    ids = torch.arange(1, 9)[None]
    # transformers' grouped product wants widths that are multiples of 16 bytes; these are drawn odd on purpose.
    odd = {"experts_implementation": "eager"} if "experts" in path.name else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(path, **odd)
    found = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
    return "yes" if found.shape == (1, 12) else f"{tuple(found.shape)}"


COLUMNS: dict[str, Callable[[Path, Path], str]] = {
    "Hugging Face": lambda path, work: there_and_back(path, "hf", work),
    "stock transformers agrees": stock,
    "Auto classes generate": registered,
    "Megatron-Core": lambda path, work: there_and_back(path, "megatron", work),
    "NeMo 2": lambda path, work: there_and_back(path, "nemo", work),
    "GGUF": lambda path, work: certified(path, "gguf", work, dtype="fp32"),
    "`--uniform`, to HF": lambda path, work: certified(path, "hf", work, uniform=True),
}


def cells(work: Path) -> Iterator[tuple[str, str, str]]:
    for family, title in TITLES.items():
        config = DRAWN.get(family, FAMILIES.get(family))(0)  # type: ignore[misc]
        path = work / family.replace(" ", "-")
        save(loud(random_model(config, 0)), path)
        for column, prove in COLUMNS.items():
            try:
                yield title, column, prove(path, work)
            except AmaruError as error:
                yield title, column, f"no: {error}"


def table(found: dict[str, dict[str, str]]) -> str:
    """One row for each family; reasons below."""
    lines = [f"| family | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 1) + "|"]
    reasons: dict[str, int] = {}
    for title, row in found.items():
        marks = [cell if cell.startswith("yes") else f"no [{reasons.setdefault(cell, len(reasons) + 1)}]" for cell in row.values()]
        lines.append(f"| {title} | {' | '.join(marks)} |")
    notes = [f"{number}. {reason.removeprefix('no: ')}" for reason, number in reasons.items()]
    return "\n".join([*lines, "", "What amaru says where it refuses:", "", *notes])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the cells as one JSON document")
    parser.add_argument("--write", action="store_true", help="put the table into docs/formats.md")
    asked = parser.parse_args()
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for title, column, cell in cells(Path(folder)):
            found.setdefault(title, {})[column] = re.sub(rf"{re.escape(folder)}/", "", cell)
            print(f"{title}: {column}: {cell[:100]}", file=sys.stderr)
    print(json.dumps(found, indent=2) if asked.json else table(found))
    if asked.write:
        page = ROOT / "docs" / "formats.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return int(any("differ" in cell for row in found.values() for cell in row.values()))


if __name__ == "__main__":
    sys.exit(main())
