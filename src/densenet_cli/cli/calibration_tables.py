"""The report of ``densenet calibrate`` on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from densenet_cli.cli.console import printable, stdout_console
from densenet_cli.cli.render import create_table, fixed_column, heading, number_column, text_column
from densenet_cli.text import join_names, plural

if TYPE_CHECKING:
    from densenet_cli.evaluation.calibrate import CalibrationReport
    from densenet_cli.labels import Labels

MAX_CLASSES = 20


def print_calibration(report: CalibrationReport, labels: Labels, output: Path) -> None:
    """Print a report to standard output."""
    console = stdout_console()
    calibration, before, after = report.calibration, report.before, report.after
    console.print(heading(report.model, plural(calibration.images, "image")))
    if report.failures:
        console.print(f"  {plural(len(report.failures), 'image')} could not be classified.", style="yellow")
    console.print()
    table = create_table(fixed_column(""), number_column("Before"), number_column("After"))
    if not calibration.is_multi_label:
        table.add_row("Temperature", "1", f"{calibration.temperature:.4f}", style="bold")
    table.add_row(
        "Negative log-likelihood", f"{before.negative_log_likelihood:.4f}", f"{after.negative_log_likelihood:.4f}"
    )
    table.add_row("Expected calibration error", f"{before.calibration_error:.2%}", f"{after.calibration_error:.2%}")
    accuracy = f"{calibration.accuracy:.2%}"
    table.add_row("Accuracy", "" if calibration.is_multi_label else accuracy, accuracy)
    console.print(table)
    if isinstance(calibration.temperature, tuple):
        table = create_table(text_column("Label"), number_column("Temperature"), number_column("Threshold"))
        rows = list(zip(labels, calibration.temperature, calibration.thresholds, strict=True))
        for label, temperature, threshold in rows[:MAX_CLASSES]:
            table.add_row(printable(label.name), f"{temperature:.4f}", f"{threshold:.2%}")
        console.print()
        console.print(table)
        if len(rows) > MAX_CLASSES:
            console.print(f"  and {len(rows) - MAX_CLASSES:,} more labels", style="dim")
        if unchanged := [printable(label.name) for label, temperature, _ in rows if temperature == 1]:
            names = join_names(unchanged)
            console.print(
                f"  No temperature could be measured for {names}: too few images with or without the label, all of "
                "them right, or not better than chance.",
                style="yellow",
            )
    elif calibration.temperature == 1:
        console.print("  All labels are right, so no temperature can be measured.", style="yellow")
    console.print()
    console.print(Text(f"Wrote {printable(str(output))}", overflow="fold"))
