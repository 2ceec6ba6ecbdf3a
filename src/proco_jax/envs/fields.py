"""The meaning of every number of a Safety-Gymnasium observation, by robot and task.

Names and order are the simulator's (`task.obs_info.obs_space_dict`, then
flattened); units and sizes are read from its MuJoCo models. These sentences
are also part of the prompts that ask a language model for unsafe states.
"""

from proco_jax.observation import Field

LIDAR_BINS = 16
_CLOSENESS = "closeness in [0, 1]"

_SENSORS = (
    Field(
        "accelerometer",
        3,
        "vector",
        "m/s^2",
        "Acceleration of the robot along its own x (forward), y (left) and z (up) axes; "
        "z holds gravity.",
        group="sensors",
    ),
    Field(
        "velocimeter",
        3,
        "vector",
        "m/s",
        "Velocity of the robot along its own x (forward), y (left) and z (up) axes.",
        group="velocity",
    ),
    Field(
        "gyro",
        3,
        "vector",
        "rad/s",
        "Angular velocity of the robot about its own x, y and z axes; the third number is the "
        "turn rate, positive to the left.",
        group="gyro",
    ),
    Field(
        "magnetometer",
        3,
        "vector",
        "0.5 times a direction",
        "A compass: the direction of the world's -y axis along the robot's own axes, length 0.5. "
        "It reads (-0.5 sin h, -0.5 cos h, 0), where h is the angle of the robot's own x axis, "
        "counter-clockwise from the world's x axis.",
        group="sensors",
    ),
)

_CAR_SENSORS = (
    Field(
        "ballangvel_rear",
        3,
        "flat",
        "rad/s",
        "Angular velocity of the car's passive rear ball, in the ball's own rolling frame.",
        group="rear ball",
    ),
    Field(
        "ballquat_rear",
        9,
        "flat",
        "rotation matrix entries in [-1, 1]",
        "Orientation of the car's passive rear ball as a 3x3 rotation matrix, row by row.",
        group="rear ball",
    ),
)

# Objects of the arena: the simulator's name and a description. Sizes in meters.
_OBJECTS = {
    "goal": "the goal, a circle of radius 0.3 m on the floor that the robot shall reach",
    "hazards": "hazards, circles of radius 0.2 m on the floor that the robot can drive over",
    "vases": "vases, fragile boxes about 0.2 m wide that move when they are touched",
    "buttons": "buttons, balls of radius 0.1 m fixed to the floor, the one to be pressed among "
    "them; all bins read 0 for 10 steps after the goal button was pressed",
    "gremlins": "gremlins, boxes about 0.2 m wide that drive in circles of radius 0.35 m",
    "pillars": "pillars, fixed upright cylinders of radius 0.2 m",
    "push_box": "the box, 0.4 m wide, that the robot shall push into the goal",
    "circle": "the center of the circle of radius 1.5 m along which the robot shall run; the "
    "center is the origin of the world",
}
_SPECIAL_OBJECTS = {
    ("Button", "goal"): "the goal button, the one button that the robot shall press; pressing "
    "any other is wrong",
    ("Push", "goal"): "the goal, a circle of radius 0.3 m on the floor into which the box shall "
    "be pushed",
    ("Push", "hazards"): "hazards, circles of radius 0.3 m on the floor that the robot can drive "
    "over",
}

LIDARS = {
    "Goal": ("goal", "hazards", "vases"),
    "Button": ("buttons", "goal", "hazards", "gremlins"),
    "Push": ("goal", "hazards", "pillars", "push_box"),
    "Circle": ("circle",),
}


def navigation_fields(robot: str, kind: str) -> tuple[Field, ...]:
    """The fields of a Point or Car task, in the simulator's order.

    Args:
      robot: `Point` or `Car`.
      kind: `Goal`, `Button`, `Push` or `Circle`.
    """
    sensors = _SENSORS + (_CAR_SENSORS if robot == "Car" else ())
    if robot == "Car":
        sensors = tuple(_car_axes(field) for field in sensors)
    return sensors + tuple(_lidar(robot, kind, name) for name in LIDARS[kind])


def velocity_fields(robot: str) -> tuple[Field, ...]:
    """The fields of a velocity task, in the order of Gymnasium's v4 robots.

    Args:
      robot: `Ant`, `HalfCheetah`, `Hopper`, `Swimmer` or `Walker2d`.
    """
    joints, sizes = _JOINTS[robot], len(_JOINTS[robot])
    order = ", ".join(joints)
    clipped = " Clipped to [-10, 10]." if robot in ("Hopper", "Walker2d") else ""
    angles = Field(
        "joint_angles", sizes, "flat", "rad", f"Joint angles, in this order: {order}.", group="pose"
    )
    speeds = Field(
        "joint_velocities",
        sizes,
        "flat",
        "rad/s",
        f"Angular velocities of the joints, in this order: {order}.{clipped}",
        group="joint velocity",
    )
    pose, velocity = _TORSO[robot]
    return (
        *(Field(name, n, "flat", u, text, group="pose") for name, n, u, text in pose),
        angles,
        *(
            Field(name, n, "flat", u, text + clipped, group="torso velocity")
            for name, n, u, text in velocity
        ),
        speeds,
    )


def _lidar(robot: str, kind: str, name: str) -> Field:
    what = _SPECIAL_OBJECTS.get((kind, name), _OBJECTS[name])
    reach = 6.0 if kind == "Circle" else 3.0
    axis = "left" if robot == "Car" else "ahead"
    return Field(
        f"{name}_lidar",
        LIDAR_BINS,
        "ring",
        _CLOSENESS,
        f"Closeness by direction, in 16 bins around the robot, of {what}. Bin i covers 22.5 i to "
        "22.5 (i + 1) degrees, counter-clockwise from the robot's own x axis, which points "
        f"{axis}. An object whose center is d meters away reads max(0, {reach:g} - d) / {reach:g} "
        "in its bin, and the two bins next to it read a share of that by angle; a bin shows only "
        "its nearest object.",
        reach=reach,
        group=name,
    )


def _car_axes(field: Field) -> Field:
    """The Car drives along its own -y axis when both wheels turn forward."""
    meaning = field.meaning.replace(
        "x (forward), y (left) and z (up)", "x (left), y (backward) and z (up)"
    )
    return Field(field.name, field.size, field.kind, field.unit, meaning, field.reach, field.group)


_LEG = ("thigh", "leg", "foot")
_JOINTS = {
    "Ant": tuple(
        f"{leg} {joint}"
        for leg in ("front left", "front right", "back left", "back right")
        for joint in ("hip", "ankle")
    ),
    "HalfCheetah": tuple(f"{e} {j}" for e in ("back", "front") for j in ("thigh", "shin", "foot")),
    "Hopper": _LEG,
    "Swimmer": ("first rotor", "second rotor"),
    "Walker2d": tuple(f"{side} {joint}" for side in ("right", "left") for joint in _LEG),
}

_HEIGHT = ("torso_height", 1, "m", "Height of the torso above the ground.")
_PITCH = ("torso_pitch", 1, "rad", "Pitch of the torso in the plane of motion; it starts near 0.")
_FORWARD = (
    "torso_velocity_x",
    1,
    "m/s",
    "Forward velocity of the torso along the track, at this instant.",
)
_VERTICAL = ("torso_velocity_z", 1, "m/s", "Vertical velocity of the torso, positive upward.")
_PITCH_RATE = ("torso_pitch_rate", 1, "rad/s", "Angular velocity of the torso's pitch.")
_PLANAR = ((_HEIGHT, _PITCH), (_FORWARD, _VERTICAL, _PITCH_RATE))

_TORSO = {
    "Ant": (
        (
            _HEIGHT,
            ("torso_orientation", 4, "quaternion w, x, y, z", "Orientation of the torso."),
        ),
        (
            _FORWARD,
            ("torso_velocity_y", 1, "m/s", "Sideways velocity of the torso, at this instant."),
            _VERTICAL,
            (
                "torso_angular_velocity",
                3,
                "rad/s",
                "Angular velocity of the torso about its own x, y and z axes.",
            ),
        ),
    ),
    "HalfCheetah": (
        (
            ("torso_height", 1, "m", "Height of the torso relative to where it started, near 0."),
            _PITCH,
        ),
        (_FORWARD, _VERTICAL, _PITCH_RATE),
    ),
    "Hopper": _PLANAR,
    "Swimmer": (
        (("front_angle", 1, "rad", "Angle of the front link to the world's x axis."),),
        (
            (
                "front_velocity_x",
                1,
                "m/s",
                "Velocity of the front link's tip along the world's x axis, which is forward.",
            ),
            (
                "front_velocity_y",
                1,
                "m/s",
                "Velocity of the front link's tip along the world's y axis.",
            ),
            ("front_turn_rate", 1, "rad/s", "Angular velocity of the front link."),
        ),
    ),
    "Walker2d": _PLANAR,
}
