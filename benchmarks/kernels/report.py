"""From measurements to rows, and from rows to what is printed."""

from collections.abc import Mapping
from statistics import median

from benchmarks.table import aligned

from .rounds import Measured, Timing
from .workloads import OURS, PEERS, Workload

AGREE = 1e-3  # relative Frobenius distance of float32 kernels
FLOOR = "floor"
COLUMNS: tuple[str, ...] = (
    "workload", "method", "n", "batch_size", "full", "calls",
    "cpu_s", "cpu_min_s", "cpu_max_s", "wall_s", "wall_min_s", "wall_max_s",
    "compile_cpu_s", "compile_wall_s", "memory_bytes", "kernel_bytes",
    "cpu_over_ours", "wall_over_ours", "compile_cpu_over_ours",
    "compile_wall_over_ours", "memory_over_ours", "cpu_over_floor", "wall_over_floor",
    "difference", "failure", "versions",
)  # fmt: skip
Row = dict[str, object]


def rows(
    workload: Workload,
    measured: list[Measured],
    operations: float,
    products: list[Timing],
    product_operations: float,
) -> list[Row]:
    """One row for each method and one for the floor; what is unknown is missing.

    Args:
        workload: what was computed.
        measured: by whom, and what it took.
        operations: of the cheapest plan for it.
        products: matrix products timed in the same rounds.
        product_operations: of one of these.
    """
    common = {
        "workload": workload.name,
        "n": workload.n,
        "batch_size": workload.batch_size,
        "full": workload.full,
    }
    found: list[Row] = [common | _times(one) for one in measured]
    share = operations / product_operations
    found.append(
        common
        | {"method": FLOOR, "calls": len(products)}
        | _spread("cpu", [share * one.cpu for one in products])
        | _spread("wall", [share * one.wall for one in products])
    )
    ours = next((row for row in found if row["method"] == OURS), {})
    for row in found:
        for name in ("cpu", "wall", "compile_cpu", "compile_wall"):
            _ratio(row, f"{name}_over_ours", f"{name}_s", ours)
        _ratio(row, "memory_over_ours", "memory_bytes", ours)
        for name in ("cpu", "wall"):
            _ratio(row, f"{name}_over_floor", f"{name}_s", found[-1])
    return found


def _times(one: Measured) -> Row:
    row: Row = {"method": one.method, "versions": one.versions}
    if one.failure:
        return row | {"failure": one.failure}
    assert one.first is not None
    calls = one.warm or [one.first]  # the large kernel is computed once
    row |= {"calls": len(calls), "memory_bytes": one.peak_bytes}
    row |= {"kernel_bytes": one.kernel_bytes}
    row |= _spread("cpu", [call.cpu for call in calls])
    row |= _spread("wall", [call.wall for call in calls])
    if one.warm:
        warm = Timing(median(c.cpu for c in calls), median(c.wall for c in calls))
        row["compile_cpu_s"] = one.first.cpu - warm.cpu
        row["compile_wall_s"] = one.first.wall - warm.wall
    if one.difference is not None:
        row["difference"] = one.difference
    return row


def _spread(name: str, values: list[float]) -> Row:
    return {
        f"{name}_s": median(values),
        f"{name}_min_s": min(values),
        f"{name}_max_s": max(values),
    }


def _ratio(row: Row, name: str, of: str, base: Mapping[str, object]):
    above, below = row.get(of), base.get(of)
    if isinstance(above, int | float) and isinstance(below, int | float) and below > 0:
        row[name] = above / below


def text(workload: Workload, found: list[Row]) -> str:
    """One workload as a heading, a table and what went wrong."""
    output = "full" if workload.full else "averaged"
    heading = (
        f"{workload.name}: {workload.title}, N={workload.n}, {output}, "
        f"batch_size={workload.batch_size}"
    )
    header = (
        "method", "CPU s", "min..max", "/ours", "wall s", "min..max", "/ours",
        "compile CPU", "/ours", "compile wall", "/ours", "GB", "/ours",
        "CPU/floor", "wall/floor", "differs",
    )  # fmt: skip
    lines = [
        (
            str(row["method"]),
            *_time(row, "cpu"), *_time(row, "wall"),
            number(row.get("compile_cpu_s")), ratio(row, "compile_cpu_over_ours"),
            number(row.get("compile_wall_s")), ratio(row, "compile_wall_over_ours"),
            number(row.get("memory_bytes"), 1e9), ratio(row, "memory_over_ours"),
            ratio(row, "cpu_over_floor"), ratio(row, "wall_over_floor"),
            number(row.get("difference")),
        )
        for row in found
    ]  # fmt: skip
    return "\n".join([heading, aligned([header, *lines]), *complaints(found)])


def complaints(found: list[Row]) -> list[str]:
    """Methods that gave no number, and values that do not agree with ours."""
    said = []
    for row in found:
        difference = row.get("difference")
        name = f"{row['workload']}, {row['method']}"
        if row.get("failure"):
            said.append(f"FAILED {name}: {row['failure']}")
        elif isinstance(difference, float) and not difference <= AGREE:
            peer = PEERS.get(str(row["method"]), "")
            said.append(f"DIFFERS {name} ({peer}): {difference:.1e} > {AGREE:.0e}")
    return said


def large(row: Row) -> str:
    """The large kernel in one sentence: its time, and memory beyond the kernel."""
    if row.get("failure"):
        return complaints([row])[0]
    memory, kernel = row["memory_bytes"], row["kernel_bytes"]
    assert isinstance(memory, int) and isinstance(kernel, int)
    return (
        f"{row['workload']}: N={row['n']}, batch_size={row['batch_size']}: "
        f"{number(row['wall_s'])} s wall, {number(row['cpu_s'])} CPU s, compilation "
        f"included; kernel {number(kernel, 1e9)} GB, peak memory above imports and the "
        f"kernel {number(memory - kernel, 1e9)} GB"
    )


def number(value: object, unit: float = 1.0) -> str:
    """Three significant digits, or a dash for what there is not."""
    if not isinstance(value, int | float):
        return "-"
    return f"{value / unit:.3g}"


def ratio(row: Row, name: str) -> str:
    """Two significant digits and a cross."""
    value = row.get(name)
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.0f}x" if value >= 100 else f"{value:.2g}x"


def _time(row: Row, name: str) -> tuple[str, str, str]:
    low, high = number(row.get(f"{name}_min_s")), number(row.get(f"{name}_max_s"))
    return (
        number(row.get(f"{name}_s")),
        f"{low}..{high}",
        ratio(row, f"{name}_over_ours"),
    )
