"""Whole runs as functions: train, compress, distill, demo. Each passes saved artifacts from stage to stage.

Lives here: what connects the packages below, and the run directory that remembers finished steps. Not here: any
mathematics. May import everything but cli.
"""
