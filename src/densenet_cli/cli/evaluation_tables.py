"""The report of ``densenet evaluate`` on the terminal."""

from __future__ import annotations

from rich.table import Column, Table
from rich.text import Text

from densenet_cli.cli.console import printable, stdout_console
from densenet_cli.cli.render import create_table, fixed_column, heading, number_column, text_column
from densenet_cli.evaluation import EvaluationReport, MultiLabelReport
from densenet_cli.evaluation.report import Proportion
from densenet_cli.text import join_names, plural

MAX_CLASSES = 20
"""Up to this number, all classes are shown. Otherwise the ``WORST_CLASSES`` worst ones are shown."""
WORST_CLASSES = 10
CONFUSED_PAIRS = 10


def print_report(report: EvaluationReport | MultiLabelReport) -> None:
    """Print a report to standard output."""
    if isinstance(report, MultiLabelReport):
        _print_multi_label_report(report)
        return
    detail = f"{plural(report.images, 'image')}, {plural(len(report.classes), 'class', 'classes')}"
    if len(report.classes) != report.competing_classes:
        detail += f" (the model has {report.competing_classes:,})"
    _print_tables(report, detail, [_metrics_table(report), _classes_table(report), _confusions_table(report)])


def _print_multi_label_report(report: MultiLabelReport) -> None:
    detail = f"{plural(report.images, 'image')}, {plural(len(report.classes), 'label')}"
    if len(report.classes) != len(report.labels):
        detail += f" (the model has {len(report.labels):,})"
    _print_tables(report, detail, [_multi_label_metrics_table(report), _labels_table(report)])
    least = "their calibrated threshold" if report.min_prob is None else f"{report.min_prob:g}"
    notes = [f"Precision, recall, and F1 are for labels with a probability of at least {least}."]
    if report.left_out_classes:
        names = join_names([metrics.label.name for metrics in report.left_out_classes])
        notes.append(f"Labels that all or none of the images have are not part of the means: {names}.")
    console = stdout_console()
    console.print()
    for note in notes:
        console.print(Text(f"  {printable(note)}", style="dim"), soft_wrap=True)


def _print_tables(report: EvaluationReport | MultiLabelReport, detail: str, tables: list[Table]) -> None:
    console = stdout_console()
    console.print(heading(report.model, detail))
    if report.is_interrupted:
        console.print("  Interrupted: only the first images were evaluated.", style="yellow")
    if report.failures:
        console.print(f"  {plural(len(report.failures), 'image')} could not be classified.", style="yellow")
    for table in tables:
        if table.row_count:
            console.print()
            console.print(table)


def _metrics_table(report: EvaluationReport) -> Table:
    table = create_table(fixed_column(""), number_column(""), Column(style="dim"), show_header=False)
    table.add_row("Top-1 accuracy", *_with_interval(report.top1), style="bold")
    if report.competing_classes > 5:
        table.add_row("Top-5 accuracy", *_with_interval(report.top5), style="bold")
    raw = report.uncalibrated
    detail = f"nats, {raw.negative_log_likelihood:.4f} uncalibrated" if raw else "nats"
    table.add_row("Negative log-likelihood", f"{report.negative_log_likelihood:.4f}", detail)
    detail = f"{len(report.bins)} bins" + (f", {raw.calibration_error:.2%} uncalibrated" if raw else "")
    table.add_row("Expected calibration error", f"{report.calibration_error:.2%}", detail)
    table.add_row("Precision", f"{report.precision:.2%}", "mean over classes")
    table.add_row("Recall", f"{report.recall:.2%}", "mean over classes")
    table.add_row("F1", f"{report.f1:.2%}", "mean over classes")
    table.add_row("Area under risk-coverage curve", f"{report.risk_coverage.area:.4f}", "mean error, 0 is best")
    for limit, share in report.labeled_shares.items():
        table.add_row(f"Labeled with {limit:.0%} error", f"{share:.2%}", "most confident images")
    return table


def _classes_table(report: EvaluationReport) -> Table:
    numbers = [number_column(name) for name in ("Images", "Precision", "Recall", "F1")]
    table = create_table(text_column("Class"), *numbers)
    results = list(report.classes)
    if len(results) > MAX_CLASSES:
        results = sorted(results, key=lambda result: result.f1)[:WORST_CLASSES]
        table.title = f"The {WORST_CLASSES} classes with the lowest F1"
    for result in results:
        precision = "-" if result.precision is None else f"{result.precision:.1%}"
        table.add_row(
            printable(result.label.name), f"{result.images:,}", precision, f"{result.recall:.1%}", f"{result.f1:.1%}"
        )
    return table


def _confusions_table(report: EvaluationReport) -> Table:
    table = create_table(
        text_column("Class"),
        text_column("Predicted"),
        number_column("Images"),
        number_column("Share of class"),
        title="Most frequent confusions",
    )
    for pair in report.most_confused(CONFUSED_PAIRS):
        names = printable(pair.target.name), printable(pair.predicted.name)
        table.add_row(*names, f"{pair.count:,}", f"{pair.share:.1%}")
    return table


def _multi_label_metrics_table(report: MultiLabelReport) -> Table:
    table = create_table(fixed_column(""), number_column(""), Column(style="dim"), show_header=False)
    classes = f"mean over {plural(len(report.averaged_classes), 'label')}"
    table.add_row("Mean average precision", _percent(report.mean_average_precision, 2), classes, style="bold")
    table.add_row("Mean ROC AUC", _decimals(report.mean_roc_auc, 4), classes, style="bold")
    raw = report.uncalibrated
    detail = "nats per label" + (f", {raw.negative_log_likelihood:.4f} uncalibrated" if raw else "")
    table.add_row("Binary cross-entropy", f"{report.fit.negative_log_likelihood:.4f}", detail)
    detail = "mean over labels" + (f", {raw.calibration_error:.2%} uncalibrated" if raw else "")
    table.add_row("Expected calibration error", f"{report.fit.calibration_error:.2%}", detail)
    table.add_row("Precision", _percent(report.precision, 2), classes)
    table.add_row("Recall", _percent(report.recall, 2), classes)
    table.add_row("F1", _percent(report.f1, 2), classes)
    table.add_row("Micro F1", _percent(report.micro.f1, 2), "all labels of all images")
    table.add_row("Subset accuracy", *_with_interval(report.subset_accuracy))
    return table


def _labels_table(report: MultiLabelReport) -> Table:
    numbers = [number_column(name) for name in ("Positives", "AP", "ROC AUC", "Precision", "Recall", "F1")]
    table = create_table(text_column("Label"), *numbers)
    results = list(report.classes)
    if len(results) > MAX_CLASSES:
        results = sorted(report.averaged_classes, key=lambda result: result.average_precision or 0)[:WORST_CLASSES]
        table.title = f"The {WORST_CLASSES} labels with the lowest average precision"
    for result in results:
        table.add_row(
            printable(result.label.name),
            f"{result.positives:,}",
            _percent(result.average_precision),
            _decimals(result.roc_auc),
            _percent(result.precision),
            _percent(result.recall),
            _percent(result.f1),
        )
    return table


def _percent(value: float | None, decimals: int = 1) -> str:
    return "-" if value is None else f"{value:.{decimals}%}"


def _decimals(value: float | None, decimals: int = 3) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _with_interval(proportion: Proportion) -> tuple[str, str]:
    low, high = proportion.interval
    return f"{proportion.value:.2%}", f"95% CI {low:.2%} to {high:.2%}"
