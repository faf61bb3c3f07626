"""Folders in object storage compared with local ones: a server on this machine answers every request after 50 ms.

The server shares the processor with the command, so the measured time is an upper limit for a real one.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple
from xml.sax.saxutils import escape

from inputs import Inputs
from processes import DENSENET, run, script
from suite import Table, Workload, run_one, target_status

DOCUMENT = Path(__file__).parents[1] / "docs" / "guides" / "object-storage.md"
DELAY = 0.05
MIN_THROUGHPUT = 0.9


def measure(inputs: Inputs, workload: Workload) -> list[Table]:
    """Measure the time and the CPU time of both, in turn."""
    photographs = inputs.photographs(workload.count(1000, quick=60))
    weights = ["--weights", str(inputs.weights())]
    output, first, count = inputs.new_folder(), next(photographs.iterdir()), len(list(photographs.iterdir())) - 1
    rows = []
    with serve(photographs) as endpoint:
        environment = {
            **{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"},
            "AWS_ENDPOINT_URL": endpoint,
        }
        for name, options in {
            "DenseNet-121, float32": weights,
            "DenseNet-121, bfloat16": [*weights, "--precision", "bfloat16"],
            "`tiny`": ["--variant", "tiny"],
        }.items():
            command = [*DENSENET, "predict", "--quiet", "--overwrite", "-o", str(output / "labels.csv"), *options]
            run([*command, str(first)])  # stores the graph
            sources = {"local": (first, photographs), "s3": (f"s3://photographs/{first.name}", "s3://photographs/")}
            samples: dict[str, list[Sample]] = {kind: [] for kind in sources}
            for _ in range(workload.count(3, quick=1)):
                for kind, (one, all_of_them) in sources.items():
                    start, end = (timed([*command, str(source)], environment) for source in (one, all_of_them))
                    samples[kind].append(Sample(start.seconds, end.seconds - start.seconds, end.busy - start.busy))
            seconds = {kind: median(sample.seconds for sample in values) for kind, values in samples.items()}
            busy = {kind: median(sample.busy for sample in values) for kind, values in samples.items()}
            rows.append(
                (
                    name,
                    *(f"{count / seconds[kind]:.0f}" for kind in sources),
                    f"**{seconds['local'] / seconds['s3']:.2f}**",
                    f"{(busy['s3'] - busy['local']) / count * 1e3:.1f} ms",
                    f"{median(sample.start for sample in samples['s3']):.1f} s",
                )
            )
    worst = min(float(row[3].strip("*")) for row in rows)
    note = (
        f"{count + 1:,} photographs of 500x375; the server shares the two cores. Medians of three runs in turn, "
        "without the time for one image. "
        f"Target: at least {MIN_THROUGHPUT}, {target_status(worst, minimum=MIN_THROUGHPUT)}."
    )
    columns = (
        *("Network", "Local, images/s", "S3, images/s", "Relative"),
        *("Additional CPU time per image", "Run with one image"),
    )
    return [Table("object-storage", columns, tuple(rows), note, DOCUMENT)]


class Sample(NamedTuple):
    """Seconds of a run with one image, and the additional seconds and CPU seconds for all images."""

    start: float
    seconds: float
    busy: float


class Timed(NamedTuple):
    """Seconds and CPU seconds of a command."""

    seconds: float
    busy: float


def timed(command: list[str], environment: dict[str, str]) -> Timed:
    """Run a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = run(command, environment).seconds
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Timed(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder as the only bucket of an S3 server in another process. Yield its URL."""
    process = subprocess.Popen(script("object_storage", "--serve", folder), stdout=subprocess.PIPE)
    assert process.stdout
    try:
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def run_server(folder: Path) -> None:
    """Answer requests for objects and listings after ``DELAY`` seconds, and print the port."""
    from aiohttp import web

    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(DELAY)
        if "list-type" in request.query:
            start = request.query.get("start-after", "")
            keys = [name for name in files if name > start]
            contents = "".join(f"<Contents><Key>{escape(key)}</Key><Size>1</Size></Contents>" for key in keys)
            body = (
                '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>'
                f"{contents}</ListBucketResult>"
            )
            return web.Response(text=body, content_type="application/xml")
        bucket, _, key = request.path[1:].partition("/")
        if not key:
            return web.Response(status=200 if bucket == "photographs" else 404)
        data = files.get(key)
        if data is None:
            return web.Response(status=404)
        content_range = f"bytes 0-{len(data) - 1}/{len(data)}"
        return web.Response(status=206, body=data, headers={"Content-Range": content_range, "ETag": '"1"'})

    async def main() -> None:
        server = web.Application()
        server.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(server, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        run_server(Path(sys.argv[2]))
    else:
        run_one(measure)
