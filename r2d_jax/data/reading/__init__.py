"""Readers of every kind of source: a path or address becomes raw rows, nothing guessed."""
