"""Which states are labeled: a covering sample with extra states near the boundary."""

import numpy as np

_CENTERS = 256
_SEARCHED = 8192
_POOL = 4
_CHUNK = 16384


def choose_states(
    obs: np.ndarray,
    count: int,
    seed: int,
    margin: np.ndarray | None = None,
    boundary_share: float = 0.0,
) -> np.ndarray:
    """A covering sample of states.

    Centers are spread by farthest-point search in normalized space, every
    state belongs to its nearest center, and the sample takes equally many from
    each, so that rare states are asked about as often as common ones. A share
    is taken from the states closest to the boundary, half from either side,
    covering them in the same way. The same states, in the same order, with the
    same seed give the same sample.

    Args:
      obs: `[M, O]` candidates.
      count: how many to choose; all of them if there are no more.
      seed: of every draw.
      margin: `[M]` signed distances to the boundary; NaN where unknown.
      boundary_share: share of the sample taken near the boundary.

    Returns:
      `[min(count, M)]` int64 indices, ascending, none twice.

    Raises:
      ValueError: if the shapes disagree or a number is not finite.
    """
    obs = np.asarray(obs, np.float32)
    if obs.ndim != 2 or not np.isfinite(obs).all():
        raise ValueError(f"expected finite states [M, O], found shape {obs.shape}")
    if margin is not None and np.shape(margin) != obs.shape[:1]:
        raise ValueError(f"expected {obs.shape[0]} margins, found shape {np.shape(margin)}")
    if count >= len(obs):
        return np.arange(len(obs))
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(obs), bool)
    if margin is not None:
        chosen[_near_boundary(obs, np.asarray(margin), int(count * boundary_share), rng)] = True
    rest = np.flatnonzero(~chosen)
    chosen[rest[_cover(obs[rest], count - int(chosen.sum()), rng)]] = True
    return np.flatnonzero(chosen)


def choose_disagreeing(
    obs: np.ndarray, score: np.ndarray, count: int, seed: int, asked: np.ndarray
) -> np.ndarray:
    """States for a further round: where a score of disagreement is high.

    The sample covers the highest-scoring candidates, so that it does not spend
    itself on a thousand variants of one state.

    Args:
      obs: `[M, O]` candidates.
      score: `[M]`, e.g. the standard deviation over a cost ensemble.
      count: how many to choose.
      seed: of every draw.
      asked: `[K]` indices that were asked about already.

    Returns:
      Ascending indices, none of them in `asked`; fewer than `count` only where
      no more are left.
    """
    obs = np.asarray(obs, np.float32)
    left = np.setdiff1d(np.arange(len(obs)), asked)
    order = left[np.argsort(-np.asarray(score)[left], kind="stable")]
    pool = np.sort(order[: _POOL * count])
    return pool[_cover(obs[pool], count, np.random.default_rng(seed))]


def _near_boundary(
    obs: np.ndarray, margin: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Indices near the boundary, from both sides as far as there are any."""
    known = np.flatnonzero(np.isfinite(margin))
    inside, outside = known[margin[known] >= 0], known[margin[known] < 0]
    few = min(count // 2, len(inside), len(outside))
    # What the smaller side cannot give, the other does.
    wanted = {True: few, False: few}
    larger = len(inside) > len(outside)
    wanted[larger] = min(count - few, len(inside) if larger else len(outside))
    picked = []
    for is_inside, side in ((True, inside), (False, outside)):
        near = side[np.argsort(np.abs(margin[side]), kind="stable")[: _POOL * wanted[is_inside]]]
        near = np.sort(near)
        picked.append(near[_cover(obs[near], wanted[is_inside], rng)])
    return np.concatenate(picked)


def _cover(obs: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `count` rows that cover all rows."""
    if count <= 0:
        return np.zeros(0, np.int64)
    if count >= len(obs):
        return np.arange(len(obs))
    spread = obs.std(axis=0)
    points = (obs - obs.mean(axis=0)) / np.where(spread > 1e-6, spread, 1.0)
    searched = points[rng.permutation(len(points))[:_SEARCHED]]
    group = _nearest_center(points, _farthest_points(searched, min(_CENTERS, count), rng))
    return _equal_shares(group, count, rng)


def _farthest_points(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`[count, O]` points, each drawn by its squared distance to those before.

    The seeding of k-means++ (Arthur and Vassilvitskii 2007).
    """
    centers = [points[rng.integers(len(points))]]
    distance = np.full(len(points), np.inf)
    for _ in range(min(count, len(points)) - 1):
        distance = np.minimum(distance, np.square(points - centers[-1]).sum(axis=1))
        total = distance.sum()
        if total <= 0:
            break
        centers.append(points[rng.choice(len(points), p=distance / total)])
    return np.stack(centers)


def _nearest_center(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    offset = np.square(centers).sum(axis=1)
    chunks = range(0, len(points), _CHUNK)
    near = [np.argmin(offset - 2 * points[i : i + _CHUNK] @ centers.T, axis=1) for i in chunks]
    return np.concatenate(near)


def _equal_shares(group: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows drawn in turns from every group until there are `count`."""
    order = rng.permutation(len(group))
    by_group = order[np.argsort(group[order], kind="stable")]
    sorted_groups = group[by_group]
    first = np.searchsorted(sorted_groups, sorted_groups)
    turn = np.arange(len(group)) - first
    # The last turn is shared out at random rather than to the first groups.
    rank = np.lexsort((rng.permutation(len(group)), turn))
    return by_group[rank[:count]]
