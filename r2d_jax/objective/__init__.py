"""Schedules, token-weighted losses and scheduled sampling; in: step and logits, out: scalars and prompts."""
