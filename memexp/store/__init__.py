"""Where results are: create-once Parquet files, side files beside them, and questions to both.

Knows what a row is (`memexp.records`), not what trained it: may import errors, identity and records only. Everybody
above may import it; readers of results need nothing else.
"""

from memexp.store.hidden import EXPORT
from memexp.store.store import Problem, Store, Verification, default_store, option_for

__all__ = ["EXPORT", "Problem", "Store", "Verification", "default_store", "option_for"]
