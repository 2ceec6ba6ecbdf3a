"""Units as tasks of Ray: a dynamic queue on this machine or on a cluster, with retries.

The folder of the sweep, which every machine must see, says what is done, as without Ray: a unit
that another process holds or has finished is not done again, and the same command resumes.
"""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from proco_jax.sweeps.description import Unit
from proco_jax.sweeps.queue import Outcome, Work, run_units

# A worker that dies, e.g. with a preempted machine, has its unit run again elsewhere.
_RETRIES = 10


def run_on_ray(
    work: Work,
    units: Sequence[Unit],
    cpus: float,
    gpus: float,
    address: str,
    log: Callable[[str], None],
) -> Outcome:
    """Runs all units that are not done as tasks of Ray.

    Args:
      cpus: cores that Ray reserves for a unit.
      gpus: GPUs for a unit; with a fraction, units share one, and JAX takes memory as it needs it.
      address: of a running cluster; empty for $RAY_ADDRESS, or else this machine.

    Raises:
      ImportError: if Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ImportError("--engine=ray: Ray is not installed; pip install 'proco-jax[ray]'")
    import ray  # pyright: ignore[reportMissingImports]

    left = [unit for unit in units if not work.is_done(unit)]
    skipped = len(units) - len(left)
    shared_gpu = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if 0 < gpus < 1 else {}
    ray.init(
        address=address or None,
        log_to_driver=False,
        include_dashboard=None,
        runtime_env={"env_vars": shared_gpu},
    )
    try:
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES)(_run_one)
        waiting = {task.remote(work, unit): unit for unit in left}
        total = Outcome(0, skipped, {})
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            unit = waiting.pop(ready)
            try:
                found = ray.get(ready)
            # A lost worker whose retries are used up, or a full disk there.
            except ray.exceptions.RayError as error:
                found = Outcome(0, 0, {unit.name: _reason(error)})
            total = total.plus(found)
            word = "failed" if found.failed else "done"
            log(f"{unit.name}: {word}; {len(waiting)} of {len(units)} units left")
        return total
    finally:
        ray.shutdown()


def _run_one(work: Work, unit: Unit) -> Outcome:
    """A unit in a worker process of Ray; its lines go to Ray's log of the worker."""
    work.prepare()
    return run_units(work.root, [unit], work.is_done, work, lambda line: print(line, flush=True))


def _reason(error: Any) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'}"
