"""Searches without Ray: what a point stands for, what the store knows of it, and which point comes next.

- `candidates`: a point of the space and the trajectory it stands for; a search's identity.
- `ledger`: the stored suggestions of a search, how they ended, and their values.
- `samplers`: the points that are suggested. The one module that imports optuna.

What a search is, is described in `memexp.spec.search`; how one is executed is in `memexp.cluster.active_search`. May be
imported by cluster, report and what is above them; knows neither Ray nor, when it is imported, torch.
"""
