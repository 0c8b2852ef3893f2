"""Alignment in small: a world of requests that a program can check, a model that learns to answer them, and what each stage adds."""
