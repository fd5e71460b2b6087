"""The memory of each kernel, limited below what the hub gives a learner.

An array that is too large is then an error in words, and the kernel keeps its variables. At the
hub's own limit the system would end the kernel instead.
"""

import os
import resource

SERVER = 256 * 2**20  # bytes that stay for the learner's Jupyter server
given = int(os.environ.get("MEM_LIMIT") or 0)  # bytes, from JupyterHub

if given > 2 * SERVER:
    # data, not addresses: libraries reserve addresses by the gigabyte, and never use them
    resource.setrlimit(resource.RLIMIT_DATA, (given - SERVER, given - SERVER))
