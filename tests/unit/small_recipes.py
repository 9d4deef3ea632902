"""Settings with which a recipe takes a fraction of a second."""

from __future__ import annotations

from typing import Any

RUNS = {"train_runs": 5, "valid_runs": 2, "test_runs": 2}

SMALL: dict[str, dict[str, Any]] = {
    "advection": {**RUNS, "cells": 32, "frames": 2},
    "allen_cahn": {**RUNS, "cells": 16, "frames": 2, "duration": 0.3, "frame_interval": 0.2, "diffusivity": 2e-2},
    "burgers": {**RUNS, "cells": 32, "frames": 2, "duration": 0.2, "viscosity": 0.2},
    "darcy": {**RUNS, "cells": 16},
    "equation": {
        **RUNS, "rhs": {"c": "x - k*c"}, "constants": {"k": [0.5, 1]}, "cells": (8,), "extent": 2.0, "frames": 2,
        "frame_interval": 0.1, "duration": 0.1,
    },
    "forced_turbulence": {**RUNS, "cells": 16, "frames": 2, "duration": 0.4, "frame_interval": 0.2},
    "gaussian_random_field": {**RUNS, "cells": 8},
    "gray_scott": {**RUNS, "cells": 16, "frames": 2, "duration": 20.0, "frame_interval": 4.0, "extent": 0.3},
    "kuramoto_sivashinsky": {**RUNS, "cells": 32, "frames": 2, "duration": 0.5, "frame_interval": 0.1, "extent": 22.0},
    "lattice_phi4": {
        "train_chains": 3, "valid_chains": 2, "test_chains": 2, "configurations": 2, "sites": 4, "thermalisation": 4,
    },
    "poisson": {**RUNS, "cells": 16},
    "shallow_water": {**RUNS, "cells": 24, "frames": 2, "duration": 600.0, "frame_interval": 600.0},
    "taylor_green": {**RUNS, "cells": 16, "frames": 2, "duration": 0.2, "frame_interval": 0.1},
    "terrain": {"stride": 32},
    "turbulence": {**RUNS, "cells": 16, "frames": 2, "duration": 0.5, "frame_interval": 0.2},
    "wave": {**RUNS, "cells": 48, "frames": 2},
}  # fmt: skip
