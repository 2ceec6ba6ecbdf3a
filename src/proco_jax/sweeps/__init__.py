"""Sweeps: a description of what varies, its units of work, their queue, and the results."""
