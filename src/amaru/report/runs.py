"""Which page belongs to which run directory, and where it is written."""

from collections.abc import Callable
from pathlib import Path

from amaru.config.records import read_record
from amaru.errors import ArtifactError
from amaru.report.adapt import adapt_page
from amaru.report.alignment import alignment_page
from amaru.report.claim import claim_page
from amaru.report.compression import compression_page
from amaru.report.compression_claims import compression_claims_page
from amaru.report.demo import demo_page
from amaru.report.distillation import distillation_page
from amaru.report.evaluation import evaluation_run_page
from amaru.report.fp8 import fp8_page
from amaru.report.markdown import save_markdown
from amaru.report.page import Page
from amaru.report.preference import preference_page
from amaru.report.reward import reward_page
from amaru.report.sft import sft_page
from amaru.report.synthesis import synthesis_page
from amaru.report.tied_lora import tied_lora_page
from amaru.report.training import training_page

PAGES: dict[str, Callable[[Path], Page]] = {
    "train": training_page,
    "sft": sft_page,
    "reward": reward_page,
    "adapt": adapt_page,
    "align": alignment_page,
    "prefer": preference_page,
    "distill": distillation_page,
    "compress": compression_page,
    "demo": demo_page,
    "eval": evaluation_run_page,
    "synth": synthesis_page,
    "reproduce-compression": compression_claims_page,
    "reproduce-group-aware": compression_claims_page,
    "reproduce-fp8": fp8_page,
    "reproduce-tied-lora": tied_lora_page,
}


def write_report(directory: str | Path, out: str | Path | None = None) -> Path:
    """`write_report("runs/demo")`: `report.html` in the run directory, from its artifacts alone.

    An `out` that ends in .md becomes Markdown, with the figures in files beside it.
    Raises `ArtifactError` when the directory is no run, or has not come so far.
    """
    directory = Path(directory)
    if not (directory / "run.json").exists():
        raise ArtifactError(f"{directory} is no run directory: it has no run.json. Give what was the --out of a verb.")
    kind = read_record(directory / "run.json").get("kind")
    claims = str(kind).startswith("reproduce-")
    if kind not in PAGES and not claims:
        raise ArtifactError(f"{directory} is a {kind} run, which has no report; those of {', '.join(PAGES)} have.")
    path = Path(out) if out else directory / "report.html"
    page = PAGES.get(str(kind), claim_page)(directory)
    if path.suffix == ".md":
        save_markdown(page, path)
    else:
        page.save(path)
    return path
