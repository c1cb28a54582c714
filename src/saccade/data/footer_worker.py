"""The process that looks at footers of Parquet files before this one does: `python -m saccade.data.footer_worker`.

Paths come in; for each the answer is True, also for a file that is damaged in a way the library reports. A footer at
which the library ends the process, as C++ does, ends this one.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1"}

import pyarrow.parquet as pq

from saccade.workers.channel import connect


def look(path: str) -> bool:
    """Everything in the footer that `saccade.data.columns` reads."""
    try:
        with pq.ParquetFile(path) as file:
            for group in map(file.metadata.row_group, range(file.num_row_groups)):
                for column in map(group.column, range(group.num_columns)):
                    column.to_dict()
    except Exception:  # noqa: BLE001 - the reader meets it too, and says so with the file
        return True
    return True


def main() -> None:
    paths, say = connect()
    say(True)
    for path in paths:
        say(look(path))


if __name__ == "__main__":
    main()
