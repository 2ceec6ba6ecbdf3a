"""Where the experiments and knowledge files lie that come with the package."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_experiments() -> Path:
    """The folder `experiments`: of the repository in a source tree, else inside of the package."""
    packaged = _PACKAGE / "experiments"
    return packaged if packaged.is_dir() else _PACKAGE.parents[1] / "experiments"


def find_shipped(path: str | Path) -> Path:
    """The path, or the shipped file of that name if it does not exist.

    A path such as `experiments/own_system/tank.md` is found from any folder.
    """
    path = Path(path)
    if path.parts[:1] == ("experiments",) and not path.exists():
        shipped = shipped_experiments().joinpath(*path.parts[1:])
        return shipped if shipped.exists() else path
    return path
