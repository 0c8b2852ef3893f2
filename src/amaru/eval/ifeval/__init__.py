"""IFEval (Zhou et al. 2023): instructions whose following a program can check. Each checker in our own words; texts in, booleans out."""
