"""The proof of a cut holds for what was planned, and fails for one number of one tensor and for heads that change groups."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.compress.families import FAMILIES, family_decoder, family_texts
from tests.compress.test_plan import drawn_scores

from amaru.compress import Plan
from amaru.compress.proof import prove, put_first
from amaru.compress.ranking import Ranking, cut_for
from amaru.compress.shape import shaped
from amaru.compress.surgery import cut_decoder
from amaru.models.checkpoint import save
from amaru.nn import Batch

NARROW = {
    "nemotron_h": {"hidden": 7, "ffn": 5, "head": 2, "channel": 3, "state": 4, "kv_group": 2},
    "hymba": {"hidden": 7, "ffn": 5, "query": 2, "v_channel": 3},
    "moe": {"hidden": 7, "head": 2, "channel": 3},
}


def carried_out(family: str, folder: Path, ranking: Ranking | None = None) -> tuple[Plan, Path, Path]:
    config = FAMILIES[family]
    sizes = {axis: size for axis, size in NARROW[family].items() if ranking is None or axis == "head"}
    candidate, scores = shaped(config, sizes), drawn_scores(config)
    cut = cut_for(candidate, config, scores, ranking)
    plan = Plan(parent=config, candidate=candidate, cut=cut, ranking=ranking or Ranking(), made_from={})
    save(family_decoder(family).float(), folder / "parent")
    plan.cut_checkpoint(folder / "parent", folder / "cut")
    return plan, folder / "parent", folder / "cut"


@pytest.mark.parametrize("family", NARROW)
def test_a_cut_is_proven_and_a_changed_row_shows(family: str, tmp_path: Path) -> None:
    plan, parent, cut = carried_out(family, tmp_path)
    found = prove(plan, parent, cut)
    assert found.holds and found.verdict.startswith(f"holds: {found.tensors} tensors have the parent's rows to the bit")
    assert found.parameters == plan.candidate.parameters and found.plan == plan.key
    weights = load_file(cut / "model.safetensors")
    name = next(name for name in weights if name.endswith("out_proj.weight"))
    weights[name][-1, 0] += 1e-3
    save_file(weights, cut / "model.safetensors")
    changed = prove(plan, parent, cut)
    assert not changed.holds and len(changed.wrong) == 1 and changed.wrong[0].endswith("out_proj.weight")
    assert "1 of" in changed.verdict


def test_heads_that_change_groups_are_no_proof(tmp_path: Path) -> None:
    found = prove(*carried_out("nemotron_h", tmp_path, Ranking(heads_ignoring_groups=True)))
    assert not found.wrong and not found.holds and "heads ignore their groups" in found.verdict


def test_the_reordered_parent_is_the_parent() -> None:
    decoder = family_decoder("nemotron_h")
    config = decoder.config
    cut = cut_for(shaped(config, NARROW["nemotron_h"]), config, drawn_scores(config))
    turned = cut_decoder(decoder, put_first(config, cut))
    assert turned.config == config
    first = cut.network["hidden"].indices
    assert torch.equal(turned.embedding.weight[:, : len(first)], decoder.embedding.weight[:, torch.tensor(first)])
    assert not torch.equal(turned.embedding.weight, decoder.embedding.weight)
    batch = Batch.of(family_texts())
    with torch.no_grad():
        assert torch.allclose(turned(batch), decoder(batch), rtol=0, atol=1e-10)
