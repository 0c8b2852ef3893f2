"""Alignment in stages: the settings of `amaru align`, what one round does, what is measured after each, and what is checked before."""
