"""One trial: a base model is loaded once, the trees of stages under it are walked, measured, and their rows committed.

Knows torch (through `memexp.core`) and neither Ray nor where it is: the same `memexp.trial.execute.execute` is called
in a test, in this process (`memexp.local`), in a Tune trial and on eight ranks. Imported by whatever executes trials.
"""
