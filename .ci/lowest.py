"""Prints the lowest versions that pyproject.toml allows of what optlab imports, as pip takes them."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
needed = [*project["dependencies"], *extras["explain"], *extras["lab"]]
print(*(requirement.replace(">=", "==") for requirement in needed if ">=" in requirement))
