"""What a sequence keeps: Nemotron-H 8B, a Transformer of its width, and its Mamba layers alone, in the bytes that `amaru plan` counts."""

from amaru.models.cost import Workload, memory
from amaru.models.decoder import DecoderConfig
from amaru.models.families import presets
from amaru.report.svg import INK, canvas

CONTEXTS = [2**power for power in range(10, 21)]


def draw() -> str:
    hybrid = presets()["nemotron-h-8b"]
    layers = {layer.kind: layer for layer in hybrid.layers}
    rows = {
        "Transformer: 32 attention layers": (layers["attention"], layers["mlp"]) * 32,
        "Nemotron-H 8B: 4 attention, 24 Mamba-2": hybrid.layers,
        "no attention: 24 Mamba-2": tuple(layer for layer in hybrid.layers if layer.kind != "attention"),
    }
    with canvas(3.4) as c:
        for (name, stack), colour in zip(rows.items(), ("attention", "mamba2", "mlp"), strict=True):
            config = DecoderConfig(vocab=hybrid.vocab, hidden=hybrid.hidden, layers=tuple(stack))
            kept = [memory(config, Workload(context=context)).sequences / 2**30 for context in CONTEXTS]
            (line,) = c.axes.plot(CONTEXTS, kept, color=INK[colour], label=name)
            c.mark(line, f"{name}: {kept[0]:.2f} GiB at 1,024 tokens, {kept[-1]:.2f} GiB at a million")
        c.axes.set(xscale="log", yscale="log", xlabel="tokens of context", ylabel="GiB a sequence keeps")
        c.axes.set_xticks([2**10, 2**13, 2**16, 2**20], ["1k", "8k", "64k", "1M"])
        c.axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        c.legend(columns=2)
    return c.text
