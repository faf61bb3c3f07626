"""A measurement of speed on the screen: the machine, the command, one image, many images, what was fastest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import ASCII, SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from densenet_cli.benchmarking.report import Cell
from densenet_cli.cli.console import has_unicode, printable, stdout_console

if TYPE_CHECKING:
    from rich.console import Console

    from densenet_cli.benchmarking.report import Fastest, Report
    from densenet_cli.benchmarking.statistics import Summary

ROOM_FOR_SPREAD = 78
"""Columns of a terminal below which the quartiles are left out."""

ENGINES = {"onnx": "ONNX Runtime", "tensorflow": "TensorFlow"}


def show(report: Report) -> None:
    """Print it to standard output."""
    console = stdout_console()
    for line in _about(report):
        console.print(line)
    tables = [_commands(report, console), _latency(report, console)]
    tables += [_throughput(report, engine, console) for engine in report.engines]
    for table in tables:
        console.print()
        console.print(table)
    console.print()
    spread = "; in brackets, what the middle half lies between" if _with_spread(console) else ""
    console.print(f"Medians of {report.rounds} rounds{spread}.", style="dim")
    for sentence in _compared(report):
        console.print(sentence)
    if report.fastest:
        console.print(_suggestion(report.fastest, report.default))


def _about(report: Report) -> list[Text]:
    machine, images, settings = report.machine, report.images, report.settings
    title = Text(printable(report.model), style="bold")
    if settings["random_weights"]:
        title.append("  random weights: its speed, and nothing else", style="yellow")
    kind = "synthetic images" if images["made"] else "images"
    size = f"{images['mean_pixels'] / 1e6:.2f} megapixels and {images['mean_bytes'] / 1000:,.0f} kB"
    number = f"{images['count']} {kind}, of" if images["count"] > 1 else "1 image of"
    memory = f", {machine.memory / 1e9:.0f} GB" if machine.memory else ""
    cores = "1 core" if machine.cores == 1 else f"{machine.cores} cores"
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    lines = (
        f"{number} {size}{' on average' if images['count'] > 1 else ''}, to {settings['input_size']}x"
        f"{settings['input_size']} by {settings['preprocess']}{', ten crops' if settings['crops'] > 1 else ''}",
        f"{machine.processor}, {cores}{memory}",
        f"{machine.system}, Python {machine.python}",
        packages,
    )
    about = [title, *(Text(f"  {printable(line)}", style="dim") for line in lines)]
    if machine.is_busy:
        about.append(
            Text(f"  The cores were busy before it began (load {machine.load:.1f}): slower than it is.", style="yellow")
        )
    return about


def _commands(report: Report, console: Console) -> Table:
    table = _table(console, "A new process: densenet predict")
    table.add_column("Engine")
    for heading in ("Images", "Seconds", "Peak memory, MB"):
        table.add_column(heading, justify="right")
    for command in report.commands:
        memory = _cell(command.memory, console, 1e-6) if command.memory else "unknown"
        table.add_row(
            ENGINES.get(command.engine, command.engine), str(command.images), _cell(command.seconds, console), memory
        )
    return table


def _latency(report: Report, console: Console) -> Table:
    table = _table(console, "One image, the model loaded: milliseconds")
    table.add_column("Engine")
    for heading in ("Threads", "The engine alone", "Decoding and all"):
        table.add_column(heading, justify="right")
    for engine, threads in dict.fromkeys((cell.engine, cell.threads) for cell in report.times):
        table.add_row(
            ENGINES.get(engine, engine),
            str(threads),
            _cell(report.latency(Cell(engine, threads, "engine")), console, 1e3),
            _cell(report.latency(Cell(engine, threads, "answer")), console, 1e3),
        )
    return table


def _throughput(report: Report, engine: str, console: Console) -> Table:
    table = _table(console, f"{ENGINES.get(engine, engine)}: images per second")
    for heading in ("Threads", "Batch", "Decoding alone", "The engine alone", "Together"):
        table.add_column(heading, justify="right")
    before = None
    for cell in report.times:
        if cell.engine != engine or cell.part != "together":
            continue
        first = cell.threads != before
        if first and before is not None:
            table.add_section()
        before = cell.threads
        fastest = report.fastest and report.fastest.cell == cell
        table.add_row(
            str(cell.threads) if first else "",
            str(cell.batch_size),
            _cell(report.rate(Cell(engine, cell.threads, "decoding")), console) if first else "",
            _cell(report.rate(Cell(engine, cell.threads, "engine", cell.batch_size)), console),
            Text(_cell(report.rate(cell), console), style="bold green" if fastest else ""),
        )
    return table


def _compared(report: Report) -> list[str]:
    """How much of each the second engine needs, of the first one's: the medians' ratios."""
    if len(report.engines) < 2:
        return []
    ours, theirs = ([command for command in report.commands if command.engine == engine] for engine in report.engines)
    start = theirs[0].seconds.median / ours[0].seconds.median
    best = [
        max(rate.median for cell in report.times if (rate := report.rate(cell)) and _is_whole(cell, engine))
        for engine in report.engines
    ]
    first, second = (ENGINES.get(engine, engine) for engine in report.engines)
    return [
        f"{first} starts in 1/{_number(start)} of {second}'s time and does {_number(best[0] / best[1])} times as many."
    ]


def _is_whole(cell: Cell, engine: str) -> bool:
    return cell.engine == engine and cell.part == "together"


def _suggestion(fastest: Fastest, default: tuple[int, int]) -> Text:
    options = f"--batch-size {fastest.cell.batch_size} --threads {fastest.cell.threads}"
    rate = f"{_number(fastest.rate.median)} images per second"
    usual = f"--batch-size {default[0]} --threads {default[1]}"
    if fastest.gain is None:
        return Text(f"Fastest of these: {options}, {rate}.", style="bold")
    if fastest.is_worth_setting:
        return Text(f"Fastest: {options}, {rate}, {fastest.gain - 1:.0%} more than by default ({usual}).", style="bold")
    return Text(f"Nothing was faster than the default ({usual}) by more than the spread.", style="bold")


def _table(console: Console, title: str) -> Table:
    fancy = has_unicode(console)
    return Table(
        title=title,
        box=SIMPLE_HEAD if fancy else ASCII,
        pad_edge=False,
        show_edge=False,
        title_justify="left",
        title_style="bold",
    )


def _with_spread(console: Console) -> bool:
    return console.width >= ROOM_FOR_SPREAD


def _cell(summary: Summary | None, console: Console, factor: float = 1.0) -> str:
    """The median, and where there is room the quartiles."""
    if summary is None:
        return ""
    low, median, high = (_number(value * factor) for value in (summary.low, summary.median, summary.high))
    return f"{median} ({low}-{high})" if _with_spread(console) else median


def _number(value: float) -> str:
    """Three digits of it, but all that stand before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
