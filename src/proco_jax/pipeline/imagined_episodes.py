"""The stage that imagines the episodes from which the trainings of other algorithms learn."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.augmentation.base import Context, ImaginedEpisodes
from proco_jax.common.files import read_npz, write_atomic
from proco_jax.common.random_streams import Stream, stream_keys
from proco_jax.config.schema import Config
from proco_jax.data.logs import to_dataset
from proco_jax.pipeline.policies import Learner, Trained
from proco_jax.pipeline.store import artifact, digest
from proco_jax.pipeline.workdir import Run
from proco_jax.training import loop
from proco_jax.training.imagined_episodes import Walks, make_walks
from proco_jax.training.sampling import sums_to_go
from proco_jax.types import Episode

# The algorithm whose policy is improved in imagination.
IMPROVED = "proco"
# Raised when the meaning of the episodes changes while their settings do not.
VERSION = 1
_FILE = "episodes.npz"
_FIELDS = ("obs", "action", "reward", "cost")


def learns_from_episodes(config: Config, learner: Learner) -> bool:
    """Whether a training has imagined episodes: any but that whose policy imagines them."""
    return (
        config.proco.imagination.updates > 0
        and config.augmentation.episode_share > 0
        and learner.augmentation != "none"
        and learner.algorithm != IMPROVED
    )


def imagine_episodes(run: Run, improved: Trained, context: Context) -> tuple[Context, str]:
    """The context with episodes of the improved policies of all seeds, and the episodes' hash.

    They are an artifact of the store. All seeds of other algorithms learn from the same ones, as
    they share the dynamics. Without any that are fit to learn from the context is as it was.
    """
    config, task = run.config, improved.program.task
    count, seeds = config.proco.imagination.episodes, config.seeds
    inputs = {
        "version": VERSION,
        "policy": digest(improved.inputs),
        "episodes": count,
        "steps": task.episode_steps,
    }

    def make(folder: Path) -> None:
        each = -(-count // seeds)
        walks = make_walks(improved.program, each, task.episode_steps)
        keys = stream_keys(config.seed, seeds, Stream.IMAGINED_EPISODES)
        hyper = loop.make_hyper(improved.program, seeds)
        found = []
        for i in range(seeds):
            mine, state = jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), (hyper, improved.state))
            found += choose(jax.device_get(walks(context, mine, state, keys[i])))
        arrays = _stacked(found) if found else {name: np.zeros(0) for name in _FIELDS}
        write_atomic(folder / _FILE, functools.partial(np.savez_compressed, **arrays))

    folder = artifact(run.store, "episodes", inputs, make, run.log)
    remedy = f"remove {folder}, then they are imagined anew"
    stored = read_npz(folder / _FILE, _FIELDS, remedy)
    kept = len(stored["reward"])
    if not kept:
        run.log("   no imagined episode stays on the support of the logs; trained without")
        return context, folder.name
    run.log(
        f"   {kept} imagined episodes of {count}: return {stored['reward'].sum(axis=1).mean():.1f},"
        f" unsafe steps {stored['cost'].sum(axis=1).mean():.1f}"
    )
    obs, action, reward, cost = (stored[name] for name in _FIELDS)
    episodes = [Episode(obs[i], action[i], reward[i], cost[i], False) for i in range(kept)]
    assert context.world is not None
    world = context.world._replace(episodes=_on_device(episodes))
    return context._replace(world=world), folder.name


def choose(walks: Walks) -> list[Episode]:
    """The episodes that are learned from: those that are neither lost nor have a cost.

    Of episodes all of which have one, the eighth with the least; of lost ones none.

    Args:
      walks: of one member, on the host.
    """
    whole = np.flatnonzero(~walks.lost)
    total = walks.cost.sum(axis=1)
    chosen = whole[total[whole] == 0]
    if not len(chosen):
        least = whole[np.argsort(total[whole], kind="stable")]
        chosen = np.sort(least[: -(-len(total) // 8)])
    obs, action, reward, cost, _ = walks
    return [Episode(obs[i], action[i], reward[i], cost[i], False) for i in chosen]


def _stacked(episodes: list[Episode]) -> dict[str, np.ndarray]:
    return {name: np.stack([getattr(e, name) for e in episodes]) for name in _FIELDS}


def _on_device(episodes: list[Episode]) -> ImaginedEpisodes:
    data = jax.tree.map(jnp.asarray, to_dataset(episodes))
    return ImaginedEpisodes(data, jax.jit(sums_to_go)(data, data.cost))
