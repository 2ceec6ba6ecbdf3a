"""CarButton1 from violation-free logs.

    python -m proco_jax.main --config=experiments/car_button.py

Variants: `car_button.py:quick`, `car_button.py`, `car_button.py:paper`.

Results on logs of lidar controllers, 5 seeds x 20 episodes, as in the README; interquartile mean
over all episodes [95% interval]:

    | policy               |        return, IQM |            cost, IQM | violation-free |
    | :------------------- | -----------------: | -------------------: | -------------: |
    | actor-critic + PROCO |  2.01 [1.08, 2.99] |     13.2 [5.6, 25.3] |   42% [30, 54] |
    | actor-critic         | 8.81 [7.20, 10.14] | 150.9 [129.2, 171.8] |      3% [0, 7] |

Both were recorded before augmentation and shield became separate settings. The first row is PROCO
deployed with the filter, the planner and thresholds chosen by the violation forecast (commit
4405728, trained at ed3fea8 to 4b1177a). The second is the same actor-critic without generated
costs, deployed with the filter of its own critics and without the planner (commit b30d33f).
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_button", task="SafetyCarButton1"))
    return set_variant(config, variant)
