"""Speed and memory of r2d_jax beside a torch + transformers peer; in: a shape and rows, out: JSON and a table."""
