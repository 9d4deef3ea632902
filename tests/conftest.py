"""Settings of every test: one torch thread a worker, since workers share the cores; a cache that is not the user's."""

import atexit
import os
import shutil
import tempfile

import torch

torch.set_num_threads(1)

# Workers, and processes that tests start, have that of the process that made it.
if "PHYSDIFF_TESTS_CACHE" not in os.environ:
    os.environ["PHYSDIFF_TESTS_CACHE"] = os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="physdiff-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
