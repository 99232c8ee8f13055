"""Rooms below: readers, tokenizer, prompts and fixed-shape features; in: files, out: int32 arrays."""
