"""PointButton1 from violation-free logs; no setting was tuned on this task.

    python -m proco_jax.main --config=experiments/point_button.py

Variants: `point_button.py:quick`, `point_button.py`, `point_button.py:paper`.

Results of the default variant, 5 seeds x 20 episodes, as in the README; interquartile mean over
all episodes [95% interval]:

    | policy               |       return, IQM |           cost, IQM | violation-free |
    | :------------------- | ----------------: | ------------------: | -------------: |
    | actor-critic + PROCO | 2.15 [1.50, 2.82] |     4.9 [1.3, 11.6] |   53% [41, 64] |
    | actor-critic         | 8.08 [6.80, 9.32] | 106.9 [87.7, 126.3] |      0% [0, 0] |

Both were recorded before augmentation and shield became separate settings. The first row is PROCO
deployed with the filter, the planner and thresholds chosen by the violation forecast (commit
4405728, trained at ed3fea8 to 4b1177a). The second is the same actor-critic without generated
costs, deployed with the filter of its own critics and without the planner (commit b30d33f).
"""

from proco_jax.config.presets import for_buttons, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_buttons(Config(experiment="point_button", task="SafetyPointButton1"))
    return set_variant(config, variant)
