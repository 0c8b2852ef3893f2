"""The command line: a table of verbs, each loaded only when it is asked for, and the one place where errors become exit codes.

    main(["env", "--json"])  ->  0

Convention for a verb: `amaru/cli/<verb>.py` defines one typer function `command`, or several by name in `commands` (`amaru data
show`), or both (`amaru plan`, `amaru plan align`), whose docstring is the verb's help and whose body is thin. It parses, calls the
library, and hands the result to `emit` of `amaru.cli.output`:

    def command(checkpoint: Path, json: JsonFlag = False) -> None:
        \"""Print what a checkpoint is made of.\"""
        from amaru.models.cost import describe        # what needs torch is imported here, so that --help stays fast
        emit(describe(checkpoint), json=json, people=print_layers)

- Data goes to stdout, progress to stderr (`LiveLine`); with `--json` stdout is exactly one JSON document.
- Exit 0 is fine, 1 is a finding (`raise Finding("sentence")`, after `emit`), 2 is usage or any `AmaruError`.
- A verb whose work can be continued says so in the table (`resumes`); Ctrl-C and SIGTERM then promise it.
"""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from typing import Any, NamedTuple

import typer

from amaru import __version__
from amaru.cli.output import Finding, closest
from amaru.errors import AmaruError

FINDING, USAGE, BUG, BROKEN_PIPE = 1, 2, 101, 141

# Idle OpenMP threads spin before they sleep. Spinning long slows a busy machine several times over (the core that it burns
# is the one another thread waits for), and on a quiet one this short it costs nothing: 6,570 against 6,700 tokens/s.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Tensors of 2 MB and more lie in huge pages where Linux gives them (`madvise`). Memory is then read at 55 GB/s instead of 35 (two
# Zen 4 cores, a virtual machine), and one sequence decodes at 59 tokens/s instead of 49.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


class Verb(NamedTuple):
    """One row of the front page; the verb lives in the module of its name."""

    help: str
    resumes: bool = False


VERBS = {
    "demo": Verb("Train, compress, distil and compare a small model on this machine, in about ten minutes", resumes=True),
    "show": Verb("Show what a model is made of: its stack, widths and parameters"),
    "plan": Verb("Tell what a model needs before it runs: weights, caches, state"),
    "data": Verb("Prepare text for training: tokenise, drop duplicates, look into it", resumes=True),
    "init": Verb("Write a checkpoint of new weights, of any size"),
    "train": Verb("Train a hybrid model on your text", resumes=True),
    "sft": Verb("Fine-tune a model on conversations", resumes=True),
    "prefer": Verb("Train a model on comparisons of answers: DPO, IPO, RPO", resumes=True),
    "align": Verb("Align a model from a recipe: fine-tuning, then rounds of answers, judges and preferences", resumes=True),
    "reward": Verb("Train, measure and use models that tell how good an answer is", resumes=True),
    "synth": Verb("Make training data with models over HTTP, from a recipe", resumes=True),
    "adapt": Verb("Train an adapter (LoRA, Tied-LoRA) on conversations", resumes=True),
    "score": Verb("Measure what matters in a model: every width and every layer", resumes=True),
    "cut": Verb("Cut a model to a shape, by its scores"),
    "compress": Verb("Make a model smaller, to fit a budget of memory or parameters", resumes=True),
    "distill": Verb("Teach a student what its parent knows", resumes=True),
    "generate": Verb("Continue a prompt"),
    "serve": Verb("Serve models over HTTP as OpenAI does, with a playground"),
    "eval": Verb("Measure a model on text or by tasks: multiple choice, answers, code, instructions, long contexts", resumes=True),
    "convert": Verb("Write a model in another format, and prove that it is the same"),
    "quantize": Verb("Write a model with weights of 8 or 4 bits, and tell what that costs in quality"),
    "verify": Verb("Compare two checkpoints: tensors, logits, where they differ"),
    "reproduce": Verb("Try a claim of a paper on this machine, and judge it by its records", resumes=True),
    "report": Verb("Write the HTML report of a run"),
    "bench": Verb("Measure speed beside this machine's limits and other programs"),
    "env": Verb("Print what this machine offers, and which backend serves which operation"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 fine, 1 a finding, 2 usage or an `AmaruError`."""
    try:
        code = _guarded(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's last flush complains again
        return BROKEN_PIPE if isinstance(error, BrokenPipeError) else _say(f"the system refused: {error.strerror}.", USAGE)


def _guarded(words: list[str]) -> int:
    try:
        with _termination_as_interrupt():
            return _run(words)
    except Finding as finding:
        return _say(str(finding), FINDING)
    except AmaruError as error:
        return _say(str(error), USAGE)
    except KeyboardInterrupt:
        resumes = words[:1] and VERBS[words[0]].resumes
        return _say("stopped; the same command continues where it stopped." if resumes else "stopped.", USAGE)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _say(f"{error.filename or 'the system refused'}: {error.strerror}.", USAGE) if error.errno else _report_bug(error)
    except Exception as error:
        return _report_bug(error)


def _run(words: list[str]) -> int:
    match words:
        case [] | ["--help" | "-h", *_]:
            print(front_page())
        case ["--version", *_]:
            print(f"amaru {__version__}")
        case [verb, *rest] if verb in VERBS:
            return _run_verb(verb, rest)
        case [word, *_]:
            kind = "flag" if word.startswith("-") else "verb"
            known = ["--help", "--version"] if kind == "flag" else list(VERBS)
            return _say(f"there is no {kind} '{word}'.{closest(word, known)}", USAGE)
    return 0


def front_page() -> str:
    rows = "\n".join(f"  {name:<10}{verb.help}" for name, verb in VERBS.items())
    return (
        "amaru: build, train, compress, distil and run hybrid Mamba-Transformer language models\n\n"
        f"Usage: amaru VERB ...\n\n{rows}\n\n"
        "`amaru VERB --help` tells more; `amaru --version` prints the version. Every verb takes --json.\n"
        "A good first command: amaru demo"
    )


def load(verb: str, words: list[str]) -> tuple[str, Any, list[str]]:
    """`load("data", ["show", "tokens"])`: the full name of a verb, its click command, and the words that are left for it."""
    module = import_module(f"amaru.cli.{verb}")
    parts = getattr(module, "commands", {})
    if words and words[0] in parts:
        return f"{verb} {words[0]}", _click({words[0]: parts[words[0]]}), words[1:]
    return verb, _click({verb: module.command} if hasattr(module, "command") else parts), words


def _click(functions: dict[str, Any]) -> Any:
    app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
    for name, function in functions.items():
        app.command(name)(function)
    return typer.main.get_command(app)


def _run_verb(verb: str, words: list[str]) -> int:
    given, resumes, start = [verb, *words], VERBS[verb].resumes, time.monotonic()
    verb, command, words = load(verb, words)
    try:
        # Not command.main(): it would turn Ctrl-C and closed pipes into exit codes of its own.
        with command.make_context(f"amaru {verb}", list(words), obj=given) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except typer.TyperException as error:
        return _say(_usage_sentence(verb, command, words, error), USAGE)
    if resumes and (seconds := time.monotonic() - start) >= 1:  # long work says how long it took
        print(f"\n{verb} took {in_minutes(seconds)}", file=sys.stderr)
    return 0


def in_minutes(seconds: float) -> str:
    """`in_minutes(83.4)` -> "1 min 23 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _usage_sentence(verb: str, command: Any, words: list[str], error: typer.TyperException) -> str:
    flag = getattr(error, "option_name", None)
    known = [name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("-")]
    if flag and flag not in known:
        return f"{verb} has no flag '{flag}'.{closest(flag, known)} `amaru {verb} --help` lists them."
    message = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    found = _value_of(getattr(getattr(error, "param", None), "opts", ()), words)
    return f"{verb}: {message[0].lower()}{message[1:]}{f'; got {found!r}' if found else ''}. `amaru {verb} --help` tells more."


def _value_of(flags: Sequence[str], words: list[str]) -> str | None:
    """What was given to a flag, which typer's messages leave out."""
    for word, after in pairwise([*words, ""]):
        flag, equals, value = word.partition("=")
        if flag in flags:
            return value if equals else after
    return None


def _say(sentence: str, code: int) -> int:
    print(f"amaru: {sentence}", file=sys.stderr)
    return code


def _report_bug(error: Exception) -> int:
    with tempfile.NamedTemporaryFile("w", prefix="amaru-traceback-", suffix=".txt", delete=False, encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    return _say(f"this is a bug in amaru ({type(error).__name__}: {error}); the traceback is in {file.name}.", BUG)


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM ends a verb exactly as Ctrl-C does, so that it leaves the same whole files behind."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
