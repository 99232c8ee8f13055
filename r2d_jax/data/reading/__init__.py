"""Readers of every kind of source; in: a path or address, out: raw rows, nothing guessed."""
