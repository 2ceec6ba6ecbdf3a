"""PointGoal1 from violation-free logs.

    python -m proco_jax.main --config=experiments/point_goal.py

Variants: `point_goal.py:quick`, `point_goal.py`, `point_goal.py:paper`.

Results of the default variant, 5 seeds x 20 episodes, as in the README; interquartile mean over
all episodes [95% interval]:

    | policy               |          return, IQM |         cost, IQM | violation-free |
    | :------------------- | -------------------: | ----------------: | -------------: |
    | actor-critic + PROCO |    6.16 [3.79, 8.76] |    0.0 [0.0, 0.0] |   92% [85, 98] |
    | actor-critic         | 14.92 [14.28, 15.56] | 47.7 [37.0, 64.5] |     7% [1, 14] |

Both were recorded before augmentation and shield became separate settings. The first row is PROCO
deployed with the filter, the planner and thresholds chosen by the violation forecast (commit
4405728, trained at ed3fea8 to 4b1177a). The second is the same actor-critic without generated
costs, deployed with the filter of its own critics and without the planner (commit b30d33f).
"""

from proco_jax.config.presets import set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = Config(experiment="point_goal", task="SafetyPointGoal1")
    return set_variant(config, variant)
