"""Synthetic data: recipes of steps that ask models over HTTP, and a store from which nothing that was answered is ever lost.

Lives here: the client, the store, what answers must be, and the steps. Not here: models that run in this process (`serve` offers them
over HTTP), and learning from what was made (`train`, `align`). Imports config, data, instructions, sandbox and errors; never torch.
"""
