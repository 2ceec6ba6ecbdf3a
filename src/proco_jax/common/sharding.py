"""Members of a program spread over devices; without an accelerator, each CPU core is a device."""

import functools
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

# Of LLVM, on CPUs. With XLA's own level, 3, programs take up to twice as long to compile, and run
# no faster (docs/performance.md).
OPTIMIZATION_LEVEL = 2
PATIENCE_S = 86_400
_TIMEOUTS = (
    "xla_cpu_collective_call_terminate_timeout_seconds",
    "xla_cpu_collective_timeout_seconds",
)


def use_cores_as_devices(members: int) -> None:
    """Makes a CPU device of each core, at most one per member, unless the user set a number.

    The networks are small, so XLA uses little more than one core per device. Programs are compiled
    with OPTIMIZATION_LEVEL, unless the user set a level. This must be called before JAX first uses
    a device; accelerators are not affected.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    asked = "xla_force_host_platform_device_count" in flags
    # XLA aborts the process where one device waits for another for longer than this, by default 40
    # s (jaxlib 0.10.2): a busy machine may take longer, and a process that was stopped does.
    wanted = {name: PATIENCE_S for name in _TIMEOUTS}
    if not _has_accelerator_plugin():
        wanted["xla_backend_optimization_level"] = OPTIMIZATION_LEVEL
    added = [f"--{name}={value}" for name, value in wanted.items() if name not in flags]
    os.environ["XLA_FLAGS"] = " ".join([*flags.split(), *added])
    if not asked and "JAX_NUM_CPU_DEVICES" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        jax.config.update("jax_num_cpu_devices", min(members, cores))


def _has_accelerator_plugin() -> bool:
    """Whether JAX may find a GPU or TPU, before it has looked for one."""
    if jax.config.values["jax_platforms"] == "cpu":
        return False
    modules = any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
    entries = importlib.metadata.entry_points(group="jax_plugins")
    return modules or bool(entries) or "TPU_LIBRARY_PATH" in os.environ


def shard_members(tree: Any, members: int) -> Any:
    """Spreads the leading member axis evenly over the local devices.

    If the number of devices does not divide the members, the last member is repeated;
    `unpad_members` removes the copies.
    """
    return place_members(pad_members(tree, members), members)


def pad_members(tree: Any, members: int) -> Any:
    """Repeats the last member until the devices that `shard_members` uses share all evenly."""
    size = member_mesh(members).size
    rows = np.minimum(np.arange(size * -(-members // size)), members - 1)
    return tree if len(rows) == members else jax.tree.map(lambda x: x[rows], tree)


def place_members(tree: Any, members: int) -> Any:
    """Places what `shard_members` made, or what was computed from it, as `shard_members` does.

    A compiled program may leave equal leaves of all members on every device; given to another
    program in this way, that program would be compiled a second time for its own results.
    """
    return jax.device_put(tree, NamedSharding(member_mesh(members), PartitionSpec("members")))


def unpad_members(tree: Any, members: int) -> Any:
    """The leading member axis without the copies that `shard_members` added."""
    return jax.tree.map(lambda x: x if x.shape[0] == members else x[:members], tree)


def replicate(tree: Any, members: int) -> Any:
    """Puts arrays on every device that `shard_members` uses."""
    return jax.device_put(tree, NamedSharding(member_mesh(members), PartitionSpec()))


def over_members(one: Callable[[Any, Any], Any], shared: Any, own: Any, members: int | None) -> Any:
    """Applies a function of one member to all rows of `own`, each on the device that holds it.

    Accelerators run the members of a device side by side (vmap). On CPU they follow one another,
    which takes less time than vmap there.

    Args:
      one: (shared, own of a member) to a pytree of arrays; (state, metrics) where `members` is less
        than the rows.
      shared: the same for all members.
      own: leaves with a leading axis, which the devices share evenly; its last item is the state.
      members: rows beyond these keep their state, on CPU; None for all rows.
    """
    if jax.default_backend() != "cpu":
        return jax.vmap(one, in_axes=(None, 0))(shared, own)
    rows = jax.tree.leaves(own)[0].shape[0]
    mesh = member_mesh(rows)
    each = rows // mesh.size

    def on_device(shared: Any, own: Any) -> tuple[Any, Any]:
        first = jax.lax.axis_index("members") * each if mesh.size > 1 else 0

        def row(inputs: tuple[jax.Array, Any]) -> tuple[Any, Any]:
            index, own = inputs
            if members is None or members >= rows:
                return one(shared, own)
            # Traced once, for its shapes and for the program.
            traced = jax.jit(one, inline=True)
            like = jax.eval_shape(traced, shared, own)[1]
            idle = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
            run = functools.partial(traced, shared, own)
            return jax.lax.cond(index < members, run, lambda: (own[-1], idle))

        return jax.lax.map(row, (first + jnp.arange(each), own))

    if mesh.size == 1:
        return on_device(shared, own)
    split = PartitionSpec("members")
    specs = {"in_specs": (PartitionSpec(), split), "out_specs": split, "check_vma": False}
    return jax.shard_map(on_device, mesh=mesh, **specs)(shared, own)


def over_all_members(one: Callable[[Any, Any], Any], shared: Any, own: Any) -> Any:
    """`over_members` for any number of rows: the devices need not share them evenly.

    A single row is computed without a loop, which larger programs and exported ones need not have.

    Args:
      one: (shared, own of a member) to a pytree of arrays.
      shared: the same for all members, as `for_acting` places it.
      own: leaves with a leading axis, likewise.

    Returns:
      What `one` returns for each row, with a leading axis.
    """
    rows = jax.tree.leaves(own)[0].shape[0]
    if rows == 1:
        alone = one(shared, jax.tree.map(lambda x: x[0], own))
        return jax.tree.map(lambda x: x[None], alone)
    if jax.default_backend() != "cpu":
        return over_members(one, shared, own, None)
    return unpad_members(over_members(one, shared, pad_members(own, rows), None), rows)


def for_acting(tree: Any, members: int) -> Any:
    """Puts the arrays of S policies where they act.

    On CPUs these are all devices that `member_mesh` takes for them, each with all arrays. An
    accelerator holds all policies, on the first one.
    """
    on_cpu = jax.default_backend() == "cpu"
    return replicate(tree, members) if on_cpu else jax.device_put(tree, jax.local_devices()[0])


def held_for_acting(tree: Any, members: int) -> Any:
    """Within a compiled program: leaves its results where `for_acting` puts its inputs, so that it
    is not compiled a second time for its own results."""
    mesh = member_mesh(members)
    if jax.default_backend() != "cpu" or mesh.size == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def member_mesh(members: int) -> jax.sharding.Mesh:
    """The fewest devices that need no more time than all of them, the mesh of `shard_members`."""
    devices = jax.local_devices()
    each = -(-members // len(devices))
    count = -(-members // each)
    return jax.sharding.Mesh(np.array(devices[:count]), ("members",), axis_types=(AxisType.Auto,))
