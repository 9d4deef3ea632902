"""Draw docs/gallery.png: `python docs/gallery.py` (from the project's folder)."""

from pathlib import Path

import drawing

import physdiff  # noqa: F401  registers the physics that comes with the toolkit
from physdiff.registry import processes

if __name__ == "__main__":
    (Path(__file__).parent / "gallery.png").write_bytes(drawing.gallery(processes.classes()))
