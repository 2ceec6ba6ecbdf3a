"""A learner of behavior policies, with which logs are recorded; not a part of PROCO."""
