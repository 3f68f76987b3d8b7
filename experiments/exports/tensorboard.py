"""The curves of a study as event files for TensorBoard, through tensorboardX."""

import shutil
from pathlib import Path

from experiments.exports.missing import need
from experiments.exports.points import points
from experiments.study import Study
from experiments.tables import is_config_column


def write(study: Study, out: Path) -> list[Path]:
    """Write a directory per run into `out`, in place of those written before."""
    need("tensorboardX", "tensorboard")
    from tensorboardX import SummaryWriter

    curves = points(study)
    several = len({at.network for run in curves.values() for at in run}) > 1
    for row in study.runs.summaries.to_dict("records"):
        place = out / str(row["run"])
        # a second event file beside the first would draw every curve twice
        shutil.rmtree(place, ignore_errors=True)
        with SummaryWriter(str(place)) as writer:
            config = {k: v for k, v in row.items() if is_config_column(k) and v == v}
            lines = [f"    {key}: {value}" for key, value in config.items()]
            writer.add_text("config", "\n".join([*lines, f"    seed: {row['seed']}"]))
            for at in curves[str(row["run"])]:
                tag = f"{at.metric}/{at.split}" + (f"/{at.network}" if several else "")
                writer.add_scalar(tag, at.value, at.step)
    return [out]
