"""IFEval (Zhou et al. 2023) as a task: reading its records and scoring answers; the checkers are those of `amaru.instructions`."""
