"""The Safety-Gymnasium simulator: tasks, vectorized worlds, episodes and controllers."""
