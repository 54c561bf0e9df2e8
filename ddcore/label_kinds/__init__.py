"""Kinds of labels, what a student loses by them, what they cost and how a teacher makes them; import ``ddcore.labels``."""
