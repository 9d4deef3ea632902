"""Settings of every test: one torch thread a worker, since workers share the cores."""

import torch

torch.set_num_threads(1)
