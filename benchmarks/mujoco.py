"""Changes of MuJoCo models: their gain in speed, and whether trajectories stay bit-identical.

Every variant runs the same episode next to the official model, in turns of one
environment step (ten substeps, no forward passes). A variant whose positions
ever differ in a single bit is refused, however fast.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's names come from a C extension, which a type checker cannot read.

import copy
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

from proco_jax.envs.batched.layout import sample_layout
from proco_jax.envs.batched.physics import SUBSTEPS, gremlin_path
from proco_jax.envs.batched.worlds import Blueprint, blueprint, place, without_textures
from proco_jax.envs.tasks import Task

Change = Callable[[Any], None]


@dataclasses.dataclass
class Variant:
    """One way to run the same physics.

    Attributes:
      name: what was changed.
      model: the changed model, placed.
      data: its state.
      seconds: spent in `mj_step`.
      identical: whether all positions were the official ones, bit for bit.
    """

    name: str
    model: Any
    data: Any
    seconds: float = 0.0
    identical: bool = True


def compare(task: Task, steps: int, seed: int = 1) -> list[Variant]:
    """Runs all variants for so many steps; the first is the official model.

    Raises:
      ValueError: for a velocity task, whose models are taken as they are.
    """
    if task.kind == "Velocity":
        raise ValueError(f"{task.name}: the models of velocity tasks are not changed")
    plan, random = blueprint(task), np.random.default_rng(seed)
    variants = make_variants(plan, seed)
    path = _path(plan, steps) if task.kind == "Button" else None
    for t in range(steps):
        if t % 15 == 0:
            action = random.uniform(-1, 1, task.action_size)
        for variant in variants:
            variant.data.ctrl[:] = action
            started = time.perf_counter()
            _step(variant, None if path is None else path[t])
            variant.seconds += time.perf_counter() - started
        official = variants[0].data.qpos
        for variant in variants:
            variant.identical &= bool(np.array_equal(variant.data.qpos, official))
    return variants


def make_variants(plan: Blueprint, seed: int) -> list[Variant]:
    """The official model, what was taken from it, and what was tried beyond."""
    official = mujoco.MjModel.from_xml_string(without_textures(plan.xml))
    silent = int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
    other = {0: "sparse", 1: "dense"}[int(mujoco.mj_isSparse(plan.model))]
    changes: dict[str, Change] = {
        "+ no sensors in substeps": lambda option: None,
        f"  {other} Jacobian": lambda o: setattr(o, "jacobian", int(other == "sparse")),
        "  elliptic friction cones": lambda o: setattr(o, "cone", 1),
        "  conjugate gradients": lambda o: setattr(o, "solver", 1),
        "  solver tolerance 1e-6": lambda o: setattr(o, "tolerance", 1e-6),
        "  no warm start": lambda o: setattr(
            o, "disableflags", silent | int(mujoco.mjtDisableBit.mjDSBL_WARMSTART)
        ),
    }
    variants = [
        _placed("official model", official, plan, seed),
        _placed("+ no untouchable bodies", plan.model, plan, seed),
    ]
    for name, change in changes.items():
        variant = _placed(name, plan.model, plan, seed)
        variant.model.opt.disableflags = silent
        change(variant.model.opt)
        variants.append(variant)
    return variants


def format_variants(task: Task, variants: list[Variant], steps: int) -> str:
    """The variants as lines: microseconds a step, gain, and whether it was identical."""
    lines = [task.name.removeprefix("Safety")]
    for v in variants:
        gain = variants[0].seconds / v.seconds
        verdict = "identical" if v.identical else "differs: refused"
        lines.append(f"  {v.name:28}{1e6 * v.seconds / steps:8.0f} us{gain:7.2f}x  {verdict}")
    return "\n".join(lines)


def _placed(name: str, model: Any, plan: Blueprint, seed: int) -> Variant:
    model = copy.copy(model)
    data, random = mujoco.MjData(model), np.random.RandomState(seed)
    layout = sample_layout(random, plan.placements)
    place(model, data, plan, layout, random.uniform(0, 2 * np.pi, len(plan.rotated)))
    mujoco.mj_forward(model, data)
    return Variant(name, model, data)


def _step(variant: Variant, path: np.ndarray | None) -> None:
    if path is None:
        mujoco.mj_step(variant.model, variant.data, SUBSTEPS)
        return
    mocap = variant.data.mocap_pos
    for position in path:
        mocap[:] = position
        mujoco.mj_step(variant.model, variant.data)


def _path(plan: Blueprint, steps: int) -> np.ndarray:
    gremlins = plan.rules.gremlins
    return gremlin_path(plan.model.opt.timestep, steps, gremlins.travel, gremlins.size)
