"""Few shapes for notes of any length; in: limits of a model, out: widths and batch sizes to compile, and which fits."""

from r2d_jax.data.prompts import WIDTH_MULTIPLE, round_up


def question_widths(limit: int, overhead: int, count: int) -> tuple[int, ...]:
    """Widths Q of questions, each half of the next with its prompt, the last one the limit itself.

    Args:
        limit: most question tokens, `FeatureEncoder.question_limit`.
        overhead: tokens that the longest prompt adds.
        count: most widths.

    Returns:
        At most `count` widths, narrowest first.
    """
    widths = {limit}
    for halvings in range(1, count):
        width = round_up((limit + overhead) >> halvings) - overhead
        if width >= WIDTH_MULTIPLE:
            widths.add(min(width, limit))
    return tuple(sorted(widths))


def batch_sizes(most: int) -> tuple[int, ...]:
    """Batch sizes, smallest first: 1 for a note alone, and the largest for a full queue."""
    return tuple(sorted({1, most}))


def smallest_that_holds(sizes: tuple[int, ...], wanted: int) -> int:
    """The first of sizes, sorted, that is at least `wanted`; the last where none is."""
    return next((size for size in sizes if size >= wanted), sizes[-1])
