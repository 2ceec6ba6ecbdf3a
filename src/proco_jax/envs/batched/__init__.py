"""Many simulated worlds in one process, number for number the official ones."""

from proco_jax.envs.simulator import import_mujoco

# Before the modules of this folder import MuJoCo themselves, which may fail for want of OpenGL.
import_mujoco()
