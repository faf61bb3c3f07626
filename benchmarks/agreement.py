"""Agreement of bfloat16 with float32: ``agreement.py FOLDER [--quick] [--write]``.

FOLDER contains class folders of images for ``tiny``, such as the validation images of Tiny ImageNet. A DenseNet-121
with random weights, whose top-1 labels are varied, is measured on photographs. ``--write`` updates the table in
``docs/concepts/performance.md``. The exit status is 1 if less than 99% of the top-1 labels of ``tiny`` are the same in
bfloat16.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from inputs import temporary_inputs
from suite import Table, Workload, machine_table, target_status, write_tables

from densenet_cli import Classifier
from densenet_cli.benchmarking.agreement import Agreement, find_images, measure_agreement
from densenet_cli.engines.precision import supported

MIN_SAME_FIRST = 0.99


def compare(precision: str, folder: Path, workload: Workload, **model: object) -> Agreement:
    """Compare a precision with float32 for the images in a folder."""
    with Classifier(**model) as reference, Classifier(**model, precision=precision) as classifier:
        sources, _ = find_images(str(folder), classifier)
        return measure_agreement(classifier, reference, sources[:: workload.count(1, quick=100)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="measure a hundredth of the images")
    parser.add_argument("--write", action="store_true", help="update the table in the documentation")
    args = parser.parse_args()
    if "bfloat16" not in supported():
        parser.exit(message="This processor does not compute in bfloat16.\n")
    workload = Workload(args.quick)
    with temporary_inputs() as inputs:
        tiny = compare("bfloat16", args.folder, workload, variant="tiny")
        photographs, weights = inputs.photographs(1000), inputs.varied_weights()
        densenet121 = compare("bfloat16", photographs, workload, weights=weights)
    share = tiny.same_first / tiny.images
    target = f"at least {MIN_SAME_FIRST:.0%} ({target_status(share, minimum=MIN_SAME_FIRST)})"
    rows = [
        _row("`tiny`", tiny),
        _row("DenseNet-121 with random weights", densenet121),
        ("Target for `tiny`", "", target, *[""] * 4),
    ]
    columns = (
        "bfloat16 compared with float32",
        "Images",
        "Same top-1 label",
        "Same top-5 labels",
        "Largest difference of a probability",
        "Mean of the largest difference per image",
        "Accuracy, and in float32",
    )
    note = (
        "`tiny` on images of Tiny ImageNet, and DenseNet-121 on photographs of 500x375. The features of a random "
        "network differ little between photographs. Its head is scaled so that the top-1 labels vary nevertheless, "
        "which also scales the rounding errors, so this case is much harder than a trained network."
    )
    table = Table("agreement", columns, tuple(rows), note)
    print(machine_table().text(), table.text(), sep="\n")
    if args.write and not args.quick:
        write_tables([table])
    if share < MIN_SAME_FIRST:
        parser.exit(1)


def _row(name: str, agreement: Agreement) -> tuple[str, ...]:
    accuracy = ""
    if agreement.labeled:
        correct = (agreement.correct, agreement.reference_correct)
        accuracy = ", ".join(f"{count / agreement.labeled:.2%}" for count in correct)
    return (
        name,
        f"{agreement.images:,}",
        f"**{agreement.same_first / agreement.images:.2%}**",
        f"{agreement.same_top5 / agreement.images:.2%}",
        f"{agreement.max_difference:.4f}",
        f"{agreement.mean_difference:.4f}",
        accuracy,
    )


if __name__ == "__main__":
    main()
