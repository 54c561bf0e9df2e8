"""Honest rows: what a set is worth beside what one gets for nothing."""
