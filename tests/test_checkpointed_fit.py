"""The loop of every fit, on a toy state: steps, checkpoints, resumption, damaged checkpoints."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import same_leaves

from proco_jax.common.checkpoint import CheckpointError, Checkpoints
from proco_jax.common.metrics import load_metrics
from proco_jax.config.schema import Config
from proco_jax.pipeline.checkpointed_fit import run_fit
from proco_jax.pipeline.workdir import Run, open_run

STEPS, EVERY = 50, 20


class Killed(BaseException):
    """Stands for the end of the process."""


class Toy:
    """A random walk that derives the key of a step by folding its number in."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.bad_at = STEPS + 1

    def init(self) -> Any:
        return {"x": jnp.zeros(3), "step": jnp.int32(0), "key": jax.random.key(7)}

    def make_chunk(self, size: int) -> Any:
        self.sizes.append(size)

        @jax.jit
        def chunk(state: Any) -> Any:
            def one(state: Any, _: None) -> Any:
                noise = jax.random.normal(jax.random.fold_in(state["key"], state["step"]), (3,))
                return {**state, "x": state["x"] + noise, "step": state["step"] + 1}, None

            state, _ = jax.lax.scan(one, state, None, length=size)
            bad = state["step"] >= self.bad_at
            loss = jnp.where(bad, jnp.nan, jnp.sum(state["x"]))
            return state, {"toy/loss": loss, "toy/size": jnp.sum(state["x"] ** 2)}

        return chunk


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(Config(), tmp_path / "run", log=lambda line: None) as opened:
        yield opened


@pytest.fixture
def toy() -> Toy:
    return Toy()


def fit(run: Run, toy: Toy, name: str = "a", **more: Any) -> Any:
    folder = run.workdir / name / "checkpoints"
    return run_fit(run, name, folder, STEPS, EVERY, toy.make_chunk, toy.init, **more)


def written(run: Run, name: str = "a") -> list[dict]:
    lines = load_metrics(run.metrics.path)
    return [{**line, "stage": ""} for line in lines if line["stage"] == name]


def saved_steps(run: Run, name: str = "a") -> list[int]:
    return sorted(int(p.name) for p in (run.workdir / name / "checkpoints").glob("[0-9]*"))


def kill_after(step: int) -> Any:
    def after_chunk(done: int, state: Any) -> None:
        if done >= step:
            raise Killed

    return after_chunk


def test_exactly_the_requested_steps_are_done(run: Run, toy: Toy) -> None:
    state = fit(run, toy)
    assert int(state["step"]) == STEPS
    assert toy.sizes == [20, 10]
    assert [line["step"] for line in written(run)] == [20, 40, 50]
    assert saved_steps(run) == [40, 50]


@pytest.mark.parametrize("checkpoint_every", [None, 40])
@pytest.mark.parametrize("killed_after", [0, 20, 40, 50])
def test_a_killed_fit_resumes_bit_for_bit(
    run: Run, toy: Toy, killed_after: int, checkpoint_every: int | None
) -> None:
    whole = fit(run, toy, "whole", checkpoint_every=checkpoint_every)
    with pytest.raises(Killed):
        fit(run, toy, checkpoint_every=checkpoint_every, after_chunk=kill_after(killed_after))
    resumed = fit(run, Toy(), checkpoint_every=checkpoint_every)
    same_leaves(resumed, whole)
    assert written(run) == written(run, "whole")


def test_checkpoints_are_saved_at_their_interval_and_at_the_end(run: Run, toy: Toy) -> None:
    with pytest.raises(Killed):
        fit(run, toy, checkpoint_every=40, after_chunk=kill_after(20))
    assert saved_steps(run) == []
    fit(run, toy, checkpoint_every=40)
    assert saved_steps(run) == [40, 50]


def test_a_finished_fit_compiles_nothing(run: Run, toy: Toy) -> None:
    first = fit(run, toy)
    again = Toy()
    same_leaves(fit(run, again), first)
    assert again.sizes == []
    assert [line["step"] for line in written(run)] == [20, 40, 50]


def test_after_chunk_gets_every_number_of_steps_with_its_state(run: Run, toy: Toy) -> None:
    seen: list[tuple[int, int]] = []
    fit(run, toy, after_chunk=lambda done, state: seen.append((done, int(state["step"]))))
    assert seen == [(0, 0), (20, 20), (40, 40), (50, 50)]


def test_chunks_run_on_the_placed_state_and_everything_else_on_the_unplaced(
    run: Run, toy: Toy
) -> None:
    placed: list[int] = []

    def place(state: Any) -> Any:
        placed.append(int(state["step"]))
        return {**state, "x": jnp.concatenate([state["x"], jnp.zeros(1)])}

    class Wider(Toy):
        def make_chunk(self, size: int) -> Any:
            inner = super().make_chunk(size)

            def chunk(state: Any) -> Any:
                assert state["x"].shape == (4,)
                state, metrics = inner({**state, "x": state["x"][:3]})
                return place_again(state), metrics

            def place_again(state: Any) -> Any:
                return {**state, "x": jnp.concatenate([state["x"], jnp.zeros(1)])}

            return chunk

    def unplace(tree: Any) -> Any:
        return {**tree, "x": tree["x"][:3]} if "x" in tree else tree

    found = fit(run, Wider(), "placed", place=place, unplace=unplace)
    same_leaves(found, fit(run, toy))
    assert placed == [0]
    with Checkpoints(run.workdir / "placed" / "checkpoints") as saved:
        restored = saved.restore(jax.eval_shape(toy.init))
    assert restored is not None and restored[1]["x"].shape == (3,)


def test_a_metric_that_is_not_finite_ends_the_fit_before_its_checkpoint(run: Run, toy: Toy) -> None:
    toy.bad_at = 40
    with pytest.raises(FloatingPointError) as error:
        fit(run, toy)
    text = str(error.value)
    assert text.startswith("a, step 40: toy/loss not finite") and "learning rate" in text
    assert "toy/size" not in text
    assert saved_steps(run) == [20] and [line["step"] for line in written(run)] == [20]


def damage(folder: Path) -> None:
    """Truncates every file of a checkpoint."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_checkpoint_falls_back_to_the_older_one(run: Run, toy: Toy) -> None:
    whole = fit(run, toy, "whole")
    with pytest.raises(Killed):
        fit(run, toy, after_chunk=kill_after(40))
    damage(run.workdir / "a" / "checkpoints" / "40")
    seen: list[int] = []
    resumed = fit(run, toy, after_chunk=lambda done, state: seen.append(done))
    assert seen == [20, 40, 50]
    same_leaves(resumed, whole)
    assert written(run) == written(run, "whole")


def test_without_a_readable_checkpoint_the_error_names_the_folder_to_remove(
    run: Run, toy: Toy
) -> None:
    whole = fit(run, toy, "whole")
    with pytest.raises(Killed):
        fit(run, toy, after_chunk=kill_after(40))
    folder = run.workdir / "a" / "checkpoints"
    for step in (20, 40):
        damage(folder / str(step))
    with pytest.raises(CheckpointError) as error:
        fit(run, toy)
    text = str(error.value)
    assert str(folder) in text and "remove that folder" in text and "\n" not in text
    shutil.rmtree(folder)
    same_leaves(fit(run, toy), whole)
    np.testing.assert_array_equal([line["step"] for line in written(run)], [20, 40, 50])


def test_a_damaged_last_checkpoint_is_saved_again(run: Run, toy: Toy) -> None:
    whole = fit(run, toy)
    folder = run.workdir / "a" / "checkpoints"
    damage(folder / str(STEPS))
    same_leaves(fit(run, toy), whole)
    with Checkpoints(folder) as saved:
        found = saved.restore(jax.eval_shape(toy.init))
    assert found is not None and found[0] == STEPS
    same_leaves(found[1], whole)
