"""A user's first minutes: a sweep to begin with, whether this machine is in order, an example of every command.

- `new`: ``memexp new NAME``; what it writes is new_sweep.txt and new_sweep.csv.
- `doctor`: ``memexp doctor``.
- `examples`: the end of every ``--help``.
"""
