"""A measurement on the screen: the numbers, the classes that fared worst, the pairs most confused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import ASCII, SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from densenet_cli.cli.console import has_unicode, printable, stdout_console

if TYPE_CHECKING:
    from densenet_cli.evaluation.report import ClassResult, Report
    from densenet_cli.evaluation.statistics import Proportion

FEW = 20
"""So many classes are shown whole."""
WORST = 10
PAIRS = 10


def show(report: Report) -> None:
    """Print it to standard output."""
    console = stdout_console()
    fancy = has_unicode(console)
    title = Text(printable(report.model), style="bold")
    title.append(f"  {report.images:,} images of {_count(len(report.classes), 'class', 'classes')}", style="dim")
    if len(report.classes) != report.competing:
        title.append(f", of {report.competing:,} that the model could choose", style="dim")
    console.print(title)
    if report.is_interrupted:
        console.print(
            "  Interrupted: these are the first images, and perhaps the first classes, alone.", style="yellow"
        )
    if report.failures:
        console.print(f"  {_count(len(report.failures), 'image', 'images')} could not be classified.", style="yellow")
    for table in (_numbers(report, fancy), _classes(report, fancy), _confused(report, fancy)):
        if table.row_count:
            console.print()
            console.print(table)


def _numbers(report: Report, fancy: bool) -> Table:
    table = _table(fancy)
    table.show_header = False
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", style="dim")
    table.add_row("Top-1 accuracy", *_shares(report.top1), style="bold")
    if report.competing > 5:
        table.add_row("Top-5 accuracy", *_shares(report.top5), style="bold")
    table.add_row("Negative log-likelihood", f"{report.negative_log_likelihood:.4f}", "nats")
    table.add_row("Calibration error", f"{report.calibration_error:.2%}", f"expected, in {len(report.bins)} bins")
    table.add_row("Precision", f"{report.precision:.2%}", "mean of the classes")
    table.add_row("Recall", f"{report.recall:.2%}", "mean of the classes")
    table.add_row("F1", f"{report.f1:.2%}", "mean of the classes")
    return table


def _classes(report: Report, fancy: bool) -> Table:
    """All of them where they are few, else the worst."""
    shown: list[ClassResult] = list(report.classes)
    table = _table(fancy)
    if len(shown) > FEW:
        shown = sorted(shown, key=lambda result: result.f1)[:WORST]
        table.title = f"The {WORST} weakest classes, by F1"
    table.add_column("Class", overflow="fold")
    for name in ("Images", "Precision", "Recall", "F1"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in shown:
        precision = "-" if result.precision is None else f"{result.precision:.1%}"
        table.add_row(
            printable(result.label.name), f"{result.images:,}", precision, f"{result.recall:.1%}", f"{result.f1:.1%}"
        )
    return table


def _confused(report: Report, fancy: bool) -> Table:
    table = _table(fancy)
    table.title = "Most often confused"
    table.add_column("Class", overflow="fold")
    table.add_column("Taken for", overflow="fold")
    table.add_column("Images", justify="right", no_wrap=True)
    table.add_column("Of the class", justify="right", no_wrap=True)
    for pair in report.most_confused(PAIRS):
        names = printable(pair.truth.name), printable(pair.predicted.name)
        table.add_row(*names, f"{pair.count:,}", f"{pair.share:.1%}")
    return table


def _table(fancy: bool) -> Table:
    return Table(
        box=SIMPLE_HEAD if fancy else ASCII, pad_edge=False, show_edge=False, title_justify="left", title_style="bold"
    )


def _shares(proportion: Proportion) -> tuple[str, str]:
    low, high = proportion.interval
    return f"{proportion.value:.2%}", f"{low:.2%} to {high:.2%} (95 % interval)"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
