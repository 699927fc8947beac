"""How fast memexp is beside two other ways of doing the same, each time checked to give the same numbers first.

    make bench                                                   # everything, hours; writes benchmarks/RESULTS.md
    python -m benchmarks --parts study,recall --pairs 1 --sentences 32 --out /tmp/bench     # a glance

- (a) `benchmarks.published`: scripts written from the published protocol, before anything was tuned.
- (b) `benchmarks.careful`: what a careful user of transformers writes.
- (c) `benchmarks.executed`: memexp's own trials in plain processes, for what Ray adds.
- `benchmarks.harnessed`: HFLM of lm-evaluation-harness, for what memexp's scorer is worth behind the same tasks.
"""
