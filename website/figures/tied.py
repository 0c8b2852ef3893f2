"""Numbers trained for queries, keys and values of LLaMA2-7B, by the formulas of tests/adapters/test_tied_lora.py."""

from amaru.report.svg import INK, SERIES, canvas

LAYERS, HIDDEN = 32, 4096
ROWS = 3 * HIDDEN  # queries, keys and values are one projection
RANKS = [2**power for power in range(1, 8)]


def draw() -> str:
    one = {rank: rank * (HIDDEN + ROWS) for rank in RANKS}  # A and B, once
    vectors = {rank: LAYERS * (rank + ROWS) for rank in RANKS}  # u and v, in every layer
    lines = {
        "LoRA: A and B in every layer": [LAYERS * one[rank] for rank in RANKS],
        "Tied-LoRA: A and B once, u and v": [one[rank] + vectors[rank] for rank in RANKS],
        "u and v only": [vectors[rank] for rank in RANKS],
        "A and B once, no u and v": [one[rank] for rank in RANKS],
    }
    with canvas(3.2) as c:
        for (name, numbers), colour in zip(lines.items(), SERIES, strict=False):
            (line,) = c.axes.plot(RANKS, numbers, "o-", color=INK[colour], markersize=3.5, label=name)
            c.mark(line, f"{name}: {numbers[2]:,} at rank 8")
        c.axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="numbers that are trained")
        c.axes.set_xticks(RANKS, [str(rank) for rank in RANKS])
        c.axes.set_yticks([1e5, 1e6, 1e7, 1e8], ["0.1 M", "1 M", "10 M", "100 M"])
        c.legend(columns=2)
    return c.text
