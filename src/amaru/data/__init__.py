"""Text in, training batches out: documents, tokenizer, packed rows, and a loader that is a function of the step.

Here live no models and no training; it imports config and errors (and torch, numpy, tokenizers) only.
"""
