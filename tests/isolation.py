"""The surroundings in which tests run and notebooks are made and checked.

There is no network, no earlier run, one thread, and no personal setting of Jupyter or IPython.
Results that are compared must not depend on the machine.
"""

import os
import runpy
from collections.abc import MutableMapping
from pathlib import Path

OFFLINE = Path(__file__).parent / "offline"
CLOSED = "http://127.0.0.1:9"  # the discard port: nothing listens there


def settings(place: Path) -> dict[str, str]:
    """The environment variables of an isolated process, whose own files go to `place`."""
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    python_path = dict.fromkeys([str(OFFLINE), *others])  # each once
    proxies = ("http_proxy", "https_proxy", "all_proxy")  # for what is not Python: browsers, Rust
    return {
        "PYTHONPATH": os.pathsep.join(python_path),
        **{name: CLOSED for proxy in proxies for name in (proxy, proxy.upper())},
        "no_proxy": "localhost,127.0.0.1,::1",
        "NO_PROXY": "localhost,127.0.0.1,::1",
        "HF_HUB_OFFLINE": "1",
        "LORA_LAB_STORE": str(place / "store"),
        "IPYTHONDIR": str(place / "ipython"),
        "JUPYTER_CONFIG_DIR": str(place / "jupyter"),
        "OMP_NUM_THREADS": "1",  # torch reads it: two threads would fight over small models
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def isolate(environment: MutableMapping[str, str], place: Path) -> None:
    """Change `environment` (such as os.environ) to that of an isolated process."""
    environment.update(settings(place))
    environment.pop("LORA_LAB_BASE", None)  # a learner's own choice of model
    environment.pop("LORA_LAB_STEP", None)  # ... and of how steps are taken


def cut_the_network() -> None:
    """Deny the network to this process, which has started without OFFLINE in its PYTHONPATH."""
    runpy.run_path(str(OFFLINE / "sitecustomize.py"))
