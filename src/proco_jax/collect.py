"""Records episodes of the lidar controllers as a Minari dataset.

    python -m proco_jax.collect --task=SafetyCarButton1 --episodes=250 --seed=0

The same command again continues where it was interrupted, and ends at once
when the dataset is complete. A run with `--config.data.source=collect` and the
same task, episodes, seed and mixture finds the dataset.
"""

import sys
from collections.abc import Sequence

from absl import app, flags

from proco_jax.config.rules import BACKENDS
from proco_jax.config.schema import CollectConfig, Config, DataConfig, EnvConfig

_DATA, _ENV, _MIXTURE = DataConfig(), EnvConfig(), CollectConfig()

_TASK = flags.DEFINE_string("task", None, "Safety-Gymnasium task, e.g. SafetyCarButton1.")
_EPISODES = flags.DEFINE_integer("episodes", _DATA.episodes, "Episodes to record.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", _DATA.seed, "Seed of the collection.", lower_bound=0)
_ROOT = flags.DEFINE_string("root", _DATA.root, "Folder of datasets; empty for Minari's own.")
_ID = flags.DEFINE_string("dataset_id", "", "Minari id; empty for one made from the settings.")
_BACKEND = flags.DEFINE_enum("backend", _ENV.backend, BACKENDS, "Who steps the worlds.")
_WORKERS = flags.DEFINE_integer("workers", _ENV.workers, "0 for one per core.", lower_bound=0)
_GAINS = flags.DEFINE_list("gains", list(map(str, _MIXTURE.gains)), "Avoidance gains to draw from.")
_RANGES = {
    name: flags.DEFINE_list(
        name, list(map(str, getattr(_MIXTURE, name))), f"Lowest and highest {name} to draw."
    )
    for name in ("threshold", "speed", "noise")
}
flags.mark_flag_as_required("task")


def config_from_flags() -> Config:
    """The part of a config that decides a collection.

    Raises:
      ValueError: if a mixture flag holds no numbers, or the wrong number of them.
    """
    ranges = {name: _numbers(name, flag.value, 2) for name, flag in _RANGES.items()}
    mixture = CollectConfig(gains=_numbers("gains", _GAINS.value), **ranges)
    return Config(
        task=str(_TASK.value),
        env=EnvConfig(backend=_BACKEND.value, workers=_WORKERS.value),
        data=DataConfig(
            root=_ROOT.value, episodes=_EPISODES.value, seed=_SEED.value, collect=mixture
        ),
    )


def main(argv: Sequence[str]) -> None:
    """Collects and says where the dataset lies."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    # The simulator takes seconds to import; wrong flags are told before.
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
        sys.exit("interrupted; the same command again continues")
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
