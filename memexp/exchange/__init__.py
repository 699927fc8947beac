"""Results in and out of a store: one file a kind for handing on, and published results as rows beside one's own.

- `compact`: exports a store.
- `llm_memory`: imports what Orhan 2023 (arXiv 2303.17557) published.

Another format is another file here. Knows the store, records and identities, and nothing of how rows are made; only the
command line imports it.
"""
