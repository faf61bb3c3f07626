"""Print a benchmark report as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from densenet_cli.benchmarking.report import BenchmarkCase
from densenet_cli.cli.console import printable, stdout_console
from densenet_cli.cli.render import create_table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from densenet_cli.benchmarking.report import BenchmarkReport, FastestSettings, Summary

MIN_WIDTH_FOR_QUARTILES = 78
"""Console width in columns below which quartiles are not shown."""

ENGINE_NAMES = {"onnx": "ONNX Runtime", "tensorflow": "TensorFlow"}


def print_report(report: BenchmarkReport) -> None:
    """Print the report to standard output."""
    console = stdout_console()
    for line in _header(report):
        console.print(line)
    tables = [_process_table(report, console), _latency_table(report, console)]
    tables += [_throughput_table(report, engine, console) for engine in report.engines]
    for table in tables:
        console.print()
        console.print(table)
    console.print()
    quartiles = ", with the interquartile range in parentheses" if _shows_quartiles(console) else ""
    console.print(f"Medians of {report.rounds} rounds{quartiles}.", style="dim")
    if len(report.engines) > 1:
        console.print(_comparison(report))
    if report.fastest:
        console.print(_recommendation(report.fastest, report.default_settings))


def _header(report: BenchmarkReport) -> list[RenderableType]:
    machine, images, settings = report.machine, report.images, report.settings
    title = Text(printable(report.model), style="bold")
    if settings["random_weights"]:
        title.append("  (random weights)", style="yellow")
    kind = "synthetic image" if images["synthetic"] else "image"
    plural, mean = ("s", "mean ") if images["count"] > 1 else ("", "")
    image_size = f"{mean}{images['mean_pixels'] / 1e6:.2f} megapixels, {images['mean_bytes'] / 1000:,.0f} kB"
    input_size = f"{settings['input_size']}x{settings['input_size']}"
    crops = ", ten crops" if settings["crops"] > 1 else ""
    memory = f", {machine.memory / 1e9:.0f} GB" if machine.memory else ""
    cores = "1 core" if machine.cores == 1 else f"{machine.cores} cores"
    lines = [
        f"{images['count']} {kind}{plural} ({image_size}), input {input_size}, {settings['preprocess']}{crops}",
        f"{machine.processor}, {cores}{memory}",
        f"{machine.system}, Python {machine.python}",
        ", ".join(f"{name} {version}" for name, version in machine.packages.items()),
    ]
    details = [Text(printable(line), style="dim") for line in lines]
    if machine.is_busy:
        warning = f"The machine was busy at the start (load {machine.load:.1f}). Results may be inaccurate."
        details.append(Text(warning, style="yellow"))
    return [title, *(Padding(line, (0, 0, 0, 2), expand=False) for line in details)]


def _process_table(report: BenchmarkReport, console: Console) -> Table:
    table = create_table(title="densenet predict in a new process")
    table.add_column("Engine")
    for heading in ("Images", "Seconds", "Peak memory, MB"):
        table.add_column(heading, justify="right")
    for command in report.commands:
        memory = _format_summary(command.peak_memory, console, 1e-6) if command.peak_memory else "unknown"
        seconds = _format_summary(command.seconds, console)
        table.add_row(_engine_name(command.engine), str(command.images), seconds, memory)
    return table


def _latency_table(report: BenchmarkReport, console: Console) -> Table:
    table = create_table(title="Latency of one image with a loaded model, milliseconds")
    table.add_column("Engine")
    for heading in ("Threads", "Inference", "Decode and inference"):
        table.add_column(heading, justify="right")
    for engine, threads in dict.fromkeys((case.engine, case.threads) for case in report.times):
        table.add_row(
            _engine_name(engine),
            str(threads),
            _format_summary(report.latency(BenchmarkCase(engine, threads, "inference")), console, 1e3),
            _format_summary(report.latency(BenchmarkCase(engine, threads, "predict")), console, 1e3),
        )
    return table


def _throughput_table(report: BenchmarkReport, engine: str, console: Console) -> Table:
    table = create_table(title=f"{_engine_name(engine)} throughput, images per second")
    for heading in ("Threads", "Batch", "Decode", "Inference", "End to end"):
        table.add_column(heading, justify="right")
    previous_threads = None
    for case in report.times:
        if case.engine != engine or case.stage != "end_to_end":
            continue
        is_first = case.threads != previous_threads
        if is_first and previous_threads is not None:
            table.add_section()
        previous_threads = case.threads
        decode = BenchmarkCase(engine, case.threads, "decode")
        inference = BenchmarkCase(engine, case.threads, "inference", case.batch_size)
        is_fastest = report.fastest is not None and report.fastest.case == case
        table.add_row(
            str(case.threads) if is_first else "",
            str(case.batch_size),
            _format_summary(report.throughput(decode), console) if is_first else "",
            _format_summary(report.throughput(inference), console),
            Text(_format_summary(report.throughput(case), console), style="bold green" if is_fastest else ""),
        )
    return table


def _comparison(report: BenchmarkReport) -> str:
    """Compare start-up time and best throughput of two engines."""
    engines = report.engines[:2]
    starts = [next(command for command in report.commands if command.engine == engine) for engine in engines]
    rates = [
        max(
            rate.median
            for case in report.times
            if case.engine == engine and case.stage == "end_to_end" and (rate := report.throughput(case))
        )
        for engine in engines
    ]
    first, second = map(_engine_name, engines)
    startup = _format_number(starts[1].seconds.median / starts[0].seconds.median)
    throughput = _format_number(rates[0] / rates[1])
    return f"{first} starts {startup}x as fast as {second} and has {throughput}x its throughput."


def _recommendation(fastest: FastestSettings, default_settings: tuple[int, int]) -> Text:
    options = f"--batch-size {fastest.case.batch_size} --threads {fastest.case.threads}"
    rate = f"{_format_number(fastest.throughput.median)} images per second"
    default = f"--batch-size {default_settings[0]} --threads {default_settings[1]}"
    if fastest.speedup is None:
        return Text(f"Fastest: {options}, {rate}.", style="bold")
    if fastest.is_recommended:
        gain = f"{fastest.speedup - 1:.0%} more than with the default ({default})"
        return Text(f"Fastest: {options}, {rate}, {gain}.", style="bold")
    return Text(f"No setting was measurably faster than the default ({default}).", style="bold")


def _engine_name(engine: str) -> str:
    return ENGINE_NAMES.get(engine, engine)


def _shows_quartiles(console: Console) -> bool:
    return console.width >= MIN_WIDTH_FOR_QUARTILES


def _format_summary(summary: Summary | None, console: Console, factor: float = 1.0) -> str:
    """Format the median, and the quartiles on a wide console. ``factor`` converts the unit."""
    if summary is None:
        return ""
    lower, median, upper = (
        _format_number(value * factor) for value in (summary.lower_quartile, summary.median, summary.upper_quartile)
    )
    return f"{median} ({lower}-{upper})" if _shows_quartiles(console) else median


def _format_number(value: float) -> str:
    """Format with three significant digits, or all digits before the decimal point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
