"""CarGoal1 from violation-free logs.

No setting was tuned on this task, but its results with other thresholds had been seen when the
default target violation rate was chosen on PointGoal1 and CarButton1.

    python -m proco_jax.main --config=experiments/car_goal.py

Variants: `car_goal.py:quick`, `car_goal.py`, `car_goal.py:paper`.

Results of the default variant, 5 seeds x 20 episodes, as in the README; interquartile mean over
all episodes [95% interval]:

    | policy               |          return, IQM |         cost, IQM | violation-free |
    | :------------------- | -------------------: | ----------------: | -------------: |
    | actor-critic + PROCO |   9.70 [7.44, 12.03] |    0.0 [0.0, 0.0] |   91% [84, 97] |
    | actor-critic         | 18.49 [17.16, 19.31] | 38.0 [16.7, 59.0] |    18% [6, 32] |

Both were recorded before augmentation and shield became separate settings. The first row is PROCO
deployed with the filter, the planner and thresholds chosen by the violation forecast (commit
4405728, trained at ed3fea8 to 4b1177a). The second is the same actor-critic without generated
costs, deployed with the filter of its own critics and without the planner (commit b30d33f).
"""

from proco_jax.config.presets import set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = Config(experiment="car_goal", task="SafetyCarGoal1")
    # As on CarButton1: the dynamics of wheels and a free ball take longer to learn than a Point's.
    config.dynamics.steps = 6000
    return set_variant(config, variant)
