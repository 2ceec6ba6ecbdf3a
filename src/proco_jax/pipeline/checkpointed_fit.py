"""The loop of every fit: chunks of compiled steps, metrics, checkpoints, resumption."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from proco_jax.common.checkpoint import Checkpoints
from proco_jax.common.progress import progress
from proco_jax.pipeline.workdir import Run

# One chunk: a state to the state after it, and metrics.
Chunk = Callable[[Any], tuple[Any, dict[str, Any]]]


def run_fit(
    run: Run,
    stage: str,
    folder: Path,
    steps: int,
    every: int,
    make_chunk: Callable[[int], Chunk],
    init: Callable[[], Any],
    *,
    warm_up: Callable[[Any], Any] = lambda state: state,
    checkpoint_every: int | None = None,
    place: Callable[[Any], Any] = lambda state: state,
    unplace: Callable[[Any], Any] = lambda state: state,
    after_chunk: Callable[[int, Any], None] = lambda done, state: None,
) -> Any:
    """Runs a fit to its last step, from its newest checkpoint if there is one.

    Args:
      run: takes metrics and lines of progress.
      stage: name of the fit in the metrics.
      folder: of its checkpoints.
      steps: in all. The last chunk is shorter where `every` does not divide them.
      every: steps of a chunk.
      make_chunk: a number of steps to the compiled chunk.
      init: makes the first state, compiled or not.
      warm_up: applied to the first state, before its first step.
      checkpoint_every: steps between checkpoints, a multiple of `every`; None saves after each.
      place: puts a state where the chunks expect it, e.g. on several devices.
      unplace: the reverse; also applied to metrics.
      after_chunk: called with the steps done and the unplaced state, at the start too, and after a
        checkpoint was saved.

    Returns:
      The last state, unplaced.

    Raises:
      FloatingPointError: if a metric is not finite.
      CheckpointError: if no checkpoint can be read.
    """
    chunks: dict[int, Chunk] = {}
    with Checkpoints(folder) as saved:
        found = saved.restore(jax.eval_shape(init))
        done, state = (0, warm_up(init())) if found is None else found
        run.metrics.resume(stage, done)
        after_chunk(done, state)
        state = place(state)
        with progress(stage, steps, run.log, done) as advance:
            while done < steps:
                size = min(every, steps - done)
                if size not in chunks:
                    chunks[size] = make_chunk(size)
                state, metrics = chunks[size](state)
                done += size
                metrics = unplace(metrics)
                check_finite(stage, done, metrics)
                run.metrics.write(stage, done, metrics)
                advance(size)
                if done == steps or done % (checkpoint_every or every) == 0:
                    saved.save(done, unplace(state))
                    run.metrics.seal()
                after_chunk(done, unplace(state))
    return unplace(state)


def check_finite(stage: str, step: int, metrics: dict[str, Any]) -> None:
    """Checks that all metrics are finite.

    Raises:
      FloatingPointError: naming those that are not, and what to try.
    """
    bad = sorted(k for k, v in metrics.items() if not np.all(np.isfinite(np.asarray(v))))
    if bad:
        raise FloatingPointError(
            f"{stage}, step {step}: {', '.join(bad)} not finite; lower the learning rate, "
            "or look for outliers in the data (dataset.json)"
        )
