"""Shapes of published T5 models; in: a hub name, out: a T5Config, without a network."""

from r2d_jax.config import T5Config

# Layers, width, feed-forward, size of a head, heads (Raffel et al., 2020; Chung et al., 2022).
_T5 = {
    "small": (6, 512, 2048, 64, 8),
    "base": (12, 768, 3072, 64, 12),
    "large": (24, 1024, 4096, 64, 16),
    "3b": (24, 1024, 16384, 128, 32),
    "11b": (24, 1024, 65536, 128, 128),
}
_FLAN = {
    "small": (8, 512, 1024, 64, 6),
    "base": (12, 768, 2048, 64, 12),
    "large": (24, 1024, 2816, 64, 16),
    "xl": (24, 2048, 5120, 64, 32),
    "xxl": (24, 4096, 10240, 64, 64),
}


def known_shape(name: str) -> T5Config | None:
    """The shape of the model with a hub name such as "google-t5/t5-large" or "google/flan-t5-xl"; None for others."""
    short = name.rpartition("/")[2]
    for prefix, sizes, gated in (("flan-t5-", _FLAN, True), ("t5-v1_1-", _FLAN, True), ("t5-", _T5, False)):
        size = short.removeprefix(prefix)
        if short != size and size in sizes:
            layers, d_model, d_ff, d_kv, heads = sizes[size]
            return T5Config(
                vocab_size=32128,
                d_model=d_model,
                d_ff=d_ff,
                d_kv=d_kv,
                num_heads=heads,
                num_layers=layers,
                num_decoder_layers=layers,
                feed_forward_proj="gated-gelu" if gated else "relu",
                tie_word_embeddings=not gated,
            )
    return None
