"""Speed, measured beside what the machine can do and what other programs do on the same checkpoint, in one run.

Lives here: limits of this machine, our engine's rows, and the scripts that run peers in environments of their own (`peers/`, which
nothing here imports).
"""
