"""Everything that knows Ray: Tune coordinates the trials of a sweep, Train forms the worker groups of sharded ones."""
