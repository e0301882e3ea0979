"""The report of `wisp bench` for people: tables on stdout, and a picture of tokens a second against the context.

Knows the report's keys and how figures read; measures nothing. The picture needs matplotlib, the extra `bench`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.bar import Bar
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..check.parity import wide_console
from ..errors import WispError
from ..progress import human_bytes

BAR_WIDTH = 32
PLOT_FORMATS = (".svg", ".png", ".pdf")


def print_report(report: Mapping[str, Any]) -> None:
    """The report as tables on stdout."""
    console = wide_console()

    def say(line: str) -> None:
        console.print(line, markup=False)

    say(f"{report['artifact']} ({report['quantization']}, {human_bytes(report['weight_bytes'])} of weights)")
    say(f"  {report['variant']}, {report['backend']}, on {report['adapter']}")
    load = {
        "from the network": "cold_s",
        "from the disk": "warm_s",
        "kernels": "compile_s",
        "kernels again": "compile_warm_s",
    }
    parts = [f"{what} {report['load'][key]:.2f} s" for what, key in load.items() if report["load"][key] is not None]
    say(f"  load             {', '.join(parts)}")
    if report["time_to_first_token_s"] is not None:
        say(f"  first token      {report['time_to_first_token_s']:.3g} s")
    if report["bandwidth"] is not None:
        bandwidth = report["bandwidth"]
        read = bandwidth["read_bytes_per_second"]
        copied = max(bandwidth[f"copy_{means}_bytes_per_second"] for means in ("kernel", "queue"))
        say(f"  bandwidth        {read / 1e9:.4g} GB/s by reading, {copied / 1e9:.4g} GB/s by a copy")
    if report["multiply_adds"] is not None:
        rates = {dtype: report["multiply_adds"][f"{dtype}_per_second"] for dtype in ("f32", "f16")}
        shown = [f"{dtype} {rate / 1e9:.4g}" for dtype, rate in rates.items() if rate is not None]
        say(f"  multiply-adds    {', '.join(shown)} GMAC/s by a loop of them")
    counters = report["counters"]
    if counters:
        say(
            f"  a token          {counters['dispatches_per_token']:.4g} dispatches, "
            f"{counters['submits_per_token']:.3g} submits, {counters['readbacks_per_token']:.3g} readbacks, "
            f"{counters['bytes_uploaded_per_token']:.3g} bytes uploaded, "
            f"{counters['bytes_read_back_per_token']:.4g} read back"
        )
    _print_rates(console, "prefill", "tokens", report["prefill"], "of multiply-adds", "multiply_add_share")
    _print_rates(console, "decode", "at", report["decode"], "of bandwidth", "bandwidth_share")
    if report["steps"]:
        say("  device time of whole programs")
        console.print(steps_table(report["steps"]))
    if report["sampling"]:
        times = [f"{n} {taken * 1e3:.3g} ms" for n, taken in report["sampling"].items() if taken is not None]
        say(f"  sampling         {', '.join(times)}")
    for program, figures in (report["kernels"] or {}).items():
        say(f"  {program}, {figures['tokens']} tokens at {figures['position']}: {figures['seconds'] * 1e3:.4g} ms")
        console.print(kernel_table(figures["kernels"]))
    for reason in report["skipped"]:
        say(f"  left out: {reason}")


def _print_rates(
    console: Console, what: str, unit: str, rows: Sequence[Mapping[str, Any]], share_of: str, share: str
) -> None:
    """Tokens a second against tokens, with a bar a row: a small plot that needs no picture."""
    if not rows:
        return
    has_share = any(row[share] is not None for row in rows)
    table = Table(box=SIMPLE_HEAD)
    for heading in (f"{what} {unit}", "tok/s", *[share_of] * has_share):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", width=BAR_WIDTH)
    most = max(row["tokens_per_second"] for row in rows)
    for row in rows:
        part = [f"{row[share]:.1%}"] if has_share else []
        bar = Bar(most, 0, row["tokens_per_second"], width=BAR_WIDTH)
        table.add_row(str(_tokens(row)), _rate(row), *part, bar)
    console.print(table)


def _rate(row: Mapping[str, Any]) -> str:
    """Tokens a second, never as a power of ten."""
    rate = row["tokens_per_second"]
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.3g}"


def _tokens(row: Mapping[str, Any]) -> int:
    tokens: int = row["tokens"] if "tokens" in row else row["context"]
    return tokens


def steps_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row a program, and position; a column an entrant, in milliseconds."""
    names = list(dict.fromkeys(row["alternative"] for row in rows))
    table = Table(box=SIMPLE_HEAD)
    for heading in ("program", "at", *names):
        table.add_column(heading, justify="left" if heading == "program" else "right", no_wrap=True)
    found = {(row["program"], row["position"], row["alternative"]): row["seconds"] * 1e3 for row in rows}
    for program, position in dict.fromkeys((row["program"], row["position"]) for row in rows):
        times = [found.get((program, position, name)) for name in names]
        cells = ["" if taken is None else f"{taken:.4g} ms" for taken in times]
        table.add_row(program, str(position), *cells)
    return table


def kernel_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Kernels, the most expensive first."""
    table = Table(box=SIMPLE_HEAD)
    for heading in ("kernel", "dispatches", "us each", "share", "MB each", "GB/s", "of bandwidth"):
        table.add_column(heading, justify="left" if heading == "kernel" else "right", no_wrap=True)
    for row in rows:
        count = row["dispatches"]
        table.add_row(
            row["kernel"],
            str(count),
            f"{row['seconds'] / count * 1e6:.1f}",
            f"{row['share']:.1%}",
            f"{row['bytes'] / count / 1e6:.3f}",
            f"{row['bytes_per_second'] / 1e9:.3g}",
            f"{row['bandwidth_share']:.1%}",
        )
    return table


# ------------------------------------------------------------------------------------------------------------- picture


def check_plot(path: Path) -> None:
    """Raises WispError for what `write_plot` would refuse: better before the measurement than after it."""
    if path.suffix not in PLOT_FORMATS:
        raise WispError("--plot writes a picture", got=path.name, expected=f"a name with {' or '.join(PLOT_FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise WispError("the directory of --plot is not there", got=path.parent, remedy="make it first")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise WispError(
            "--plot needs matplotlib, which is not installed", remedy="install it with: pip install 'wisp[bench]'"
        ) from error


def write_plot(report: Mapping[str, Any], path: Path) -> None:
    """Prefill and decode, tokens a second against tokens, in two panels that share neither axis."""
    check_plot(path)
    import matplotlib
    from matplotlib.figure import Figure

    panels = [
        (title, xlabel, rows)
        for title, xlabel, rows in (
            ("Decode", "tokens in the context", report["decode"]),
            ("Prefill", "tokens of the prompt", report["prefill"]),
        )
        if rows
    ]
    # Text stays text in an SVG, and the file is the same for the same figures.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "wisp", "font.size": 10}):
        figure = Figure(figsize=(4.6 * len(panels), 3.9))
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
        figure.suptitle(
            f"{report['artifact']}, {report['quantization']}, {report['variant']} ({report['backend']})", fontsize=12
        )
        figure.supxlabel(report["adapter"], fontsize=8, color="#555555")
        for i, (title, xlabel, rows) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), i + 1)
            x = [_tokens(row) for row in rows]
            y = [row["tokens_per_second"] for row in rows]
            axes.plot(x, y, marker="o", linewidth=2, color=("#2a6fdb", "#c2571a")[title == "Prefill"])
            for row in rows:
                at, above = (_tokens(row), row["tokens_per_second"]), (0, 8)
                label = axes.annotate(_rate(row), at, above, textcoords="offset points", ha="center", fontsize=9)
                label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
            axes.set_title(title, fontsize=11)
            axes.set_xlabel(xlabel)
            axes.set_ylabel("tokens a second")
            axes.set_xscale("log", base=2)
            axes.set_xticks(x, [str(at) for at in x])
            axes.minorticks_off()
            axes.set_ylim(0, 1.15 * max(y))
            axes.margins(x=0.12)
            axes.grid(axis="y", alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
        try:
            figure.savefig(path, metadata=metadata)
        except OSError as error:
            raise WispError(f"cannot write {path}", got=error.strerror) from error
