"""One compiled MuJoCo world per row of a batch, cut down to what moves or collides.

The official package builds the world once; its XML is stripped of what no
number of a trajectory depends on (textures of 190 MB, cameras, lights, objects
that nothing can touch, unused sensors) and compiled. An episode's
layout is then written into the compiled model, which leaves it bit-equal to a
model compiled from that layout's own XML, without compiling anything.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's names come from a C extension, which a type checker cannot read.

import copy
import dataclasses
import functools
import xml.etree.ElementTree as ET
from typing import Any

import mujoco
import numpy as np

from proco_jax.envs.batched.layout import Placement, placements_of
from proco_jax.envs.simulator import make_official
from proco_jax.envs.tasks import Task

Contacts = tuple[np.ndarray, np.ndarray]
NO_CONTACTS: Contacts = (np.empty(0, np.int32), np.empty(0, np.int32))
_STACK = 2**23  # numbers of 8 bytes


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """What all worlds of a task share.

    Attributes:
      task: the task.
      model: the compiled stripped world; copied for every world.
      rules: the official task object, read for its constants only.
      placements: what a layout places, in the order of the draws.
      rotated: body of each drawn rotation, "" where the model has none.
      heights: `[P]` z of each placed object's center.
      sensors: name, first number and size of each sensor, as observed.
      xml: the official world, as built for seed 0.
    """

    task: Task
    model: Any
    rules: Any
    placements: tuple[Placement, ...]
    rotated: tuple[str, ...]
    heights: dict[str, float]
    sensors: tuple[tuple[str, int, int], ...]
    xml: str


class World:
    """One world: its model, its state, and views of the arrays that are read often."""

    __slots__ = (
        "at_rest",
        "contacts",
        "contacts_of_cost",
        "ctrl",
        "data",
        "has_quaternions",
        "mat",
        "mocap",
        "model",
        "options",
        "qpos",
        "qvel",
        "random",
        "scratch",
        "sensors",
        "warnings",
        "watched",
        "xpos",
    )

    def __init__(self, blueprint: Blueprint):
        self.model = copy.copy(blueprint.model)
        self.data = mujoco.MjData(self.model)
        self.options = self.model.opt
        self.random = np.random.RandomState(0)
        data = self.data
        self.ctrl, self.qpos, self.qvel = data.ctrl, data.qpos, data.qvel
        self.mocap, self.sensors = data.mocap_pos, data.sensordata
        self.xpos, self.mat = data.xpos, data.xmat[self.model.body("agent").id]
        self.warnings = data.warning.number
        # Whether the rules need contacts, and the pairs of geoms in contact at the two
        # forward passes from which the official step reads them.
        self.watched = False
        self.contacts = self.contacts_of_cost = NO_CONTACTS
        # Whether the next forward pass would compute the same positions again.
        self.at_rest = False
        self.has_quaternions = self.model.nq != self.model.nv
        self.scratch = np.zeros(self.model.nq)


@functools.cache
def blueprint(task: Task) -> Blueprint:
    """Builds the official world of a navigation task once and strips it."""
    # Without this, MuJoCo writes its warnings to a file in the current folder.
    mujoco.set_mju_user_warning(lambda message: None)
    official: Any = make_official(task).unwrapped
    official.reset(seed=0)
    rules = official.task
    observed = tuple(rules.agent.build_sensor_observation_space())
    xml = rules.world.xml_string
    model = mujoco.MjModel.from_xml_string(strip(xml, observed))
    heights = {
        rules.model.body(i).name: float(rules.model.body(i).pos[2])
        for i in range(rules.model.nbody)
    }
    rules.world = None  # 190 MB of textures
    return Blueprint(
        task=task,
        model=model,
        rules=rules,
        placements=placements_of(rules),
        rotated=("agent", *_rotated_bodies(rules, model)),
        heights=heights,
        sensors=tuple(
            (name, int(model.sensor(name).adr[0]), int(model.sensor(name).dim[0]))
            for name in observed
        ),
        xml=xml,
    )


def strip(xml: str, sensors: tuple[str, ...]) -> str:
    """An official world's XML without what no number of a trajectory depends on."""
    root = ET.fromstring(without_textures(xml))
    for parent in list(root.iter()):
        for child in list(parent):
            seen_only = child.tag in ("camera", "light")
            unread = parent.tag == "sensor" and child.get("name") not in sensors
            if seen_only or unread:
                parent.remove(child)
    world = _child(root, "worldbody")
    for body in world.findall("body"):
        geoms = body.findall("geom")
        untouchable = all(g.get("contype") == "0" and g.get("conaffinity") == "0" for g in geoms)
        if body.get("mocap") == "true":
            for geom in geoms:
                body.remove(geom)
        elif untouchable and body.find("freejoint") is None:
            world.remove(body)
    return ET.tostring(root, encoding="unicode")


def without_textures(xml: str) -> str:
    """An official world's XML without its 190 MB of textures, and with a smaller stack."""
    root = ET.fromstring(xml)
    for assets in root.findall("asset"):
        root.remove(assets)
    for element in root.iter():
        element.attrib.pop("material", None)
    # The stack is 300 times what any task was seen to use; the official size
    # would reserve 470 MB of addresses for every world.
    _child(root, "size").set("nstack", str(_STACK))
    return ET.tostring(root, encoding="unicode")


def place(
    model: Any,
    data: Any,
    blueprint: Blueprint,
    layout: dict[str, tuple[float, float]],
    rotations: np.ndarray,
) -> None:
    """Writes a layout into a world and puts it at the start of an episode.

    Args:
      model: the MuJoCo model to overwrite.
      data: its state, to be put at the start.
      blueprint: of its task.
      layout: position of every placed object.
      rotations: `[R]` angles in the order of `blueprint.rotated`.
    """
    for body, angle in zip(blueprint.rotated, rotations.tolist(), strict=True):
        if not body:
            continue
        b = model.body(body).id
        model.body_pos[b, :2] = layout[body.removesuffix("obj")]
        model.body_quat[b] = _upright(angle)
        joint = model.body_jntadr[b]
        if joint >= 0 and model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE:
            at = model.jnt_qposadr[joint]
            model.qpos0[at : at + 3] = model.body_pos[b]
            model.qpos0[at + 3 : at + 7] = model.body_quat[b]
    model.qpos_spring[:] = model.qpos0
    # A zero relative pose asks MuJoCo to take it from the poses at the start,
    # where the gremlins' handles must stand again; the last number is the
    # weld's torque scale.
    mujoco.mj_resetData(model, data)
    model.eq_data[:, :10] = 0
    mujoco.mj_setConst(model, data)
    mujoco.mj_resetData(model, data)


def _upright(angle: float) -> np.ndarray:
    quat = np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)], dtype="float64")
    return quat / np.sqrt(np.sum(np.square(quat)))


def _rotated_bodies(rules: Any, model: Any) -> list[str]:
    """The body of each rotation that the official world building draws, in order."""
    names = []
    for obstacle in rules._obstacles:
        if hasattr(obstacle, "num"):
            suffix = "obj" if obstacle.type == "mocaps" else ""
            names += [f"{obstacle.name[:-1]}{i}{suffix}" for i in range(obstacle.num)]
        else:
            names.append(obstacle.name)
    present = {model.body(i).name for i in range(model.nbody)}
    return [name if name in present else "" for name in names]


def _child(element: ET.Element, tag: str) -> ET.Element:
    found = element.find(tag)
    if found is None:
        raise ValueError(f"the official world has no <{tag}>; is safety-gymnasium 1.0.0 installed?")
    return found
