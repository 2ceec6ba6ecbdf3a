"""Ten physics steps and the forward passes that the official environment makes.

Every forward pass counts: MuJoCo's solver starts from its last solution, so one
pass more or less changes the last digits of everything after. What a pass
computes again without change (positions, contacts, velocities) is skipped, and
so are the sensors in substeps, which are not read.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's names come from a C extension, which a type checker cannot read.

import mujoco
import numpy as np

from proco_jax.envs.batched.worlds import NO_CONTACTS, Contacts, World

SUBSTEPS = 10
_NO_SENSORS = int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
# Everything that a step reads before it writes it; time and applied forces are not used.
_STATE = ("qpos", "qvel", "act", "qacc_warmstart", "mocap_pos", "mocap_quat")
_NOTHING = int(mujoco.mjtStage.mjSTAGE_NONE)
_POSITION_AND_VELOCITY = int(mujoco.mjtStage.mjSTAGE_VEL)


def advance(world: World, ctrl: np.ndarray) -> None:
    """Ten physics steps of a world without gremlins, then `settle`."""
    model, data, options = world.model, world.data, world.options
    world.ctrl[:] = ctrl
    options.disableflags = _NO_SENSORS
    if world.at_rest:
        mujoco.mj_step2(model, data)
        mujoco.mj_step(model, data, SUBSTEPS - 1)
    else:
        mujoco.mj_step(model, data, SUBSTEPS)
    options.disableflags = 0
    settle(world, 3)


def advance_gremlins(world: World, ctrl: np.ndarray, path: np.ndarray) -> None:
    """Ten physics steps of a world with gremlins, then `settle`.

    Args:
      world: the world.
      ctrl: `[A]` clipped actions.
      path: `[10, 3]` where the gremlins' handles are before each substep.
    """
    model, data, options, mocap = world.model, world.data, world.options, world.mocap
    world.ctrl[:] = ctrl
    options.disableflags = _NO_SENSORS
    for position in path:
        mocap[:] = position
        mujoco.mj_step(model, data)
    options.disableflags = 0
    settle(world, 3)


def settle(world: World, passes: int) -> None:
    """As many forward passes as the official environment makes at one state, at least 3.

    Keeps the contacts of the first pass, from which the official step takes its
    reward, and of the second, from which it takes its cost. Both see the same
    positions but for a rounding, upon which a grazing contact may hang.
    """
    mujoco.mj_forwardSkip(world.model, world.data, _NOTHING, 0)
    world.at_rest = _is_normalized(world)
    world.contacts = _contacts(world)
    world.contacts_of_cost = world.contacts
    if not world.at_rest:
        solve_again(world, 1)
        world.contacts_of_cost = _contacts(world)
        passes -= 1
    solve_again(world, passes - 1)


def solve_again(world: World, passes: int) -> None:
    """More forward passes; acceleration sensors from the last one."""
    for k in range(passes):
        unread = k < passes - 1
        if world.at_rest:
            mujoco.mj_forwardSkip(world.model, world.data, _POSITION_AND_VELOCITY, unread)
        else:
            mujoco.mj_forwardSkip(world.model, world.data, _NOTHING, unread)
            world.at_rest = _is_normalized(world)


def physics_of(world: World) -> np.ndarray:
    """MuJoCo's state, with the last solution of the solver, from which its next pass starts."""
    return np.concatenate([getattr(world.data, name).ravel() for name in _STATE])


def put_physics(world: World, state: np.ndarray) -> None:
    """Puts a world of the same layout into such a state; positions follow with the next step."""
    start = 0
    for name in _STATE:
        array = getattr(world.data, name)
        array[...] = state[start : start + array.size].reshape(array.shape)
        start += array.size
    world.warnings[:] = 0
    world.at_rest = False
    world.contacts = world.contacts_of_cost = NO_CONTACTS


def _contacts(world: World) -> Contacts:
    """Copies of the pairs of geoms in contact, if the rules need them."""
    if not world.watched:
        return NO_CONTACTS
    contact = world.data.contact
    return contact.geom1.copy(), contact.geom2.copy()


def _is_normalized(world: World) -> bool:
    """Whether the next forward pass would find the very same positions.

    A pass begins by normalizing the quaternions in place; rounding may make a
    second normalization change them once more.
    """
    if not world.has_quaternions:
        return True
    scratch = world.scratch
    scratch[:] = world.qpos
    mujoco.mj_normalizeQuat(world.model, scratch)
    return scratch.tobytes() == world.qpos.tobytes()


def gremlin_path(timestep: float, steps: int, travel: float, height: float) -> np.ndarray:
    """Positions of the gremlins' handles before each substep of an episode.

    The clock is summed up as MuJoCo sums it, so the phases agree to the bit.

    Args:
      timestep: seconds of a substep.
      steps: environment steps of an episode.
      travel: radius in meters of the circle that they travel.
      height: z of their centers in meters.

    Returns:
      `[steps, 10, 3]`.
    """
    path = np.empty((steps * SUBSTEPS, 3))
    clock = 0.0
    for k in range(len(path)):
        path[k, 0], path[k, 1] = np.sin(clock), np.cos(clock)
        clock += timestep
    path[:, :2] *= travel
    path[:, 2] = height
    return path.reshape(steps, SUBSTEPS, 3)
