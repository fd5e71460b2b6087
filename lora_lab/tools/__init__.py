"""Recipes of other programs, read and written; nothing of theirs is run."""
