"""A recipe over several processes or machines: rows are made where their keys say, and everything is kept in one store.

Lives here: workers, who makes which row, and how they talk (pipes, Ray). Not here: the order of the steps and the store, which stay with
the process that was started (`running`, `store`).
"""
