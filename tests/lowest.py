"""Writes the oldest version that pyproject.toml allows of each package, as constraints for pip."""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def lowest(project):
    """`name==version` for every package that the course needs or is tested with."""
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["dev"]]:
        needed = Requirement(text)
        (bound,) = needed.specifier
        yield f"{needed.name}=={bound.version}"


if __name__ == "__main__":
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    sys.stdout.writelines(f"{line}\n" for line in lowest(tomllib.loads(text)["project"]))
