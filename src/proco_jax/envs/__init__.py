"""Doors to the simulator: tasks, worlds, episodes and controllers."""
