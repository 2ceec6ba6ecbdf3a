"""Many worlds of one task in threads of this process, equal to the official ones."""

import contextlib
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np

from proco_jax.envs.batched.block import Block, Snapshot, rows_of
from proco_jax.envs.batched.layout_cache import Layouts
from proco_jax.envs.batched.navigation import NavigationBlock
from proco_jax.envs.batched.velocity import VelocityBlock
from proco_jax.envs.batched.worlds import blueprint
from proco_jax.envs.tasks import Task
from proco_jax.envs.vector import StepResult, available_cores, check_actions, check_reset

_BLOCK = 128  # worlds whose arithmetic is vectorized, while others are still in MuJoCo
_BYTES_PER_WORLD = 2**20  # twice the largest measured use


class BatchedEnv:
    """N worlds of a task, stepped together by a pool of threads.

    An episode depends on its seed and its actions only, not on N, the number
    of threads, or earlier episodes.

    Attributes:
      task: the task.
      num_envs: N.
      workers: threads.
      physics_failures: episodes ended by a MuJoCo warning or a non-finite
        number, since the start.
    """

    def __init__(self, task: Task, num_envs: int, workers: int = 0, fresh: bool = False):
        """Builds N worlds.

        Args:
          task: from `proco_jax.envs.tasks`.
          num_envs: N, at least 1.
          workers: threads; 0 means one for each core.
          fresh: start episodes as an official environment starts its very
            first. It makes one solver pass fewer than in any later reset, which
            moves the last digits of some Car episodes. The default is what
            every other reset gives, the official backend's too.

        Raises:
          ValueError: on counts that make no sense.
          MemoryError: if the worlds do not fit into memory.
        """
        if num_envs < 1 or workers < 0:
            raise ValueError(
                f"expected at least 1 world and 0 or more workers, found num_envs={num_envs}, "
                f"workers={workers}"
            )
        _check_memory(task, num_envs)
        self.task, self.num_envs = task, num_envs
        self.workers = min(workers or available_cores(), num_envs)
        self.physics_failures = 0
        self._layouts = None if task.kind == "Velocity" else Layouts(blueprint(task))
        bounds = np.linspace(0, num_envs, -(-num_envs // _BLOCK) + 1).astype(int)
        self._spans = [slice(a, b) for a, b in itertools.pairwise(bounds)]
        self._blocks = [self._block(span.stop - span.start, fresh) for span in self._spans]
        # The thread of the caller is one of the workers.
        self._pool = ThreadPoolExecutor(self.workers - 1, "worlds") if self.workers > 1 else None
        self._running = np.zeros(num_envs, dtype=bool)
        self._steps = np.zeros(num_envs, dtype=np.intp)
        self._seeds = np.zeros(num_envs, dtype=np.int64)
        self._broken = ""

    def _block(self, count: int, fresh: bool) -> Block:
        if self._layouts is None:
            return VelocityBlock(self.task, count)
        return NavigationBlock(self.task, count, self._layouts, fresh)

    def prepare(self, seeds: Sequence[int]) -> None:
        """Draws the layouts of coming episodes in the background; see `VectorEnv`."""
        if self._layouts is not None and not self._broken:
            self._layouts.prepare([int(seed) for seed in seeds])

    def reset(self, seeds: Sequence[int], worlds: Sequence[int] | None = None) -> np.ndarray:
        """Starts the episodes of these seeds in the given worlds (all when None).

        Returns:
          `[len(seeds), O]` float32 first observations, in the order of the seeds.

        Raises:
          ValueError: if seeds or worlds are out of range or do not match.
        """
        chosen = check_reset(seeds, worlds, self.num_envs)
        seeds = [int(seed) for seed in seeds]
        with self._unbroken():
            started = []
            for block, span in zip(self._blocks, self._spans, strict=True):
                at = np.flatnonzero((chosen >= span.start) & (chosen < span.stop))
                if len(at):
                    rows = (chosen[at] - span.start).tolist()
                    own = [seeds[i] for i in at]
                    started.append((block, rows, own, self._spread(block.place, rows, own)))
            for block, rows, own, placed in started:
                _wait(placed)
                block.start(rows, own)
        self._running[chosen] = True
        self._steps[chosen] = 0
        self._seeds[chosen] = seeds
        return self._obs()[chosen]

    def save(self, worlds: Sequence[int]) -> list[Snapshot]:
        """Snapshots of the given worlds of a navigation task.

        Raises:
          NotImplementedError: for velocity tasks.
        """
        found = []
        for world in worlds:
            at = next(i for i, span in enumerate(self._spans) if world < span.stop)
            found.append(self._blocks[at].save(world - self._spans[at].start))
        return found

    def load(self, snapshots: Sequence[Snapshot], worlds: Sequence[int]) -> None:
        """Restores snapshots of this task in the given worlds.

        From then on the same actions give the same numbers. It is cheap for a
        world whose last episode had the same seed.

        Raises:
          ValueError: if there is not one snapshot for each distinct world.
          NotImplementedError: for velocity tasks.
        """
        seeds = [saved.seed for saved in snapshots]
        chosen = check_reset(seeds, worlds, self.num_envs)
        with self._unbroken():
            for block, span in zip(self._blocks, self._spans, strict=True):
                at = np.flatnonzero((chosen >= span.start) & (chosen < span.stop))
                if len(at):
                    rows = (chosen[at] - span.start).tolist()
                    _wait(self._spread(block.load, rows, [snapshots[i] for i in at]))
        self._running[chosen] = True
        self._steps[chosen] = [saved.step for saved in snapshots]
        self._seeds[chosen] = seeds

    def step(self, actions: np.ndarray) -> StepResult:
        """Steps every world by `[N, A]` actions; see `VectorEnv`."""
        actions = check_actions(actions, self.num_envs, self.task.action_size)
        active = self._running.copy()
        with self._unbroken():
            moving = []
            for block, span in zip(self._blocks, self._spans, strict=True):
                rows = rows_of(active[span])
                moving.append(self._spread(block.move, rows, actions[span][rows]))
            steps = []
            for block, span, moved in zip(self._blocks, self._spans, moving, strict=True):
                _wait(moved)
                steps.append(block.judge(actions[span], active[span]))
        parts = [np.concatenate(part) for part in zip(*steps, strict=True)]
        reward, cost, terminated, failed = parts
        self._steps += active
        ends = self._steps >= self.task.episode_steps
        terminated = (terminated | failed) & active
        truncated = (ends & ~failed) | ~active
        self._running &= ~(terminated | truncated)
        self._report(failed)
        valid = active & ~failed
        return StepResult(
            self._obs(),
            np.where(valid, reward, 0).astype(np.float32),
            (valid & cost).astype(np.float32),
            terminated,
            truncated,
        )

    def close(self) -> None:
        """Ends the threads; may be called twice."""
        self._broken = self._broken or "it was closed"
        if self._layouts is not None:
            self._layouts.close()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> "BatchedEnv":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spread(self, call: Callable[..., None], rows: list[int], values: Any) -> "list[_Piece]":
        """Calls a function for the rows, in pieces for the threads; directly without threads."""
        if self._pool is None:
            call(rows, values)
            return []
        if not rows:  # all worlds of a block may have ended before those of another
            return []
        pieces = min(len(rows), self.workers * (2 if len(rows) >= 16 * self.workers else 1))
        bounds = [len(rows) * k // pieces for k in range(pieces + 1)]
        calls = [
            functools.partial(call, rows[a:b], values[a:b]) for a, b in itertools.pairwise(bounds)
        ]
        return [_Piece(self._pool.submit(piece), piece) for piece in calls]

    @contextlib.contextmanager
    def _unbroken(self) -> Iterator[None]:
        """Refuses further calls after an error, which may have left a step incomplete."""
        if self._broken:
            raise RuntimeError(f"these worlds of {self.task.name} cannot continue: {self._broken}")
        try:
            yield
        except BaseException as error:
            self._broken = f"{type(error).__name__}: {error}"
            raise

    def _obs(self) -> np.ndarray:
        return np.concatenate([block.obs for block in self._blocks]).astype(np.float32)

    def _report(self, failed: np.ndarray) -> None:
        for world in np.flatnonzero(failed):
            self.physics_failures += 1
            warnings.warn(
                f"{self.task.name}: the physics of seed {self._seeds[world]} became unstable at "
                f"step {self._steps[world]}; the episode was ended "
                f"({self.physics_failures} such episodes so far)",
                RuntimeWarning,
                stacklevel=3,
            )


class _Piece(NamedTuple):
    """A task submitted to the pool, which the waiting thread runs if no other has begun it."""

    future: Future
    work: Callable[[], None]


def _wait(pieces: Sequence[_Piece]) -> None:
    """Runs the pieces that no thread has begun, waits for the others, then raises any error."""
    errors = []
    for piece in reversed(pieces):
        if piece.future.cancel():
            try:
                piece.work()
            except Exception as error:
                errors.append(error)
    started = [piece.future for piece in pieces if not piece.future.cancelled()]
    wait(started)
    for future in started:
        future.result()
    if errors:
        raise errors[-1]


def _check_memory(task: Task, num_envs: int) -> None:
    """Refuses more worlds than fit into memory, before any is built."""
    needed, free = num_envs * _BYTES_PER_WORLD, _free_bytes()
    if needed > free:
        raise MemoryError(
            f"{num_envs} worlds of {task.name} need about {needed / 2**30:.1f} GiB and "
            f"{free / 2**30:.1f} GiB are free: ask for at most {free // _BYTES_PER_WORLD} worlds"
        )


def _free_bytes() -> float:
    """Available memory in bytes; infinite if the system does not report it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            sizes = dict(line.split(":") for line in lines)
        return int(sizes["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return float("inf")
