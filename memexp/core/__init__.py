"""Plain torch: load, train, forget, score, complete, snapshot. Nothing here knows what a sweep or a trial is.

- `model`, `load`, `adapter`, `shard`, `tokenizer`: a model in memory. `processes`, `ranks`: those that share it.
- `train`, `batches`, `data`, `optimizer`, `schedule`, `forget`: what changes it.
- `session`, `scoring`, `generate`, `harness`: what is asked of it, by probes.
- `fork`, `checkpoint`: its states, in memory and in a store.

Uses torch.distributed and never Ray, so it works under Ray Train, torchrun and a test's two gloo processes alike. Only
`memexp.trial` imports it outright; probes, the cluster and `memexp.local` do inside functions, where torch is there.
"""
