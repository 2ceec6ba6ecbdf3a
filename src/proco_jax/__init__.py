"""Safe policies from logs that contain almost no accidents: PROCO in JAX."""
