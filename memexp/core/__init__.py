"""Plain torch: load, train, score, snapshot.

Uses torch.distributed and never Ray, so it works under Ray Train, torchrun and a test's two gloo processes alike.
"""
