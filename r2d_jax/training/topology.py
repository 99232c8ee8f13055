"""Programs compiled for TPU chips that are not here; in: a Config and a topology, out: memory, work and traffic."""

import dataclasses
import importlib.util
import itertools
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from r2d_jax.config import Config, DataConfig, T5Config
from r2d_jax.config_check import stage_configs
from r2d_jax.data.buckets import Bucket
from r2d_jax.data.features import Shapes, question_limit_tokens
from r2d_jax.data.prompts import END_ID, PromptBuilder, PromptTokens
from r2d_jax.errors import UserError, how_to_install
from r2d_jax.evaluation.predict import DecodePrograms
from r2d_jax.methods import METHODS
from r2d_jax.model.known_shapes import known_shape
from r2d_jax.model.label_trie import LabelTrie
from r2d_jax.model.parameters import T5Factory
from r2d_jax.runtime.mesh import (
    batch_sharding,
    check_batch_sizes,
    make_mesh,
    replicated,
    with_shardings,
)
from r2d_jax.training.footprint import ProgramMemory, abstract_batch, program_memory
from r2d_jax.training.objectives import StepContext, stage1_objective
from r2d_jax.training.optimizer import make_optimizer
from r2d_jax.training.prepare import init_shape, vocabulary_rows
from r2d_jax.training.stages import OBJECTIVES
from r2d_jax.training.state import abstract_state
from r2d_jax.training.steps import make_train_step
from r2d_jax.training.traffic import Traffic, collective_traffic
from r2d_jax.training.work import matmul_flops

# Pieces of T5's vocabulary in the fixed parts of the prompts; which pieces does not matter to a compiler.
_PROMPT_TOKENS = PromptTokens((3,) * 3, (3,) * 4, (3,) * 4, (3,) * 5)
_LABEL_TOKENS = 8
"""Room for a label where data.label_limit_tokens leaves it to the data."""
LABELS = 100
"""Size of the label set of a constrained decode; that of a run is known from its rows alone."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip, as its maker states it.

    Attributes:
        name: prefix of a topology.
        hbm_bytes: memory.
        flops: bfloat16 operations per second.
        link_bytes: per second, over all its links to other chips.
        host_bounds: chips of one host, for a slice of several hosts.
    """

    name: str
    hbm_bytes: int
    flops: float
    link_bytes: float
    host_bounds: tuple[int, int, int]


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 32 * 2**30, 275e12, 300e9, (2, 2, 1)),
        Chip("v5e", 16 * 2**30, 197e12, 200e9, (2, 2, 1)),
        Chip("v5p", 95 * 2**30, 459e12, 600e9, (2, 2, 1)),
        Chip("v6e", 32 * 2**30, 918e12, 448e9, (2, 2, 1)),
    )
}


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program, figures per device.

    The compiler checks the memory itself, and stops where a chip has too little.

    Attributes:
        name: which step or decode.
        memory: as planned; of temporaries, those that are alive at the fullest moment.
        flops: operations of matrix products, recomputation included, decode loops at their longest.
        collectives: kind to count and bytes; see `collective_traffic`.
        compile_secs: time it took here.
    """

    name: str
    memory: ProgramMemory
    flops: float
    collectives: dict[str, Traffic]
    compile_secs: float

    @property
    def link_bytes(self) -> int:
        """Bytes over the links of one device; a sum over a group is a reduce-scatter and an all-gather."""
        return sum(
            traffic.bytes * (2 if kind == "all-reduce" else 1) for kind, traffic in self.collectives.items()
        )


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as "v5e:4x4".

    Raises:
        UserError: not KIND:AxB or KIND:AxBxC of a known kind.
    """
    match = re.fullmatch(r"(\w+):\d+x\d+(x\d+)?", topology)
    if match is None or match[1] not in CHIPS:
        raise UserError(
            "--topology",
            f"{topology!r} is not understood",
            f"Give KIND:AxB or KIND:AxBxC, KIND of {', '.join(CHIPS)}.",
        )
    return CHIPS[match[1]]


def topology_devices(topology: str) -> list[Any]:
    """Devices that exist only as a description.

    Raises:
        UserError: libtpu is not installed, or there is no such topology.
    """
    chip = chip_of(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "--topology", "libtpu is not installed", f"Run {how_to_install('tpu')}; no TPU is needed."
        )
    # Else libtpu asks the metadata server of a cloud machine, which is not there, and complains at length;
    # and as if there were a TPU to share out, it lets one process at a time in.
    quiet = {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    errors = []
    # A slice of one host has its own bounds; a larger one is told what its hosts hold.
    for bounds in (None, chip.host_bounds):
        named = {} if bounds is None else {"chips_per_host_bounds": bounds}
        try:
            return list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **named).devices)
        except Exception as error:
            errors.append(str(error).splitlines()[0][:200])
    raise UserError(
        "--topology", f"libtpu knows no {topology} ({errors[-1]})", "Try for example v5e:2x4 or v5p:4x4x4."
    )


def model_shape(config: Config) -> T5Config:
    """The shape a run would have: that of model.init, here or by a published name, else the one in the config.

    A vocabulary that is to be trained counts with tokenizer.train_vocab_size, one from a folder with
    model.shape.vocab_size.

    Raises:
        UserError: what model.init names here holds no T5, or is not here and has no published name.
    """
    if config.model.init is None:
        if config.tokenizer.path is not None:
            return config.model.shape
        rows = vocabulary_rows(config.tokenizer.train_vocab_size)
        return dataclasses.replace(config.model.shape, vocab_size=rows)
    init = config.model.init
    # As for a run, a folder that is here goes before the Hub, whatever it is called.
    shape = init_shape(init) if pathlib.Path(init).expanduser().exists() else known_shape(init)
    if shape is None:
        raise UserError(
            "model.init",
            f"{init!r} is neither here nor a published T5",
            "Give a folder that is here, or set model.init=null and model.shape.",
        )
    return dataclasses.replace(shape, dropout_rate=config.model.shape.dropout_rate)


def run_shapes(config: DataConfig) -> Shapes:
    """The widest arrays that the limits of a config allow."""
    label = config.label_limit_tokens or _LABEL_TOKENS
    question = question_limit_tokens(config, PromptBuilder(_PROMPT_TOKENS, label))
    return Shapes(question, label, config.rationale_limit_tokens)


def _like_trie(label_tokens: int, vocab_size: int) -> LabelTrie:
    """Of LABELS labels, each as long as there is room for; with few tokens they share their beginnings."""
    pieces = range(END_ID + 1, min(vocab_size, END_ID + 1 + LABELS))
    width = max(label_tokens - 1, 1)
    labels = itertools.islice(itertools.product(pieces, repeat=width), LABELS)
    return LabelTrie.of(list(labels))


def compile_programs(config: Config, topology: str, say: Callable[[str], None]) -> Iterator[Program]:
    """Compile the step of each stage and the decodes that the method has for a topology, one by one.

    Raises:
        UserError: unknown topology or model, a mesh that does not fit, or more memory than a chip has.
    """
    mesh = make_mesh(config.mesh, topology_devices(topology))
    check_batch_sizes(config, mesh)
    factory = T5Factory.configured(model_shape(config), config.model)
    shapes = run_shapes(config.data)
    prompts = PromptBuilder(_PROMPT_TOKENS, shapes.label)
    vocab_size = factory.config.vocab_size
    trie = _like_trie(shapes.label, vocab_size) if config.label_decode == "constrained" else None
    context = StepContext(factory, prompts, vocab_size, config.donate_buffers, trie)
    for number, stage in stage_configs(config).items():
        objective = (
            stage1_objective(context) if number == 1 else OBJECTIVES[config.method](context, config.stage2)
        )
        optimizer = make_optimizer(stage.optimizer, stage.max_steps)
        full = Bucket(shapes.question, shapes.rationale)
        weighted = number == 2 and config.stage2.class_weights == "balanced"
        batch = abstract_batch(stage.batch_size, shapes, full, mesh, weighted_labels=weighted)
        state = abstract_state(factory.abstract_params, optimizer, mesh, objective.init_state)
        say(f"compiling the step of stage {number} ...")
        step = make_train_step(context, objective, stage, mesh)
        yield _compiled(f"stage-{number} step", mesh, step, state, batch)
    programs = DecodePrograms(
        factory,
        prompts,
        vocab_size,
        config.evaluation.rationale_decode_tokens or shapes.rationale,
        METHODS[config.method].rationale_prompt,
        mesh,
        trie,
    )
    rows = config.evaluation.batch_size
    for name, decode, *arguments in _decodes(programs, rows, shapes.question):
        say(f"compiling the {name} ...")
        yield _compiled(name, mesh, decode, *arguments)


def _decodes(programs: DecodePrograms, rows: int, question_tokens: int) -> Iterator[tuple[Any, ...]]:
    """What a run decodes a batch with: the name of each program, the jitted function, and shapes of its arguments."""
    mesh, label_tokens = programs.mesh, programs.prompts.label_tokens

    def integers(*shape: int, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, np.int32, sharding=sharding)

    by_row, whole = batch_sharding(mesh), replicated(mesh)
    params = with_shardings(programs.factory.abstract_params, mesh)
    batch = {
        "question_ids": integers(rows, question_tokens, sharding=by_row),
        "question_length": integers(rows, sharding=by_row),
    }
    yield "label encode", programs.encode_questions, params, batch
    encoded = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=by_row),
        jax.eval_shape(programs.encode_questions, params, batch),
    )
    yield "label decode", programs.decode_labels, params, encoded
    if programs.rationale_prompt != "none":
        labels = integers(rows, label_tokens, sharding=whole), integers(rows, sharding=whole)
        yield "rationale decode", programs.decode_rationales, params, batch, *labels


def _compiled(name: str, mesh: Mesh, step: Any, *arguments: Any) -> Program:
    begun = time.monotonic()
    try:
        compiled = step.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        fault = out_of_memory(name, str(error))
        if fault is None:
            raise
        raise fault from error
    return Program(
        name,
        planned_memory(compiled),
        matmul_flops(step, *arguments) / mesh.size,
        collective_traffic(compiled.as_text()),
        time.monotonic() - begun,
    )


def planned_memory(compiled: Any) -> ProgramMemory:
    """Memory of a program compiled for a TPU.

    The sum of all temporaries is up to half as much again as the compiler holds against the memory of a chip, for it
    has buffers that are never alive together.
    """
    memory = program_memory(compiled)
    assert memory is not None
    alive = int(compiled.memory_analysis().peak_memory_in_bytes)
    return dataclasses.replace(memory, temporaries=alive - memory.arguments - memory.outputs)


# The compiler's two ways to say it: of the whole program, and of what it needs beside the arguments.
_TOO_LARGE = re.compile(
    r"Used ([\d.]+\w) of ([\d.]+\w) hbm|temporaries \(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)"
)


def out_of_memory(name: str, text: str) -> UserError | None:
    """The compiler's message about a program that needs more memory than a chip has, as advice; else None."""
    told = _TOO_LARGE.search(text)
    if told is None:
        return None
    needed = f"needs {told[1]}" if told[1] else f"needs {told[3]} beside its arguments"
    return UserError(
        name,
        f"{needed} of HBM, a chip has {told[2] or told[4]}",
        "Use more chips, mesh.fsdp or mesh.tensor, micro_batches, model.remat=full, or a smaller batch.",
    )
