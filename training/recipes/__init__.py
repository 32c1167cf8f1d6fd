"""Settings that figures were measured with, one file for a backbone and a kind of data: `--config NAME` reads one.

Each says what was compared before, and where; figures of a test chose nothing.
"""

import tomllib
from pathlib import Path

from training.config import TrainingConfig

RECIPES = Path(__file__).parent


def names() -> list[str]:
    """Of all recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def recipe_path(name: str) -> Path | None:
    """The file of a recipe, if there is one of that name."""
    path = RECIPES / f"{name}.toml"
    return path if name in names() else None


def read_recipe(name: str) -> TrainingConfig:
    """The settings of a recipe over the defaults; only its own count as set.

    Raises:
        KeyError: there is none of that name.
    """
    if (path := recipe_path(name)) is None:
        raise KeyError(name)
    return TrainingConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
