"""The scaling factors of well-known repositories, in order of size."""

import functools

from lora_lab.findings.defaults import ToolDefaults, defaults


@functools.cache
def found_scalings() -> tuple[ToolDefaults, ...]:
    """The files of data/defaults.toml that give a scaling, from the smallest to the largest."""
    found = [tool for tool in defaults().values() if tool.scaling is not None]
    return tuple(sorted(found, key=lambda tool: tool.scaling))
