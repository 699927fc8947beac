"""Sweeps that a cluster executes by itself: what travels there, and the commands that submit, read and stop."""
