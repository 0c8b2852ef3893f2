"""One training loop for every objective: fetch, forward, backward, clip, step, report; interrupted and resumed exactly.

Here live the loop, its optimizer, schedule, checkpoints and metrics. What is learned comes in as an objective (`distill`
has others), what it is learned from as a loader. Imports models and below; never serve, report or distill.
"""
