"""Trains the behavior policies of a task and writes their file."""

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from proco_jax.behaviors import planar
from proco_jax.behaviors.frontier import frontier
from proco_jax.behaviors.planar_phase import UPDATES_A_ROUND, PlanarPhase
from proco_jax.behaviors.planar_robot import fit_robot
from proco_jax.behaviors.ppo import PPOSettings
from proco_jax.behaviors.simulated import SimulatedWorlds, SimulatorPhase
from proco_jax.behaviors.training import SNAPSHOTS, Phase, finished_policies, train
from proco_jax.common.files import locked
from proco_jax.envs.behavior_file import load_policies, save_policies
from proco_jax.envs.behavior_inputs import policy_inputs, prices_of
from proco_jax.envs.simulator import simulator_versions
from proco_jax.envs.tasks import Task
from proco_jax.envs.vector import make_vector_env
from proco_jax.evaluation.results import code_commit

# Worlds and decisions between two updates in the planar model.
_PLANAR_WORLDS, _PLANAR_ROLLOUT = 256, 32
_LAYOUTS = 256
# With many steps, passes over the same ones are worth less than new ones.
_PLANAR_EPOCHS = 3
# Steps between two updates in the simulator, a divisor of all time limits.
_ROLLOUT_STEPS = 100
# A planar robot has to brake long before a hazard: held actions explore farther, and a decision's
# consequences are fewer decisions away.
NAVIGATION_LEARNER = PPOSettings(repeat=4, discount=0.98)
VELOCITY_LEARNER = PPOSettings()


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """What the user decides.

    Attributes:
      planar_steps: steps in the planar model; 0 for none. Velocity tasks have no such model.
      steps: steps in the simulator.
      worlds: simulated worlds that are stepped together.
      workers: threads of the simulator; 0 for one per core.
      seed: of the training.
      episodes: episodes for each price of the frontier.
    """

    planar_steps: int
    steps: int
    worlds: int
    workers: int
    seed: int
    episodes: int


def train_behaviors(
    task: Task,
    settings: TrainingSettings,
    out: Path,
    command: str,
    log: Callable[[str], None],
    ppo: PPOSettings | None = None,
) -> None:
    """Trains, measures the frontier, and writes the file; resumes, and ends at once if it is done.

    Args:
      task: of the policies.
      settings: of the training.
      out: of the file, an `.npz`. Checkpoints lie in a hidden folder beside it, until it is done.
      command: for the header of the file.
      log: takes lines of text for the user.
      ppo: of the learner; None for that of the kind of task.

    Raises:
      ValueError: if the settings make no sense, or `out` holds the policies of another training.
      FloatingPointError: if the training diverges.
    """
    ppo = ppo or learner_of(task)
    _check(task, settings, ppo, out)
    identity, commit = _identity(task, settings, ppo), code_commit()
    with locked(out.with_name(f".{out.name}.lock"), log, "behavior policies"):
        if out.exists():
            found = load_policies(out, task).header.get("training")
            if found != identity:
                raise ValueError(
                    f"{out} holds the policies of another training ({found}), expected "
                    f"{identity}; remove it or choose another --out"
                )
            log(f"found {out}")
            return
        folder = out.with_name(f".{out.stem}.training")
        env = make_vector_env(task, settings.worlds, "batched", settings.workers)
        try:
            inputs = policy_inputs(task, np.zeros((1, task.spec.size), np.float32)).shape[1]
            phases = _phases(task, settings, ppo, env, log)
            key = jax.random.key(settings.seed)
            sizes = (inputs, task.action_size)
            state = train(folder, key, ppo, sizes, phases, log, identity)
            header = {
                "task": task.name,
                "command": command,
                "training": identity,
                "prices": list(prices_of(task)),
                "minutes": round(float(state.seconds) / 60, 1),
                "commit": commit,
                "versions": {**simulator_versions(), "jax": jax.__version__},
                "snapshots": list(SNAPSHOTS),
            }
            log("the frontier of the last snapshot:")
            policies = finished_policies(state, header)
            header["frontier"] = frontier(env, policies, settings.episodes, log)
        finally:
            env.close()
        save_policies(out, policies._replace(header=header))
        shutil.rmtree(folder)
    log(f"wrote {out}")


def learner_of(task: Task) -> PPOSettings:
    """The learner of a task: that of navigation or that of velocity."""
    return VELOCITY_LEARNER if task.kind == "Velocity" else NAVIGATION_LEARNER


def _check(task: Task, settings: TrainingSettings, ppo: PPOSettings, out: Path) -> None:
    shared = math.gcd(_ROLLOUT_STEPS // ppo.repeat, ppo.minibatches)
    if settings.steps and settings.worlds % (ppo.minibatches // shared):
        raise ValueError(
            f"--worlds: found {settings.worlds}, expected a multiple of "
            f"{ppo.minibatches // shared}: an update divides the steps of all worlds into "
            f"{ppo.minibatches} minibatches"
        )
    if out.suffix != ".npz":
        raise ValueError(f"--out: found {out}, expected a file that ends in .npz")
    if task.kind == "Velocity" and settings.planar_steps:
        raise ValueError(
            f"--planar_steps: found {settings.planar_steps}, expected 0: there is no planar model "
            f"of {task.name}"
        )
    if not settings.planar_steps and not settings.steps:
        raise ValueError("--steps and --planar_steps: found 0 for both, expected a training")


def _identity(task: Task, settings: TrainingSettings, ppo: PPOSettings) -> dict[str, Any]:
    """What determines a training; the number of threads does not."""
    own = dataclasses.asdict(settings)
    del own["workers"]
    learner = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(ppo).items()}
    return {"task": task.name, **own, "prices": list(prices_of(task)), "learner": learner}


def _phases(
    task: Task,
    settings: TrainingSettings,
    ppo: PPOSettings,
    env: Any,
    log: Callable[[str], None],
) -> list[Phase]:
    phases: list[Phase] = []
    if settings.planar_steps:
        rules, plan = planar.make_plan(task, _LAYOUTS)
        planar_ppo = dataclasses.replace(ppo, epochs=_PLANAR_EPOCHS)
        a_round = _PLANAR_WORLDS * _PLANAR_ROLLOUT * UPDATES_A_ROUND * ppo.repeat
        phases.append(
            PlanarPhase(
                planar_ppo,
                rules,
                plan,
                fit_robot(task, log),
                max(1, round(settings.planar_steps / a_round)),
                _PLANAR_WORLDS,
                _PLANAR_ROLLOUT,
            )
        )
    if settings.steps:
        worlds = SimulatedWorlds(env, prices_of(task), settings.seed, ppo.repeat)
        a_round = settings.worlds * task.episode_steps
        rounds = max(1, round(settings.steps / a_round))
        phases.append(SimulatorPhase(worlds, ppo, rounds, _ROLLOUT_STEPS // ppo.repeat))
    return phases
