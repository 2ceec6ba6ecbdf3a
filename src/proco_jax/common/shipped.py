"""Where the experiments and knowledge files lie that come with the package."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_experiments() -> Path:
    """The folder `experiments`: of the repository in a source tree, else inside of the package."""
    packaged = _PACKAGE / "experiments"
    return packaged if packaged.is_dir() else _PACKAGE.parents[1] / "experiments"
