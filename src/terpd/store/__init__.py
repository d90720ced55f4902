"""What the control plane remembers: the only place that speaks SQL; changes when records or engines do."""

from terpd.store.sqlite import SqliteStore, open_sqlite

__all__ = ["SqliteStore", "open_sqlite"]
