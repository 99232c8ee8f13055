"""Steps and label decodes of made rows; in: a workload and a point, out: seconds, bytes and counted operations."""

import dataclasses
import functools
import random
from typing import Any

import jax

from benchmarks.growth_meter import Meter
from benchmarks.growth_plan import LABEL_DECODE
from benchmarks.ours import Ours, host_batch
from benchmarks.prepare import SHAPES
from benchmarks.workload import END_ID, Row, Settings, Workload
from r2d_jax.data.prompts import WIDTH_MULTIPLE, PromptBuilder, PromptTokens
from r2d_jax.runtime.mesh import shard_batch
from r2d_jax.training.footprint import program_memory
from r2d_jax.training.work import count_products

_FIRST_PIECE = 3
_SHUFFLED_ROWS = 1024


def made_rows(workload: Workload, point: dict[str, Any]) -> list[Row]:
    """Rows of random pieces whose encoder input has one width exactly; label and rationale end with the end token.

    Args:
        workload: gives prompts and label limit.
        point: rows, shape, input_tokens (S) and rationale_tokens (T), both multiples of 8.

    Raises:
        ValueError: the prompt leaves no room for a question.
    """
    input_tokens = point["input_tokens"]
    tokens = PromptTokens(**{name: tuple(ids) for name, ids in workload.prompts.items()})
    room = input_tokens - PromptBuilder(tokens, workload.label_tokens).overhead
    # The batch is as wide as the next multiple of 8, and the prompt fills it up to S.
    question = room // WIDTH_MULTIPLE * WIDTH_MULTIPLE
    if question < 1:
        raise ValueError(f"{input_tokens} tokens leave no room for a question")
    draw = random.Random(0)

    def pieces(count: int) -> list[int]:
        return [draw.randrange(_FIRST_PIECE, SHAPES[point["shape"]].vocab_size) for _ in range(count)]

    return [
        Row(
            pieces(question),
            [*pieces(workload.label_tokens - 1), END_ID],
            [*pieces(point["rationale_tokens"] - 1), END_ID],
        )
        for _ in range(point["rows"])
    ]


def step_point(workload: Workload, point: dict[str, Any], meter: Meter) -> dict[str, Any]:
    """Measure one program at one size.

    Args:
        workload: weights, prompts and tokenizer.
        point: part (a part of training, or LABEL_DECODE), and sizes as `made_rows` has them.
        meter: of this process.

    Returns:
        secs and bytes of the repeats, planned_bytes (temporaries as the compiler plans them), and the operations
        of the matrix products, attention_flops and weight_flops.
    """
    rows = made_rows(workload, point)
    settings = Settings(batch_size=point["rows"], generation_batch_size=point["rows"], repeats=1)
    # The same rows over and over: the shuffle of a few takes thousands of turns for each.
    many = rows * -(-_SHUFFLED_ROWS // len(rows))
    ours = Ours(dataclasses.replace(workload, rows=many), settings)
    if point["part"] == LABEL_DECODE:
        batch = shard_batch(
            host_batch(rows, ours.full.question, workload.label_tokens, ours.full.rationale), ours.mesh
        )
        programs = ours.decode_programs(workload.label_tokens)

        def label_decode(params: Any, batch: Any) -> Any:
            return programs.decode_labels(params, programs.encode_questions(params, batch))

        program, arguments = jax.jit(label_decode), (ours.unending_params(), batch)
        call = functools.partial(ours.generate, "label", 0)
    else:
        program, arguments = ours.steps[point["part"]], (ours.state, ours.device_batch(0))
        call = functools.partial(_sampled_step, ours, point["part"])
    width = ours.prompts.width(ours.full.question)
    if width != point["input_tokens"]:
        raise AssertionError(f"the input has {width} tokens, not {point['input_tokens']}")
    traced = program.trace(*arguments)
    products = count_products(traced.jaxpr.jaxpr)
    planned = program_memory(traced.lower().compile())
    # The step takes the state for itself.
    del arguments, traced
    return meter.repeats(call) | {
        "planned_bytes": planned and planned.temporaries,
        "attention_flops": products.batched,
        "weight_flops": products.plain,
    }


def _sampled_step(ours: Ours, part: str) -> None:
    found = ours.step(part, 0)
    # Where no coin falls for a predicted label, the step leaves the decode out: that is another step.
    if part == "stage2_sampled" and not found["sampled_fraction"]:
        raise AssertionError("no row of the batch asked for its predicted label")
