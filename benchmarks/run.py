"""Run the benchmarks and update the tables in ``docs/concepts/``: ``run.py [--quick] [NAME...]``."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

import cold_start
import explain
import first_run
import folder
import help_page
import isolation
import large_jpegs
import many_cores
import memory
import new_head
import object_storage
import on_ray
import precision
import training
from inputs import temporary_inputs
from suite import Benchmark, Workload, machine_table, write_tables

BENCHMARKS: dict[str, Benchmark] = {
    "help_page": help_page.measure,
    "cold_start": cold_start.measure,
    "first_run": first_run.measure,
    "folder": folder.measure,
    "precision": precision.measure,
    "large_jpegs": large_jpegs.measure,
    "explain": explain.measure,
    "memory": memory.measure,
    "isolation": isolation.measure,
    "many_cores": many_cores.measure,
    "training": training.measure,
    "new_head": new_head.measure,
    "object_storage": object_storage.measure,
    "ray": on_ray.measure,
    "cost_model": on_ray.measure_model,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}  [default: all]")
    parser.add_argument("--quick", action="store_true", help="run a few rounds of little work, and write no results")
    args = parser.parse_args()
    if not args.names and find_spec("ray") is None:
        del BENCHMARKS["ray"], BENCHMARKS["cost_model"]
    if unknown := set(args.names) - set(BENCHMARKS):
        parser.error(f"unknown benchmark: {', '.join(sorted(unknown))}")
    tables = [machine_table()]
    print(tables[0].text(), flush=True)
    with temporary_inputs() as inputs:
        for name in args.names or BENCHMARKS:
            results = BENCHMARKS[name](inputs, Workload(args.quick))
            tables += results
            print("\n".join(table.text() for table in results), flush=True)
    if not args.quick:
        write_tables(tables)


if __name__ == "__main__":
    main()
