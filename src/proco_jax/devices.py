"""CPU cores as devices, so that seeds train side by side where there is no accelerator."""

import os

import jax


def devices_for(seeds: int, cores: int) -> int:
    """How many devices share `seeds` evenly and keep `cores` busy.

    The networks are small, so XLA uses little more than one core for a device.
    Where no number of devices from `cores` to four times as many divides the
    seeds, fewer than `cores` are used.
    """
    even = [n for n in range(1, seeds + 1) if seeds % n == 0]
    enough = [n for n in even if min(cores, seeds) <= n <= 4 * cores]
    return min(enough) if enough else max(n for n in even if n <= cores)


def share_cores(seeds: int) -> None:
    """Makes that many CPU devices, unless the user has said how many.

    Has to come before JAX first uses a device; accelerators are not affected.
    """
    asked = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked and "JAX_NUM_CPU_DEVICES" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        jax.config.update("jax_num_cpu_devices", devices_for(seeds, cores))
