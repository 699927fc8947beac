"""Everything that knows Ray: Tune coordinates the trials of a sweep, Train forms the worker groups of sharded ones.

- `connect`: the cluster, and whether it can hold what a sweep asks for.
- `joining`, `servers`: starting Ray or joining a cluster, and its servers while one is connected.
- `nodes`: whether every node of a cluster could execute a trial.
- `environment`: the driver's settings and credentials, on their way to the workers.
- `experiment`: the trials of conditions as one Tune experiment; what every experiment shares.
- `groups`: a trial of several workers.
- `searches`: the searches of a sweep as one Tune experiment.
- `active_search`: one search while it is executed: its suggestions, its sampler and its rule of stopping.
- `stopping`: Ray's rules of stopping, as a search asks them.

Others import from here only inside functions, so that nothing but `memexp run` and its like waits for Ray.
"""
