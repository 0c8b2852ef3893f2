"""One model on several processes: which rows of every tensor each of them holds, and what they tell each other.

Lives here: processes and their groups, the rows of a rank, collectives with their gradients, a decoder that is one rank's
part of a model. Not here: how a server or a training loop uses them (`serve.together`, `train.parallel`). Imports models and below.
"""
