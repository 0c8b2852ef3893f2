"""Runs of reward models: training one, its accuracy on comparisons, and files whose answers it scores."""
