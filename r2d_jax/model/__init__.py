"""T5 in Flax NNX, its compiled greedy decode and its Hugging Face format; in: ids, out: logits or ids."""
