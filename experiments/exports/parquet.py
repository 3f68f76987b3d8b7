"""The tables of a study as Parquet, which keeps their types."""

from pathlib import Path

from experiments.exports.missing import need
from experiments.files import replacing
from experiments.study import Study


def write(study: Study, out: Path) -> list[Path]:
    """Write a file per table into the directory `out`."""
    need("pyarrow", "parquet")
    paths = []
    for name, table in study.tables.items():
        paths.append(out / f"{name}.parquet")
        with replacing(paths[-1]) as temporary:
            table.to_parquet(temporary, index=False)
    return paths
