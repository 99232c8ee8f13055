"""Questions to an OpenAI-compatible endpoint; in: cases and limits, out: answers, each paid for once."""
