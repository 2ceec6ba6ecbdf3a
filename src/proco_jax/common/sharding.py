"""Seeds spread over devices; where there is no accelerator, each CPU core is a device."""

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def share_cores(seeds: int) -> None:
    """Makes a CPU device for each core, at most one a seed, unless the user said how many.

    The networks are small, so XLA uses little more than one core for a device.
    Has to come before JAX first uses a device; accelerators are not affected.
    """
    asked = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked and "JAX_NUM_CPU_DEVICES" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        jax.config.update("jax_num_cpu_devices", min(seeds, cores))


def shard_seeds(tree: Any, seeds: int) -> Any:
    """Spreads the leading seed axis evenly over the local devices.

    Where the devices do not divide the seeds, the last seed is repeated until
    they do; `own_seeds` takes the repetitions away again.
    """
    mesh = _mesh(seeds)
    rows = np.minimum(np.arange(mesh.size * -(-seeds // mesh.size)), seeds - 1)
    filled = tree if len(rows) == seeds else jax.tree.map(lambda x: x[rows], tree)
    return spread_rows(filled, seeds)


def spread_rows(tree: Any, seeds: int) -> Any:
    """Places what `shard_seeds` made, or what was computed from it, as `shard_seeds` does.

    A compiled program leaves what is the same for all seeds on every device; given to
    another program as it is, that one is compiled once for such and once for its own results.
    """
    return jax.device_put(tree, NamedSharding(_mesh(seeds), PartitionSpec("seeds")))


def own_seeds(tree: Any, seeds: int) -> Any:
    """The leading seed axis without what `shard_seeds` repeated."""
    return jax.tree.map(lambda x: x if x.shape[0] == seeds else x[:seeds], tree)


def replicate(tree: Any, seeds: int) -> Any:
    """Puts arrays on every device that `shard_seeds` uses."""
    return jax.device_put(tree, NamedSharding(_mesh(seeds), PartitionSpec()))


def _mesh(seeds: int) -> jax.sharding.Mesh:
    """As few devices as do the work in the same time as all of them."""
    devices = jax.local_devices()
    each = -(-seeds // len(devices))
    count = -(-seeds // each)
    return jax.sharding.Mesh(np.array(devices[:count]), ("seeds",), axis_types=(AxisType.Auto,))
