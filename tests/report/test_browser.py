"""The page of every kind of run in headless Chromium: no complaint, nothing loaded, charts that are seen, small."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.align.rounds.small import write_rows
from tests.align.small import write_pairs
from tests.recipes.small import SHORT, TEXT, compress_words, flags, train_words, write_corpus
from tests.recipes.test_align import write_recipe
from tests.recipes.test_reward import ratings
from tests.recipes.test_sft import write_chats
from tests.serve.server.chromium import PROGRAM, browser
from tests.synth.recipes import bound

from amaru.cli.main import main
from amaru.report.runs import PAGES, write_report
from amaru.synth import session

pytestmark = [pytest.mark.soak, pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")]
RECORDS = Path(__file__).parents[2] / "benchmarks"
QUICK = ["--epochs", "1", "--set", "learning.validations=1"]


def called(*words: object, codes: tuple[int, ...] = (0,)) -> None:
    assert main([*map(str, words)]) in codes


class Place:
    """A folder with a corpus and a trained model, in which every kind of run can be made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus, self.model = write_corpus(folder / "corpus", documents=20), folder / "train" / "model"
        called(*train_words(self.corpus, folder / "train"))

    def chats(self) -> Path:
        return write_chats(self.folder / "chats.jsonl", "add {}", "x + {}", 20)

    def train(self, run: Path) -> None:
        shutil.copytree(self.folder / "train", run)

    def compress(self, run: Path) -> None:
        called(*compress_words(self.corpus, self.model, run))

    def distill(self, run: Path) -> None:
        words = ["--teacher", self.model, "--student", self.model, "--data", self.corpus, "--tokens", "1k", "--hidden", "mse"]
        called("distill", *words, "--out", run, *flags(TEXT[1:], SHORT))

    def sft(self, run: Path) -> None:
        called("sft", self.model, "--data", self.chats(), "--template", "plain", *QUICK, "--out", run)

    def adapt(self, run: Path) -> None:
        called("adapt", self.model, "--data", self.chats(), "--template", "plain", *QUICK, "--out", run)

    def prefer(self, run: Path) -> None:
        write_pairs(run.with_suffix(".jsonl"), 20)
        called("prefer", self.model, "--data", run.with_suffix(".jsonl"), "--template", "plain", *QUICK, "--out", run)

    def reward(self, run: Path) -> None:
        rows = write_rows(run.with_suffix(".jsonl"), ratings(20))
        called("reward", "train", self.model, "--data", rows, "--add-special-tokens", *QUICK, "--out", run)

    def align(self, run: Path) -> None:
        (self.folder / "rounds").mkdir()
        file = write_recipe(self.folder / "rounds")
        recipe = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump(recipe | {"rounds": [recipe["rounds"][0] | {"times": 1}]}))
        called("align", file, "--out", run)

    def synth(self, run: Path) -> None:
        steps = [{"name": "seeds", "kind": "seeds", "rows": [{"n": n, "text": f"number {n}"} for n in range(50)]}]
        session.run(bound("http://127.0.0.1:1/v1", [*steps, {"name": "odd", "kind": "filter", "where": "n % 2"}]), run)

    def eval(self, run: Path) -> None:
        words = ["--tasks", "passkey", "--tasks", "recall", "--lengths", "256,512", "--samples", "2", "--against", self.model]
        called("eval", self.model, *words, "--cache", "none", "--out", run)

    def text(self, run: Path) -> None:
        called("eval", self.model, "--data", self.corpus, "--teacher", self.model, "--row-length", "64", "--out", run)

    def claim(self, run: Path) -> None:
        shutil.copytree(RECORDS / "claims" / "47b", run)
        called("reproduce", "47b", "--judge", "--out", run, codes=(0, 1))

    def fp8(self, run: Path) -> None:
        shutil.copytree(RECORDS / "fp8" / "records", run)
        called("reproduce", "fp8", "--judge", "--out", run, codes=(0, 1))

    def tied_lora(self, run: Path) -> None:
        shutil.copytree(RECORDS / "tied_lora" / "records", run)
        called("reproduce", "tied-lora", "--judge", "--out", run, codes=(0, 1))


CHARTS = {  # how many drawings a page has at least
    "train": 4, "compress": 5, "distill": 2, "sft": 1, "adapt": 1, "prefer": 2, "reward": 1, "align": 1, "synth": 1, "eval": 1, "text": 1,
    "claim": 0, "fp8": 1, "tied_lora": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.mark.parametrize("kind", CHARTS)
def test_a_page_is_seen_as_it_was_drawn(kind: str, place: Place, tmp_path: Path) -> None:
    run: Path = place.folder / f"{kind}-run"
    make: Callable[[Path], None] = getattr(place, kind)
    make(run)
    path = write_report(run)
    assert path.stat().st_size < 1_000_000
    with browser(tmp_path / "profile") as page:
        page.open(path.as_uri())
        assert page.requests == [path.as_uri()] or set(page.requests) == {path.as_uri(), "data:,"}
        drawn = "Array.from(document.querySelectorAll('figure svg'), svg => svg.getBoundingClientRect())"
        assert page.evaluate(f"{drawn}.filter(box => box.width > 300 && box.height > 60).length") >= CHARTS[kind]
        assert page.evaluate("document.querySelectorAll('section').length") >= 1
        for scheme in ("light", "dark"):
            page.prefer(scheme)
            blank = "Array.from(document.querySelectorAll('svg .mark *')).filter(each => getComputedStyle(each).fill === '').length"
            assert page.evaluate(blank) == 0
        for width in (1280, 400):
            page.resize(width, 800)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"wider than a window of {width}"
        assert page.complaints == []


def test_every_kind_of_page_is_looked_at() -> None:
    """A kind that is added to `amaru report` is looked at here; those of long experiments have tests with records of their own."""
    experiments = {"demo", "reproduce-compression", "reproduce-group-aware"}
    here = {"reproduce-fp8" if kind == "fp8" else "reproduce-tied-lora" if kind == "tied_lora" else kind for kind in CHARTS}
    assert set(PAGES) - experiments <= here
