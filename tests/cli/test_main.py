"""The front page, exit codes and sentences of the command line, with stand-in verbs where a verb must fail."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from types import ModuleType

import pytest

from amaru.cli.main import VERBS, Verb, in_minutes, main
from amaru.cli.output import Finding
from amaru.errors import BudgetError


@pytest.fixture
def stand_in(monkeypatch):
    """`stand_in(function)` makes the function the verb `trial`."""

    def install(command, resumes=False):
        module = ModuleType("amaru.cli.trial")
        module.command = command
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(VERBS, "trial", Verb("A stand-in.", resumes))

    return install


def run_python(code, *arguments, **options):
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True, timeout=60, **options)


STAND_IN = """
    import sys, types
    from amaru.cli.main import VERBS, Verb, main
    module = types.ModuleType("amaru.cli.trial")
    VERBS["trial"] = Verb("A stand-in.", resumes=True)
    sys.modules[module.__name__] = module
"""


def test_the_front_page_is_fast_and_lists_every_verb():
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "amaru", "--help"], capture_output=True, text=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 0 and done.stderr == ""
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")] == list(VERBS)
    assert min(seconds) < 0.4, "of CPU time: the process waits for nothing else, and a busy machine must not decide"


def test_the_front_page_imports_nothing_heavy():
    done = run_python("""
        import sys
        from amaru.cli.main import main
        assert main(["--help"]) == 0
        print([name for name in ("torch", "numpy", "matplotlib", "pydantic_core", "transformers") if name in sys.modules], file=sys.stderr)
    """)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("verb", [*VERBS, "data prepare", "data show"])
def test_every_verb_answers_help(verb, capsys):
    assert main([*verb.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert f"amaru {verb}" in out and ("--json" in out or "Commands:" in out)


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["trian"], "there is no verb 'trian'. Did you mean 'train'?"),
        (["qqqq"], f"there is no verb 'qqqq'. There is: {', '.join(VERBS)}."),
        (["--verison"], "there is no flag '--verison'. Did you mean '--version'?"),
        (["env", "--jsn"], "env has no flag '--jsn'. Did you mean '--json'? `amaru env --help` lists them."),
    ],
)
def test_unknown_words_get_one_sentence(words, sentence, capsys):
    assert main(words) == 2
    assert capsys.readouterr() == ("", f"amaru: {sentence}\n")


def test_wrong_and_missing_values_get_one_sentence(stand_in, capsys):
    def command(source: str, steps: int = 3) -> None: ...

    stand_in(command)
    assert main(["trial", "a", "--steps", "many"]) == main(["trial", "a", "--steps=many"]) == main(["trial"]) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert "'--steps'" in first and "valid integer" in first and "got 'many'" in first
    assert second == first
    assert third == "amaru: trial: missing argument 'source'. `amaru trial --help` tells more."


@pytest.mark.parametrize(
    "error, code, line",
    [
        (BudgetError("The smallest is 3 MiB."), 2, "amaru: The smallest is 3 MiB.\n"),
        (Finding("The student lost."), 1, "amaru: The student lost.\n"),
        (PermissionError(13, "Permission denied", "a.txt"), 2, "amaru: a.txt: Permission denied.\n"),
        (OSError(28, "No space left on device"), 2, "amaru: the system refused: No space left on device.\n"),
    ],
)
def test_errors_become_one_line_and_a_code(stand_in, capsys, error, code, line):
    def command() -> None:
        raise error

    stand_in(command)
    assert main(["trial"]) == code
    assert capsys.readouterr() == ("", line)


def test_a_bug_is_named_as_one_and_leaves_its_traceback(stand_in, capsys):
    def command() -> None:
        raise ZeroDivisionError("by zero")

    stand_in(command)
    assert main(["trial"]) == 101
    line = capsys.readouterr().err
    assert line.startswith("amaru: this is a bug in amaru (ZeroDivisionError: by zero); the traceback is in ") and line.count("\n") == 1
    path = line.split()[-1].rstrip(".")
    with open(path, encoding="utf-8") as file:
        assert "raise ZeroDivisionError" in file.read()
    os.remove(path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_promises_to_continue(number):
    code = (
        STAND_IN
        + """
    def command():
        import time
        print("started", flush=True)
        time.sleep(60)
    module.command = command
    sys.exit(main(["trial"]))
    """
    )
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (2, "amaru: stopped; the same command continues where it stopped.\n")


def test_a_verb_that_keeps_nothing_promises_nothing(stand_in, capsys):
    def command() -> None:
        raise KeyboardInterrupt

    stand_in(command)
    assert main(["trial"]) == 2
    assert capsys.readouterr().err == "amaru: stopped.\n"


@pytest.mark.parametrize("ending", ["pass", "raise Finding('x')"])
def test_a_closed_pipe_is_quiet(ending):
    code = (
        STAND_IN
        + f"""
    from amaru.cli.output import Finding
    def command():
        for line in range(100_000):
            print("x" * 80)
        {ending}
    module.command = command
    sys.exit(main(["trial"]))
    """
    )
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=-1, stderr=-1, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_gets_one_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "amaru", "--help"], stdout=full, stderr=-1, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "amaru: the system refused: No space left on device.\n")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "amaru 0.1.0\n"


def test_long_work_says_how_long_it_took(stand_in, capsys):
    stand_in(lambda: time.sleep(1.01), resumes=True)
    assert main(["trial"]) == 0
    assert "trial took 0 min 1 s" in capsys.readouterr().err
    assert [in_minutes(seconds) for seconds in (0.4, 59.6, 83.4)] == ["0 min 0 s", "1 min 0 s", "1 min 23 s"]


def test_short_work_says_nothing_of_time(stand_in, capsys):
    stand_in(lambda: None, resumes=True)
    assert main(["trial"]) == 0
    assert "took" not in capsys.readouterr().err
