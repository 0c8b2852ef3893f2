"""Two hybrids that several claims are put to the test on, so that what is found of one is found of the same model in all."""

from amaru.recipes.shape import Shape

SMALL = Shape(pattern="M-M-M*-M-M-", hidden=192, groups=2, mamba_heads=16, mamba_channels=24, state=64)  # 3.7 M with 2,048 tokens
LARGE = Shape(  # 15 M
    pattern="M-M-M-M*-M-M-M-", hidden=352, groups=4, mamba_heads=16, mamba_channels=44, state=64, attention_channels=32, query_heads=8
)
