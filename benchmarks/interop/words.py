"""The same token ids in llama.cpp? A tokenizer is trained for each way to cut words that GGUF has a name for, and odd texts are encoded.

    python benchmarks/interop/words.py --llama L/bin/python

Exit 1 when a text is encoded otherwise and nothing says so beforehand.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from drawn import drawn
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from amaru.data.tokenizer import END, Tokenizer
from amaru.models import DecoderConfig
from amaru.models.formats import gguf
from amaru.models.formats.gguf.vocabulary import CUTS, Cut
from amaru.nn import MLP, Attention, Mamba2

HERE = Path(__file__).parent
TEXTS = [
    "It's 12345 o'clock  añade 日本語\n\n\treturn",
    "DON'T WE'LL i'M He'Ll 's 't 'S ''s",
    "ÉCOLE éCole ÀÀÀa Straße ǅungla ǆ",
    "  \n \n\n   x  \t\t y \r\n\r\n z   ",
    "a1b22c333d4444 １２３ ½ Ⅷ ٣٤٥",
    "क्षि नमस्ते กำ e\u0301e\u0301 n\u0303 مرحبا שלום привет ΣΊΣΥΦΟΣ",
    "🦙👩‍👩‍👧 !!! ... ---/// http://a.b/c?d=1&e=2",
    "\u00a0nbsp\u2003em\u3000ideographic\u200bzero \x01\x7f",
    "x" * 50 + " " * 30 + "y",
    "_private __init__(self, *args, **kwargs): CamelCaseWORDSAndHTMLParser",
]
LETTERS = "aAbB1 2\n\t'\u00a0éÉ日ß½.,/-_🦙\u0301ǅ"
VOCAB = 2000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", metavar="PYTHON", required=True, help="the interpreter of an environment that has llama-cpp-python")
    parser.add_argument("--seed", type=int, default=0, help="draws texts beside the fixed ones")
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    texts = TEXTS + ["".join(draw.choices(LETTERS, k=30)) for _ in range(200)]
    found = [told(asked.llama, pattern, cut, texts) for pattern, cut in CUTS.items()]
    return 0 if all(found) else 1


def told(python: str, pattern: str, cut: Cut, texts: list[str]) -> bool:
    """Print how many texts have the same ids; whether all have, or amaru says that some may not."""
    tokenizer = trained(pattern)
    with tempfile.TemporaryDirectory() as directory:
        answer = encoded(python, tokenizer, texts, Path(directory))
    others = [text for text, ids in zip(texts, answer["texts"], strict=True) if ids != tokenizer.encode(text)]
    print(f"{cut.name:<10} llama.cpp {answer['version']}: {len(texts) - len(others)} of {len(texts)} texts have the same ids")
    for text in others:
        print(f"    otherwise: {text!r}")
    if others and cut.remark:
        print(f"    as `amaru convert` notes: {cut.remark}")
    return not others or cut.remark is not None


def encoded(python: str, tokenizer: Tokenizer, texts: list[str], place: Path) -> dict:
    layers = (Mamba2(heads=2, channels=8, groups=1, state=16), Attention(query_heads=1, kv_heads=1, channels=32), MLP(ffn=32))
    decoder = drawn(DecoderConfig(vocab=VOCAB, hidden=32, layers=layers), 0)
    weights = {name: weight.detach() for name, weight in decoder.named_parameters()}
    gguf.write(place / "words.gguf", decoder.config, weights.__getitem__, "f32", tokenizer)
    (place / "request.json").write_text(json.dumps({"dtype": "float32", "prompts": [[0]], "tokens": 1, "texts": texts}))
    paths = [str(place / name) for name in ("words.gguf", "request.json", "answer.json")]
    subprocess.run([python, str(HERE / "serve_llama.py"), *paths], check=True, stderr=subprocess.DEVNULL)
    return json.loads((place / "answer.json").read_text())


def trained(pattern: str) -> Tokenizer:
    """Byte-level BPE on Python's own source and the odd texts, with words cut by `pattern`."""
    backend = Backend(models.BPE())
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    corpus = [Path(json.__file__).read_text(), Path(argparse.__file__).read_text(), *TEXTS * 20]
    backend.train_from_iterator(corpus, trainer)
    backend.encode_special_tokens = True
    return Tokenizer(backend, {"tokenizer_config.json": json.dumps({"bos_token": END, "eos_token": END})})


if __name__ == "__main__":
    sys.exit(main())
