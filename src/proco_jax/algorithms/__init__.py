"""Learners, one file each, with one contract: `init`, `update`, `act`."""
