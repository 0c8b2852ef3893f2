"""Claims of trained shapes: sizes and stacks, rows that can be recalled, attention by hand, verdicts from records, one whole run."""

import json
from random import Random

import numpy as np
import pytest
import torch
from tests.models.random_models import random_model
from tests.recipes.small import flags, write_corpus

from amaru.cli.main import main
from amaru.config import to_dict
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError
from amaru.eval.long_context.probes import PROBES
from amaru.eval.recall import ordinary
from amaru.models import cost
from amaru.models.pattern import pattern_of
from amaru.nn.batch import Batch
from amaru.recipes.reproduce import judging
from amaru.recipes.reproduce.claims import CLAIMS, verdict
from amaru.recipes.reproduce.trained import ladder, shares, twins
from amaru.recipes.reproduce.trained.attention import FIRST_QUERY, attention_facts, probabilities
from amaru.recipes.reproduce.trained.mixture import SHORTEST, SOURCES, Words, made_rows
from amaru.recipes.reproduce.trained.scaling import Scaling, question, scores, times_as_fast
from amaru.recipes.reproduce.trained.sizes import as_large
from amaru.recipes.reproduce.trained.trials import Trials, cells


@pytest.mark.parametrize(("module", "recipe"), [(twins, twins.Twins()), (shares, shares.Shares()), (ladder, ladder.Ladder())])
def test_all_shapes_of_a_claim_are_of_one_size(module, recipe):
    sizes = [cost.parameters(config) for config in module.shapes(recipe, 2048).values()]
    assert list(module.shapes(recipe, 2048)) == module.names(recipe)
    assert min(sizes) > 3e6 and max(sizes) < 4e6 and max(sizes) / min(sizes) < 1.003


def test_attention_is_spread_evenly_and_never_first():
    assert shares.pattern(26, 2) == "M-M-M-M-*-M-M-M-*-M-M-M-M-"
    for attention in (0, 1, 2, 4):
        said = shares.pattern(26, attention)
        assert len(said) == 26 and said.count("*") == attention and said.count("-") == 13 and said.startswith("M")
    assert shares.pattern(26, 13) == "*-" * 13 and shares.pattern(26, 26) == "*" * 26
    configs = shares.shapes(shares.Shares(), 512)
    assert configs["50%"].layers[0].rope and not next(each for each in configs["8%"].layers if each.kind == "attention").rope


def test_the_rungs_differ_by_what_they_are_named_after():
    rungs = ladder.shapes(ladder.Ladder(), 512)
    assert pattern_of(rungs["A"].layers) == "*M-" * 7 and pattern_of(rungs["B"].layers) == "H-" * 7
    windows = {name: [layer.window for layer in rungs[name].layers[::2]] for name in "BCDE"}
    assert windows["B"] == [None] * 7 and windows["C"] == windows["E"] == [None, 64, 64, None, 64, 64, None]
    assert [layer.shares_kv for layer in rungs["D"].layers[::2]] == [False, False, True, False, False, True, False]
    assert rungs["E"].meta_tokens == 16 and {layer.sinks for layer in rungs["E"].layers[::2]} == {0, 16}


def test_rows_hold_whole_documents_with_all_that_is_to_be_recalled():
    said = PROBES["passkey"].make(Random(0), 9, 0.5).prompt
    tokenizer = Tokenizer.train([f"{said} 12 + 34 = 46\n"] * 9, vocab=500)
    words = Words(tokenizer, ordinary(tokenizer)[:64])
    for name in SOURCES:
        rows = made_rows(name, words, 4, 512, {"made": "x"})
        shortest = SHORTEST.get(name, 512)
        assert len(rows) == 4 and all(start % shortest == 0 for start in rows.starts)
        lengths = np.diff([*rows.starts, 2048]).tolist()
        assert set(lengths) <= {32, 64, 128, 256, 512} and (len(lengths) > 4) == (name in SHORTEST) and min(lengths) >= shortest
        for start, length in zip(rows.starts, lengths, strict=True):
            ids = [token for token in rows.tokens[start : start + length].tolist() if token != tokenizer.eos_id]
            text = tokenizer.decode(ids)
            if name == "passkey":
                key = text.rstrip(".").rsplit(" ", 1)[1]
                assert text.count(key) == 3
            if name == "sums":
                assert all(int(a) + int(b) == int(c) for line in text.strip().split("\n") for a, _, b, _, c in [line.split()])
            if name == "recall":
                assert a_dictionary(ids, words) or any(ids[: len(ids) - n] == ids[n:] for n in range(2, 1 + length // 2))
    short = made_rows("recall", words._replace(longest=64), 4, 512, {"made": "x"})
    assert {*np.diff([*short.starts, 2048]).tolist()} == {32, 64}
    with pytest.raises(ConfigError, match="make rows longer"):
        made_rows("passkey", words, 1, 32, {"made": "x"})


def a_dictionary(ids, words):
    """Whether every key has one value wherever it stands, and some key stands more than once."""
    keys, values = ids[0 : len(ids) - 1 : 2], ids[1::2]
    return (
        set(keys) <= set(words.ids[:32])
        and set(values) <= set(words.ids[32:])
        and len({*zip(keys, values, strict=True)}) == len({*keys}) < len(keys)
    )


@torch.no_grad()
def test_attention_is_looked_at_as_it_is():
    """Of a window layer with meta tokens: what its shares make of the values is what the op makes of them."""
    recipe = ladder.Ladder(hidden=64, window=5, meta_tokens=3)
    config = ladder.shapes(recipe, 300)["E"]
    decoder = random_model(config, 0)
    ids = torch.arange(40) % 300
    found = attention_facts(decoder, [ids.numpy()])
    assert [each["layer"] for each in found] == [0, 2, 4, 6, 8, 10, 12]

    seen = {}
    hook = decoder.layers[2].mixer.register_forward_hook(lambda mixer, given, made: seen.update(u=given[0], batch=given[1], kv=made[1]))
    decoder.hidden_states(Batch.of([ids]))
    hook.remove()
    mixer = decoder.layers[2].mixer
    shares_ = probabilities(mixer, seen["u"], seen["batch"], seen["kv"].keys)
    y = torch.einsum("hqk,khv->qhv", shares_, seen["kv"].values.double().repeat_interleave(mixer.config.query_heads, 1))
    q = mixer._rotated(mixer.in_proj(seen["u"])[:, mixer.rows["q"]].unflatten(-1, (mixer.config.query_heads, -1)), seen["batch"])
    theirs = seen["kv"].attend(q, seen["batch"], scale=mixer.scale, window=5, sinks=3)
    assert torch.allclose(y, theirs.double(), atol=1e-5)
    late = shares_[:, 3 + FIRST_QUERY :]
    assert found[1]["meta"] == pytest.approx(float(late[..., :3].sum(-1).mean()))
    assert found[1]["first"] == pytest.approx(float(late[..., 3].mean())) == 0  # behind the window
    assert found[1]["entropy"] == pytest.approx(float(torch.distributions.Categorical(late).entropy().mean()))


def record(shape, seed, loss, scores, attention=()):
    tasks = {name: {"metrics": {"accuracy": {"mean": value}}, "cells": {"16": {"mean": value}}} for name, value in scores.items()}
    facts = {"shape": shape, "seed": seed, "rate": 0.002, "parameters": 3_700_000, "tokens": 2_500_000, "seconds": 1.0, "bytes": 100}
    return facts | {"loss": loss, "tasks": tasks, "attention": list(attention)}


def write(directory, name, recipe, made):
    facts = {"kind": f"reproduce-{name}", "recipe": to_dict(recipe), "started": "2026-11-21", "amaru": "0"}
    (directory / "run.json").write_text(json.dumps(facts))
    names = {"twins": twins, "attention-share": shares, "hymba-ladder": ladder}[name].names(recipe)
    for cell in cells(recipe, names):
        (directory / f"cell-{cell.name}.json").write_text(json.dumps(made(cell)))


def test_twins_are_judged_seed_by_seed_at_their_best_rates(tmp_path):
    recipe = twins.Twins()
    losses = {"hybrid": 3.0, "transformer": 3.01, "mamba": 3.1}

    def made(cell):
        worse = 0.5 if cell.rate == recipe.rates[0] else 0.0  # of two rates the better one counts
        return record(cell.shape, cell.seed, losses[cell.shape] + 0.01 * cell.seed + worse, {"recall": 0.9, "copy": 0.8, "passkey": 0.7})

    write(tmp_path, "twins", recipe, made)
    claim = CLAIMS["twins"]
    found = verdict(claim, tmp_path)
    assert found["verdict"] == "holds" and found["claims"][0]["figure"] == pytest.approx(9.03 / 9.06 - 1, abs=1e-4)
    path = tmp_path / "cell-hybrid-seed1.json"
    content = json.loads(path.read_text())
    content["tasks"]["recall"]["metrics"]["accuracy"]["mean"] = 0.1
    path.write_text(json.dumps(content))
    found = verdict(claim, tmp_path)
    assert [each["verdict"] for each in found["claims"]] == ["holds", "undecided", "holds", "holds"] and found["verdict"] == "holds in part"
    for name in ("hybrid", "transformer"):
        for path in tmp_path.glob(f"cell-{name}-*.json"):
            content = json.loads(path.read_text())
            content["tasks"]["copy"]["metrics"]["accuracy"]["mean"] = 0.1
            path.write_text(json.dumps(content))
    found = verdict(claim, tmp_path)
    assert [each["verdict"] for each in found["claims"]] == ["holds", "undecided", "undecided", "holds"]
    assert "none of them has learned it in so many tokens (hybrid 0.100, transformer 0.100; guessing 0.031)" in found["sentence"]
    (tmp_path / "cell-hybrid-seed0-lr0.002.json").unlink()
    found = claim.judge(tmp_path)
    assert found["missing"] == ["hybrid-seed0-lr0.002"] and "3.7 M parameters" in found["claims"][0]["setting"]


@pytest.mark.parametrize(("at_8", "expected"), [(3.005, "holds"), (3.2, "does not hold")])
def test_a_share_is_enough_when_the_best_is_hardly_better(tmp_path, at_8, expected):
    losses = {"0%": 3.3, "4%": 3.1, "8%": at_8, "15%": 3.0, "50%": 3.05, "100%": 3.6}
    scores = dict.fromkeys(("recall", "copy", "passkey"), 0.5)

    def made(cell):
        return record(cell.shape, cell.seed, losses[cell.shape] * (1 + cell.seed / 1e4), scores)

    write(tmp_path, "attention-share", shares.Shares(), made)
    found = CLAIMS["attention-share"].judge(tmp_path)
    assert found["claims"][0]["verdict"] == expected and "beside 15%, the best other share" in found["claims"][0]["sentence"]
    assert len(found["curves"][0]["lines"]["seed 0"]) == 6


def test_the_ladder_reads_losses_recall_and_attention(tmp_path):
    losses = {"llama": 3.2, "mamba": 3.1, "A": 3.05, "B": 3.0, "C": 3.001, "D": 3.002, "E": 2.99}
    sizes = {"llama": 500, "B": 1000, "C": 400, "D": 300}

    def made(cell):
        seen = {"layer": 0, "entropy": 2.0, "meta": 0.0, "first": 0.3, "itself": 0.1}
        seen |= {"entropy": 1.5, "meta": 0.4, "first": 0.01} if cell.shape == "E" else {}
        loss, scores = losses[cell.shape] * (1 + cell.seed / 1e5), {"recall": 0.6 if cell.shape == "E" else 0.5, "copy": 0.5}
        return record(cell.shape, cell.seed, loss, scores, [seen]) | {"bytes": sizes.get(cell.shape, 1)}

    write(tmp_path, "hymba-ladder", ladder.Ladder(weights={"text": 1.0, "recall": 1.0}), made)
    found = CLAIMS["hymba-ladder"].judge(tmp_path)
    assert found["verdict"] == "holds" and len(found["claims"]) == 6 and len(found["maps"]) == 4
    assert "The first token gets 30.0% of the attention without them and 1.0% with them; they get 40.0%" in found["sentence"]


def test_settings_that_cannot_be_judged_are_refused():
    with pytest.raises(ConfigError, match="at least two different seeds"):
        Trials(seeds=(1, 1))
    with pytest.raises(ConfigError, match="There is no text named 'sum'"):
        Trials(weights={"text": 1.0, "sum": 1.0})
    with pytest.raises(ConfigError, match="attention is 0 to 13, or all"):
        shares.Shares(attention=(0, 2, 13, 20))
    with pytest.raises(ConfigError, match="cannot have 1"):
        as_large(twins.shapes(twins.Twins(), 64)["hybrid"], 1)


TOY = ["text.limit_megabytes=null", "text.vocab=300", "text.row_length=64", "text.validation_share=0.2", "alphabet=16", "seeds=[0,1]"]
TOY += ["weights={text: 0.6, recall: 0.4}", "learning.tokens=256", "learning.batch_rows=2", "learning.validations=1", "rates=[0.002]"]
TOY += ["recall=[16,32]", "samples=2", "timing.prompt=8", "timing.context=8", "timing.steps=1", "timing.repeats=1", "timing.batch=1"]
TOY += ["shape.pattern=M-*-", "shape.hidden=64", "shape.mamba_heads=8", "shape.mamba_channels=8", "shape.groups=2", "shape.state=8"]


def test_whole_twins_are_made_once_and_continued(tmp_path, capsys):
    corpus, out = write_corpus(tmp_path / "text", documents=8), tmp_path / "run"
    words = ["reproduce", "twins", "--out", str(out), "--json", *flags([f"text.data=[{corpus}]", *TOY])]
    assert main(words) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == [] and len(found["tables"][0]["rows"]) == 3 and all(row[-1] > 0 for row in found["tables"][0]["rows"])
    assert [each["title"] for each in found["maps"]] == ["Recall by length", "Copy by length"] and len(found["maps"][0]["cells"]) == 6
    page = (out / "report.html").read_text()
    assert "A hybrid&#39;s loss is at most 1%" in page and "as accurate as a Transformer of its size" in page
    asked = flags([f"twins={out}", "questions=3", "samples=2", "together=4", "shown=2"])
    assert main(["reproduce", "inference-scaling", "--out", str(tmp_path / "scaling"), "--json", *asked]) in (0, 1)
    scaled = json.loads(capsys.readouterr().out)
    assert scaled["missing"] == [] and len(scaled["curves"][0]["lines"]) == 4 and len(scaled["claims"]) == 4

    (out / "cell-mamba-seed1.json").unlink()
    before = json.loads((out / "steps.json").read_text())
    assert main(words) in (0, 1)
    after = json.loads((out / "steps.json").read_text())
    assert {name for name in after if after[name] != before[name]} <= {"cell-mamba-seed1.json"}
    assert json.loads(capsys.readouterr().out)["claims"] == found["claims"]


def test_samples_are_counted_as_the_best_and_as_the_most_frequent():
    said = {0: ["7", "5", "5", "5"], 1: ["3", "3", "4", "4"], 2: ["1", "2", "8", "9"]}
    found = scores(said, {0: "5", 1: "3", 2: "6"}, [1, 2, 4])
    assert found == {"best": [1 / 3, 2 / 3, 2 / 3], "majority": [1 / 3, 1 / 3, 2 / 3]}
    text, right = question(Scaling(shown=3), 1)
    *solved, open_line = text.split("\n")
    assert len(solved) == 3 and open_line.endswith("=") and eval(open_line[:-1]) == int(right)


def test_time_to_the_same_accuracy():
    theirs = {"counts": [1, 2, 4], "best": [0.1, 0.3, 0.3], "seconds": 8.0}
    assert times_as_fast({"counts": [1, 2, 4], "best": [0.3, 0.4, 0.5], "seconds": 4.0}, theirs, "best") == 4.0
    assert times_as_fast({"counts": [1, 2, 4], "best": [0.1, 0.2, 0.2], "seconds": 4.0}, theirs, "best") == 0.0


def test_nothing_gained_in_any_seed_is_no_gain():
    assert [judging.positive(bounds) for bounds in ([0.0, 0.0], [0.01, 0.2], [-0.1, 0.1], [-0.2, -0.1], None)] == [
        *("undecided", "holds", "undecided", "does not hold", "unfinished")
    ]


def test_what_was_never_right_is_not_reached_sooner(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"kind": "x", "recipe": to_dict(Scaling(samples=4)), "started": "", "amaru": "0"}))
    for shape, seconds, best in (("hybrid", 2.0, 0.2), ("transformer", 4.0, 0.0)):
        for seed in (0, 1):
            found = {"counts": [1, 2, 4], "best": [0.0, 0.1 * seed, best], "majority": [0.1, 0.2, 0.3 + 0.1 * seed], "seconds": seconds}
            found["best"] = found["best"] if best else [0.0] * 3
            (tmp_path / f"cell-{shape}-seed{seed}.json").write_text(json.dumps(found))
    verdicts = [each["verdict"] for each in CLAIMS["inference-scaling"].judge(tmp_path)["claims"]]
    assert verdicts == ["holds", "undecided", "undecided", "holds"]
