"""RewardBench's categories: which subsets make which, and how much each counts (arXiv 2403.13787)."""

SUBSETS = {
    "Chat": ("alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med"),
    "Chat Hard": (
        *("mt-bench-hard", "llmbar-natural", "llmbar-adver-neighbor"),
        *("llmbar-adver-GPTInst", "llmbar-adver-GPTOut", "llmbar-adver-manual"),
    ),
    "Safety": ("refusals-dangerous", "refusals-offensive", "xstest-should-refuse", "xstest-should-respond", "donotanswer"),
    "Reasoning": ("math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"),
}
CATEGORY = {subset: category for category, subsets in SUBSETS.items() for subset in subsets}

# LLMBar's own files (arXiv 2310.07641), which are five of the subsets, pair by pair.
LLMBAR = {
    "Natural": "llmbar-natural",
    "Adversarial_Neighbor": "llmbar-adver-neighbor",
    "Adversarial_GPTInst": "llmbar-adver-GPTInst",
    "Adversarial_GPTOut": "llmbar-adver-GPTOut",
    "Adversarial_Manual": "llmbar-adver-manual",
}

# Subsets count by their pairs, but for math-prm: its 447 pairs count as 984, as many as the six subsets of code have together.
COUNTED = {"math-prm": 984}


def weights_of(counts: dict[str, int]) -> dict[str, float]:
    """What one pair of each subset counts in its category: `weights_of({"math-prm": 447, "hep-go": 164})`."""
    return {subset: COUNTED.get(subset, count) / count for subset, count in counts.items()}
