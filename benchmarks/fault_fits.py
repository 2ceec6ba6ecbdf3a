"""Fits that are interrupted, lose or have damaged one of their files, and are resumed."""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.fault_arrays import same_arrays
from benchmarks.fault_outcomes import Fault, Found, Outcome, damage
from proco_jax.common.metrics import MetricsWriter, load_metrics
from proco_jax.config.schema import Config
from proco_jax.pipeline.checkpointed_fit import run_fit
from proco_jax.pipeline.workdir import Run


class InterruptedFits:
    """Fits of a few steps, by the loop of every fit.

    Args:
      folder: for their files; it is removed first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fault(self, rng: np.random.Generator) -> Fault:
        """A fit is interrupted, a checkpoint of it damaged, and the fit resumed."""
        folder = self._folder
        shutil.rmtree(folder, ignore_errors=True)
        clean = self._fit(folder / "clean", stop=None)
        stop = int(rng.integers(2, 5)) * 2
        self._fit(folder / "hurt", stop=stop)
        files = sorted(p for p in (folder / "hurt").rglob("*") if p.is_file())
        path = files[int(rng.integers(len(files)))]
        fault = f"stopped at {stop}, {path.relative_to(folder).parent}/{damage(path, rng)}"

        def check() -> Found:
            found = self._fit(folder / "hurt", stop=None)
            if not same_arrays(found, clean):
                return Outcome.SILENT, "another end"
            if "metrics.jsonl deleted" in fault:
                return Outcome.MENDED, "resumed; the curves begin anew, which is told"
            lines = [load_metrics(folder / x / "metrics.jsonl") for x in ("clean", "hurt")]
            same = lines[0] == lines[1]
            return (Outcome.MENDED, "resumed") if same else (Outcome.SILENT, "other curves")

        return fault, check, (str(folder),)

    def _fit(self, folder: Path, stop: int | None) -> Any:
        """A fit of 12 steps; one that stops returns nothing."""
        folder.mkdir(parents=True, exist_ok=True)

        def init() -> Any:
            return {"x": jnp.linspace(0.0, 1.0, 40), "key": jax.random.key(3)}

        def make_chunk(steps: int) -> Any:
            def chunk(state: Any) -> Any:
                x, key = state["x"], state["key"]
                for _ in range(steps):
                    key, used = jax.random.split(key)
                    x = 0.5 * x + jax.random.normal(used, x.shape)
                return {"x": x, "key": key}, {"fit/mean": x.mean()}

            return chunk

        def after_chunk(done: int, state: Any) -> None:
            if stop is not None and done >= stop:
                raise _Stopped

        with MetricsWriter(folder) as metrics:
            run = Run(Config(), folder, folder, metrics, _quiet, timed=False)
            try:
                return run_fit(
                    run, "fit", folder / "saved", 12, 2, make_chunk, init, after_chunk=after_chunk
                )
            except _Stopped:
                return None


class _Stopped(Exception):
    """A fit was stopped on purpose."""


def _quiet(line: str) -> None:
    pass
