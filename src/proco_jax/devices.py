"""CPU cores as devices, so that seeds train side by side where there is no accelerator."""

import os

import jax


def share_cores(seeds: int) -> None:
    """Makes a CPU device for each core, at most one a seed, unless the user said how many.

    The networks are small, so XLA uses little more than one core for a device.
    Has to come before JAX first uses a device; accelerators are not affected.
    """
    asked = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked and "JAX_NUM_CPU_DEVICES" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        jax.config.update("jax_num_cpu_devices", min(seeds, cores))
