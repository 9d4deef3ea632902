"""Whatever a library says of damaged bytes, as one sentence that names the file.

Readers foresee what they can. A flipped byte in a header leads parsers into errors of every class, which are all the
same to whoever asked for the file; `PHYSDIFF_TRACEBACK=1` shows where one came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST = 300  # letters of a library's own words: some quote the damaged bytes


def words_of(error: BaseException) -> str:
    """What an error says, on one line of bounded length, without a full stop."""
    said = " ".join(str(error).split()).rstrip(".")
    return said if len(said) <= MOST else f"{said[:MOST]}..."


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Within the block, any error of reading is a ValueError, and its sentence names the file.

    Raises:
        FileNotFoundError: as in the block.
        ValueError: in place of any other error.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except MemoryError as error:
        raise ValueError(
            f"'{path}' asks for more memory than there is; it is damaged, or not for this machine."
        ) from error
    except Exception as error:
        said = words_of(error)
        if isinstance(error, ValueError) and Path(path).name in said:
            raise
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        raise ValueError(f"'{path}' is truncated or damaged: {kind}{said}.") from error
