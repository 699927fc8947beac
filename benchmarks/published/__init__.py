"""The published scripts' way: each of the three scripts runs by itself."""
