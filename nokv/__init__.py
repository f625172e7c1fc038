"""NoKV: a replicated, range-sharded, transactional key-value store in pure Python."""

__version__ = "0.1.0"
