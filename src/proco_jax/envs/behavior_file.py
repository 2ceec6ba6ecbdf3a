"""The file of trained behavior policies of a task: small, checked, and with its provenance.

A file holds K snapshots of one training, early to late, as half-precision numbers in an NPZ
archive, with a header in JSON.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from proco_jax.common.files import read_npz, write_atomic
from proco_jax.envs.behavior_inputs import (
    INPUT_CLIP,
    PRICE_INPUTS,
    Prices,
    policy_inputs,
    prices_of,
)
from proco_jax.envs.tasks import Task

FORMAT = 1
_SHIPPED = Path(__file__).resolve().parent / "behaviors"


class BehaviorPolicies(NamedTuple):
    """Snapshots of a training, as they are recorded with.

    Attributes:
      header: provenance, as plain values: `format`, `task`, `layers`, `prices`, and what the
        training states.
      shift: `[K, F]` float32, what is subtracted from the inputs.
      scale: `[K, F]` float32, what they are then multiplied by.
      weights: of each layer, `[K, rows, columns]` float32. The last P inputs are the price.
      biases: of each layer, `[K, columns]` float32.
      log_std: `[K, P, A]` float32, of the actions, for each input of the price.
    """

    header: dict[str, Any]
    shift: np.ndarray
    scale: np.ndarray
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    log_std: np.ndarray

    @property
    def snapshots(self) -> int:
        """K."""
        return len(self.shift)

    @property
    def prices(self) -> Prices:
        """The prices of a violation for which the policies were trained."""
        return Prices(*self.header["prices"])

    def rows(self, snapshots: np.ndarray) -> "BehaviorPolicies":
        """The policies of N worlds, whose snapshots have the indices `[N]`."""
        return self._replace(
            shift=self.shift[snapshots],
            scale=self.scale[snapshots],
            weights=tuple(weight[snapshots] for weight in self.weights),
            biases=tuple(bias[snapshots] for bias in self.biases),
            log_std=self.log_std[snapshots],
        )

    def means(self, inputs: np.ndarray, price_input: np.ndarray) -> np.ndarray:
        """Mean actions `[N, A]` of N policies for inputs `[N, F]` and prices `[N, P]`.

        Every row is computed apart, so it does not depend on the others to the last bit.
        """
        x = np.clip((inputs - self.shift) * self.scale, -INPUT_CLIP, INPUT_CLIP)
        x = np.concatenate([x, price_input], axis=1).astype(np.float32)[:, None]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.tanh(x @ weight + bias[:, None])
        return (x @ self.weights[-1] + self.biases[-1][:, None])[:, 0]


def shipped_policies(task: Task) -> Path:
    """Where the policies of a task lie that come with the package."""
    return _SHIPPED / f"{task.name}.npz"


def save_policies(path: Path, policies: BehaviorPolicies) -> None:
    """Writes a file atomically, in half precision.

    Raises:
      ValueError: if a number is too large for half precision, or not finite.
    """
    arrays = _arrays(policies)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} of the behavior policies does not fit half precision")
    header = {**policies.header, "format": FORMAT, "layers": len(policies.weights)}
    header["digest"] = _digest(arrays)
    text = np.frombuffer(json.dumps(header, indent=1).encode(), np.uint8)
    write_atomic(
        path,
        lambda temporary: np.savez_compressed(temporary, header=text, **arrays),  # type: ignore
    )


def load_policies(path: Path, task: Task) -> BehaviorPolicies:
    """Reads a file of the given task.

    Raises:
      FileNotFoundError: if there is none; names the command that makes one.
      ValueError: if it is damaged, of another format, or of another task.
    """
    remedy = f"train it again: python -m proco_jax.behaviors --task={task.name} --out={path}"
    if not path.is_file():
        raise FileNotFoundError(f"no behavior policies in {path}; {remedy}")
    header = _header(path, remedy)
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} has format {header.get('format')}, expected {FORMAT}; {remedy}")
    if header.get("task") != task.name:
        raise ValueError(f"{path} holds policies of {header.get('task')}, expected {task.name}")
    # The first files do not state them.
    header.setdefault("prices", list(prices_of(task)))
    names = _names(int(header["layers"]))
    arrays = read_npz(path, names, remedy)
    if _digest(arrays) != header.get("digest"):
        raise ValueError(f"{path} is damaged (its digest differs); {remedy}")
    single = {name: array.astype(np.float32) for name, array in arrays.items()}
    policies = BehaviorPolicies(
        header,
        single["shift"],
        single["scale"],
        tuple(single[name] for name in names if name.startswith("weight")),
        tuple(single[name] for name in names if name.startswith("bias")),
        single["log_std"],
    )
    _check_sizes(path, task, policies)
    return policies


def _check_sizes(path: Path, task: Task, policies: BehaviorPolicies) -> None:
    """Compares the sizes with those of the task's inputs and actions."""
    inputs = policy_inputs(task, np.zeros((1, task.spec.size), np.float32)).shape[1]
    found = policies.weights[0].shape[1], policies.weights[-1].shape[2]
    if found != (inputs + PRICE_INPUTS, task.action_size):
        raise ValueError(
            f"{path}: found policies of {found[0]} inputs and {found[1]} actions, expected "
            f"{inputs + PRICE_INPUTS} and {task.action_size}; another version of the package wrote "
            "it"
        )


def _header(path: Path, remedy: str) -> dict[str, Any]:
    text = read_npz(path, ("header",), remedy)["header"]
    try:
        header = json.loads(text.tobytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} is damaged (its header is no object); {remedy}")
    return header


def _names(layers: int) -> list[str]:
    own = [f"{kind}{k}" for kind in ("weight", "bias") for k in range(layers)]
    return ["shift", "scale", "log_std", *own]


def _arrays(policies: BehaviorPolicies) -> dict[str, np.ndarray]:
    """The arrays of a file. Inputs of tiny variance need the range of single precision."""
    with np.errstate(over="ignore"):
        half = {f"weight{k}": x.astype(np.float16) for k, x in enumerate(policies.weights)}
        half |= {f"bias{k}": x.astype(np.float16) for k, x in enumerate(policies.biases)}
        half["log_std"] = policies.log_std.astype(np.float16)
    single = {"shift": policies.shift, "scale": policies.scale}
    return {**{k: np.asarray(v, np.float32) for k, v in single.items()}, **half}


def _digest(arrays: dict[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(name.encode() + str(arrays[name].shape).encode())
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()
