"""The mesh; in: MeshConfig, batch sizes, shapes, out: a Mesh, checked sizes, shardings. The only file naming axes."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from r2d_jax.config import Config, MeshConfig
from r2d_jax.config_check import stage_configs
from r2d_jax.errors import UserError

DATA, FSDP, TENSOR = "data", "fsdp", "tensor"

# First match wins. Optimiser moments carry the path of their weight, so the same rules place them.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(embedding|head)$", PartitionSpec(TENSOR, FSDP)),
    (r"(q|k|v|wi|wi_gate)/kernel$", PartitionSpec(FSDP, TENSOR)),
    (r"(o|wo)/kernel$", PartitionSpec(TENSOR, FSDP)),
    (r"relative_bias/table$", PartitionSpec(None, TENSOR)),
    (r".*", PartitionSpec()),
)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Lay out all devices as data x fsdp x tensor; an axis of -1 takes what is left.

    Args:
        config: sizes of the axes.
        devices: to lay out; None: those that are here.

    Raises:
        UserError: the axes do not fit the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    sizes = [config.data, config.fsdp, config.tensor]
    known = int(np.prod([size for size in sizes if size != -1]))
    if sizes.count(-1) == 1 and known > 0 and count % known == 0:
        sizes[sizes.index(-1)] = count // known
    # Two negative sizes have a positive product.
    if min(sizes) < 1 or int(np.prod(sizes)) != count:
        raise UserError(
            "mesh",
            f"data={config.data} fsdp={config.fsdp} tensor={config.tensor} does not fit {count} device(s)",
            f"Choose axes whose product is {count}; one of them may be -1.",
        )
    names = (DATA, FSDP, TENSOR)
    # An axis may need a part of a torus dimension: 32 x 8 on 16x16 chips, 2 x 32 on 4x4x4. Not jax.make_mesh: it splits
    # physical axes on v5e only.
    laid_out = mesh_utils.create_device_mesh(
        sizes, jax.devices() if devices is None else devices, allow_split_physical_axes=True
    )
    return Mesh(laid_out, names, axis_types=(AxisType.Auto,) * len(sizes))


def check_batch_size(name: str, batch_size: int, micro_batches: int, mesh: Mesh) -> None:
    """Refuse a global batch that does not divide over devices and micro-batches.

    Raises:
        UserError: names the two nearest sizes that fit.
    """
    unit = mesh.shape[DATA] * mesh.shape[FSDP] * micro_batches
    if batch_size % unit:
        below, above = batch_size // unit * unit, -(-batch_size // unit) * unit
        nearest = f"{below} or {above}" if below else f"{above}"
        raise UserError(name, f"{batch_size} rows do not divide by {unit}", f"Set {nearest}.")


def check_batch_sizes(config: Config, mesh: Mesh) -> None:
    """Refuse a run any of whose batches does not divide; see `check_batch_size`."""
    for number, stage in stage_configs(config).items():
        check_batch_size(f"stage{number}.batch_size", stage.batch_size, stage.micro_batches or 1, mesh)
    check_batch_size("evaluation.batch_size", config.evaluation.batch_size, 1, mesh)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def device_sharding(mesh: Mesh) -> NamedSharding:
    """One entry on each device."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP, TENSOR)))


def jit_on_mesh(
    function: Callable[..., Any], mesh: Mesh, *, recomputes: bool = False, **options: Any
) -> jax.stages.Wrapped:
    """jax.jit(function, **options), traced so that whatever asks for its devices, such as `on_one_cpu`, knows the mesh.

    Not `with jax.set_mesh(mesh)` around a whole command: that holds for one thread, and `r2d serve` runs the model in
    another one. So a function is traced for its own mesh wherever it is called.

    Args:
        function: of arrays.
        mesh: its devices.
        recomputes: whether its backward pass computes anything again (`jax.checkpoint`).
        options: of jax.jit.
    """
    if recomputes and mesh.devices.flat[0].platform == "cpu":
        # jaxlib 0.10 for CPU drops the barriers around what is computed again, finds it to be what the forward pass
        # has computed, and keeps that: nothing is saved. With 0.12 it saves as much without this option.
        options["compiler_options"] = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    return jax.jit(_on_mesh(function, mesh), **options)


def _on_mesh(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    # The name stays, for compiled programs are counted by it.
    @functools.wraps(function)
    def traced(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def _constrained(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def _platform() -> str | None:
    """Where the function that is being traced will run; None: its mesh does not say."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.default_backend()
    return mesh.abstract_device.platform if mesh.abstract_device is not None else None


def on_one_cpu() -> bool:
    """Whether the function that is being traced will run on a single CPU device."""
    mesh = jax.sharding.get_abstract_mesh()
    return _platform() == "cpu" and (mesh.empty or mesh.size == 1)


def unfused_on_tpu(x: jax.Array) -> jax.Array:
    """x; a TPU computes it to the end before what uses it, and the compiler fuses nothing across it."""
    return jax.lax.optimization_barrier(x) if _platform() == "tpu" else x


def rows_sharded(x: jax.Array) -> jax.Array:
    """Keep activations [B, ...] spread over rows, whole in all other dimensions.

    Without it the partitioner may follow a weight's layout instead, and gather activations or logits of the
    whole batch on every device.
    """
    return _constrained(x, PartitionSpec((DATA, FSDP)))


def rows_looked_up(table: jax.Array, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """table[ids], [B, T, D] of a dtype, spread over rows, of a table [V, D] and int32 ids [B, T].

    Rows lie over data and fsdp, the table's D over fsdp: there is no direct way from one to the other, and the
    partitioner may make the rows of the whole batch on every device. So each group of fsdp devices fetches its ids,
    which are small, every device looks up its part of D for all of them, and then rows and D change places within
    the group. The gradient of the table, too, is summed by parts of D.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return table[ids].astype(dtype)
    split = FSDP if table.shape[1] % mesh.shape[FSDP] == 0 else None
    looked_up = table[_constrained(ids, PartitionSpec(DATA))].astype(dtype)
    return rows_sharded(_constrained(looked_up, PartitionSpec(DATA, None, split)))


def logits_sharded(x: jax.Array) -> jax.Array:
    """Keep logits [B, T, V] spread over rows, and over the vocabulary like the head."""
    return _constrained(x, PartitionSpec((DATA, FSDP), None, TENSOR))


def cache_sharded(x: jax.Array) -> jax.Array:
    """Keep a decode cache [B, H, K, T] spread over rows, and over heads where they divide."""
    mesh = jax.sharding.get_abstract_mesh()
    heads = TENSOR if not mesh.empty and x.shape[1] % mesh.shape[TENSOR] == 0 else None
    return _constrained(x, PartitionSpec((DATA, FSDP), heads))


def params_sharded(tree: Any) -> Any:
    """Keep weights, or those of one block inside a loop, as the rules lay them out, and so their gradients."""
    return _constrain_params(tree, lambda spec: spec)


def params_gathered(tree: Any) -> Any:
    """Weights whole on every device but for the tensor axis: fetched once, for a loop that uses them each turn."""
    return _constrain_params(
        tree, lambda spec: PartitionSpec(*[axis if axis == TENSOR else None for axis in spec])
    )


def _constrain_params(tree: Any, change: Callable[[PartitionSpec], PartitionSpec]) -> Any:
    mesh = jax.sharding.get_abstract_mesh()

    def one(path: Any, leaf: jax.Array) -> jax.Array:
        return _constrained(leaf, change(_spec_for(_path_name(path), leaf.shape, mesh)))

    return tree if mesh.empty else jax.tree_util.tree_map_with_path(one, tree)


def _path_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _spec_for(path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    spec = next(spec for pattern, spec in RULES if re.search(pattern, path))
    padded = (*spec, *[None] * (len(shape) - len(spec)))[: len(shape)]
    # A dimension that does not divide stays whole: correct everywhere, only less sharded.
    return PartitionSpec(
        *[
            axis if axis and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(padded, shape, strict=True)
        ]
    )


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
    """NamedSharding for every leaf of a tree of arrays or shapes, by the rules above."""

    def one(path: Any, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, _spec_for(_path_name(path), leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(one, tree)


def with_shardings(tree: Any, mesh: Mesh) -> Any:
    """Shapes with their shardings, as a restore target."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        tree_shardings(tree, mesh),
    )


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Put an array that every process holds whole on the devices; each takes only its devices' parts."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Put the host arrays [B, ...] of the global batch on the devices, rows sharded.

    Every process makes the same global batch and places the rows of its own devices: slices are disjoint
    and cover everything, whatever the layout.
    """
    sharding = batch_sharding(mesh)
    return {name: put(array, sharding) for name, array in batch.items()}


def put_flag(flag: bool, mesh: Mesh) -> jax.Array:
    """What this process says, int32 [devices], on its own devices; those of other processes hold what these say.

    Rows of a batch would not do: devices along the tensor axis hold the same rows, so that processes which say
    different things of them would have two contents of one array, and never know what the other one says.
    """
    return put(np.full(mesh.size, flag, np.int32), device_sharding(mesh))
