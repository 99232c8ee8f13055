"""Converters of published data sets; in: their original files, out: rows.jsonl with a data card."""
