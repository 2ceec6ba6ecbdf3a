"""Records episodes of lidar controllers or trained policies as a Minari dataset.

    python -m proco_jax.collect --task=SafetyCarButton1 --episodes=250 --seed=0
    python -m proco_jax.collect --task=SafetyCarButton1 --behavior=policies

The same command resumes after an interruption, and ends at once if the dataset
is complete. A run with `--config.data.source=collect` and the
same task, episodes, seed and mixture finds the dataset.
"""

import sys
from collections.abc import Sequence

from absl import app, flags

from proco_jax.common.commands import begin_command
from proco_jax.config.schema import (
    BACKENDS,
    BEHAVIORS,
    CollectConfig,
    Config,
    DataConfig,
    EnvConfig,
)
from proco_jax.config.validation import validate

_DATA, _ENV, _MIXTURE = DataConfig(), EnvConfig(), CollectConfig()

_TASK = flags.DEFINE_string("task", None, "Safety-Gymnasium task, e.g. SafetyCarButton1.")
_EPISODES = flags.DEFINE_integer("episodes", _DATA.episodes, "Episodes to record.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", _DATA.seed, "Seed of the collection.", lower_bound=0)
_ROOT = flags.DEFINE_string("root", _DATA.root, "Folder of datasets; empty for Minari's default.")
_ID = flags.DEFINE_string("dataset_id", "", "Minari id; empty for one derived from the settings.")
_BACKEND = flags.DEFINE_enum("backend", _ENV.backend, BACKENDS, "Simulator backend.")
_WORKERS = flags.DEFINE_integer(
    "workers", _ENV.workers, "Threads or processes; 0 for one per core.", lower_bound=0
)
_BEHAVIOR = flags.DEFINE_enum("behavior", _MIXTURE.behavior, BEHAVIORS, "Who acts.")
_POLICIES = flags.DEFINE_string(
    "policies", _MIXTURE.policies, "File of trained policies; empty for that of the package."
)
_GAINS = flags.DEFINE_list("gains", list(map(str, _MIXTURE.gains)), "Avoidance gains to draw from.")
_RANGES = {
    name: flags.DEFINE_list(
        name, list(map(str, getattr(_MIXTURE, name))), f"Lowest and highest {name} to draw."
    )
    for name in ("threshold", "speed", "noise", "policy_noise")
}
flags.mark_flag_as_required("task")


def config_from_flags() -> Config:
    """The config of the collection that the flags describe.

    Raises:
      ValueError: if a flag of the mixture is malformed, or a value is out of bounds.
    """
    ranges = {name: _numbers(name, flag.value, 2) for name, flag in _RANGES.items()}
    mixture = CollectConfig(
        behavior=_BEHAVIOR.value,
        policies=str(_POLICIES.value),
        gains=_numbers("gains", _GAINS.value),
        **ranges,
    )
    config = Config(
        task=str(_TASK.value),
        env=EnvConfig(backend=_BACKEND.value, workers=_WORKERS.value),
        data=DataConfig(
            root=_ROOT.value, episodes=_EPISODES.value, seed=_SEED.value, collect=mixture
        ),
    )
    validate(config)
    return config


def main(argv: Sequence[str]) -> None:
    """Collects the dataset and prints its summary."""
    begin_command(argv)
    # Imported late, because the simulator takes seconds.
    from proco_jax.data.card import summarize
    from proco_jax.data.collection import collect
    from proco_jax.data.minari_store import dataset_root, read_dataset

    try:
        config = config_from_flags()
        dataset_id = collect(config, dataset_id=_ID.value)
        stored = read_dataset(dataset_root(config.data.root), dataset_id)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again to resume")
    summary = summarize(stored.episodes)
    print(
        f"{dataset_id}: {summary['episodes']} episodes, {summary['steps']:,} steps, return "
        f"{summary['return']['mean']:.1f}, cost {summary['cost']['mean']:.1f}, "
        f"{summary['violation_free_share']:.0%} violation-free"
    )
    print(f"use it with --config.data.source=minari:{dataset_id}")


def _numbers(name: str, texts: Sequence[str], count: int | None = None) -> tuple:
    try:
        numbers = tuple(float(text) for text in texts)
    except ValueError as error:
        raise ValueError(f"--{name}: expected numbers between commas, {error}") from error
    if not numbers or (count and len(numbers) != count):
        raise ValueError(f"--{name}: expected {count or 'some'} numbers, found {len(numbers)}")
    return numbers


if __name__ == "__main__":
    app.run(main)
