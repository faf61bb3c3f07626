"""Print a benchmark report and an agreement as tables."""

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

    from densenet_cli.benchmarking.agreement import Agreement
    from densenet_cli.benchmarking.report import BenchmarkReport, FastestSettings, Summary

MIN_WIDTH_FOR_QUARTILES = 78
"""Console width in columns below which quartiles are not shown."""

ENGINE_NAMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "tensorflow": "TensorFlow"}


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
    if report.agreement:
        precision = report.precisions[report.engines[0]]
        same = _share(report.agreement.same_first, report.agreement.images)
        console.print(f"{precision} and float32 have the same top-1 label for {same} images.")
    quartiles = ", with the interquartile range in parentheses" if _shows_quartiles(console) else ""
    console.print(f"Medians of {report.rounds} rounds{quartiles}.", style="dim")
    if len(report.engines) > 1:
        console.print(_comparison(report))
    if report.fastest:
        console.print(_recommendation(report.fastest, *report.default_settings))


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
        table.add_row(_engine_name(report, command.engine), str(command.images), seconds, memory)
    return table


def _latency_table(report: BenchmarkReport, console: Console) -> Table:
    table = create_table(title="Latency of one image with a loaded model, milliseconds")
    table.add_column("Engine")
    for heading in ("Threads", "Inference", "Decode and inference"):
        table.add_column(heading, justify="right")
    for engine, threads in dict.fromkeys((case.engine, case.threads) for case in report.times):
        table.add_row(
            _engine_name(report, engine),
            str(threads),
            _format_summary(report.latency(BenchmarkCase(engine, threads, "inference")), console, 1e3),
            _format_summary(report.latency(BenchmarkCase(engine, threads, "predict")), console, 1e3),
        )
    return table


def _throughput_table(report: BenchmarkReport, engine: str, console: Console) -> Table:
    has_batches = report.has_batches(engine)
    table = create_table(title=f"{_engine_name(report, engine)} throughput, images per second")
    for heading in ("Threads", *(["Batch"] if has_batches else []), "Decode", "Inference", "End to end"):
        table.add_column(heading, justify="right")
    previous_threads = None
    for case in report.times:
        if case.engine != engine or case.stage != "end_to_end":
            continue
        is_first = case.threads != previous_threads
        if has_batches and is_first and previous_threads is not None:
            table.add_section()
        previous_threads = case.threads
        decode = BenchmarkCase(engine, case.threads, "decode")
        inference = BenchmarkCase(engine, case.threads, "inference", case.batch_size)
        is_fastest = report.fastest is not None and report.fastest.case == case
        table.add_row(
            str(case.threads) if is_first else "",
            *([str(case.batch_size)] if has_batches else []),
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
    first, second = (_engine_name(report, engine) for engine in engines)
    startup = _format_number(starts[1].seconds.median / starts[0].seconds.median)
    throughput = _format_number(rates[0] / rates[1])
    return f"{first} starts {startup}x as fast as {second} and has {throughput}x its throughput."


def _recommendation(fastest: FastestSettings, default_batch_size: int, default_threads: int) -> Text:
    options, default = f"--threads {fastest.case.threads}", f"--threads {default_threads}"
    if fastest.case.batch_size is not None:
        options = f"--batch-size {fastest.case.batch_size} {options}"
        default = f"--batch-size {default_batch_size} {default}"
    rate = f"{_format_number(fastest.throughput.median)} images per second"
    if fastest.speedup is None:
        return Text(f"Fastest: {options}, {rate}.", style="bold")
    if fastest.is_recommended:
        gain = f"{fastest.speedup - 1:.0%} more than with the default ({default})"
        return Text(f"Fastest: {options}, {rate}, {gain}.", style="bold")
    return Text(f"No setting was measurably faster than the default ({default}).", style="bold")


def print_agreement(model: str, engine: str, precision: str, folder: str, agreement: Agreement) -> None:
    """Print the agreement of a model in reduced precision with float32 to standard output.

    Args:
        model: Name of the model.
        engine: Engine that computes in ``precision``.
        precision: The precision.
        folder: Where the images are.
        agreement: The agreement.
    """
    console = stdout_console()
    console.print(Text(printable(model), style="bold"))
    name = ENGINE_NAMES.get(engine, engine)
    console.print(f"  {precision} ({name}) compared with float32", style="dim")
    images = f"{agreement.images:,} image{'s' if agreement.images > 1 else ''}"
    console.print(Padding(Text(f"{images} in {printable(folder)}", style="dim"), (0, 0, 0, 2), expand=False))
    console.print()
    table = create_table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    rows = [("Same top-1 label", agreement.same_first, agreement.images)]
    rows.append(("Same top-5 labels, in any order", agreement.same_top5, agreement.images))
    if agreement.labeled:
        rows.append((f"Accuracy in {precision}", agreement.correct, agreement.labeled))
        rows.append(("Accuracy in float32", agreement.reference_correct, agreement.labeled))
    for label, count, total in rows:
        table.add_row(label, f"{count / total:.2%}", f"{count:,} of {total:,}")
    table.add_row("Largest difference of a probability", f"{agreement.max_difference:.4f}", "")
    table.add_row("Mean of the largest difference per image", f"{agreement.mean_difference:.4f}", "")
    console.print(table)


def _share(count: int, total: int) -> str:
    return f"all {total}" if count == total else f"{count} of {total}"


def _engine_name(report: BenchmarkReport, engine: str) -> str:
    """Return the name of an engine, and its precision if it is not float32."""
    name, precision = ENGINE_NAMES.get(engine, engine), report.precisions[engine]
    return name if precision == "float32" else f"{name}, {precision}"


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
