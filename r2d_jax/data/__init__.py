"""Readers, tokenizer, prompts and fixed-shape features; in: files of rows, out: int32 arrays."""
