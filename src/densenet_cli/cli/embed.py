"""``densenet embed``: turn images into feature vectors."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from densenet_cli.cli.command import command, output_option
from densenet_cli.cli.console import echo_image_error, echo_info, printable
from densenet_cli.cli.model_options import create_classifier, model_options, model_settings
from densenet_cli.cli.options import NoteCounter, check_not_folder, echo_resumed, expand_sources, source_options
from densenet_cli.cli.path_types import OutputPath
from densenet_cli.cli.ray_options import PART_FORMATS, RayRequest, check_ray_options, ray_options
from densenet_cli.cli.remote_output import shown_path, uploads_output
from densenet_cli.text import plural


@command()
@source_options
@output_option(
    "-o",
    "--output",
    type=OutputPath(can_be_remote=True),
    required=True,
    metavar="FILE",
    help="Write vectors to FILE (.npz, .npy, or .parquet; also s3://bucket/FILE), sources to FILE.sources.jsonl, and "
    "settings to FILE.meta.json. With --ray, a folder or URL for part files.",
)
@output_option(
    "--format",
    "format_",
    type=click.Choice(PART_FORMATS),
    help="Format of the part files, only with --ray.  [default: parquet]",
)
@output_option("--overwrite", is_flag=True, help="Replace existing output files.")
@output_option(
    "--resume", is_flag=True, help="Continue an interrupted run. Without --ray, also add images to a complete file."
)
@output_option("--retry-errors", is_flag=True, help="With --resume, process failed images again.")
@ray_options
@model_options(without=["labels", "activation", "uncalibrated"])
@uploads_output("vectors")
def embed(
    source: tuple[str, ...],
    files_from: str | None,
    null: bool,
    suffix: tuple[str, ...],
    output: str,
    format_: str | None,
    overwrite: bool,
    resume: bool,
    retry_errors: bool,
    ray: str | None,
    part_size: int | None,
    **model: Any,
) -> int:
    """Turn images into feature vectors for search, clustering, and deduplication.

    SOURCE is an image, a folder (searched recursively), an archive (.tar, .tar.gz, .zip), a glob, any of these in
    object storage (s3://bucket/photos), an http(s) URL, or - for an image on standard input.
    The vector of an image is the global average of the last feature maps, which is the input of the classification
    head. An image that fails is listed with its error and has no vector.

    \b
    Examples:
      densenet embed photos/ -o features.npz
      densenet embed photos/ -o features.npz --resume
      densenet embed photos/ 'more/*.png' -o features.parquet --variant 201
      densenet embed s3://bucket/photos/ --ray auto -o s3://bucket/vectors/
    """
    if format_ and ray is None:
        raise click.UsageError("--format requires --ray. Otherwise, the extension of --output determines the format.")
    check_ray_options(ray, click.get_current_context().params)
    sources = expand_sources(source, files_from, null, suffix, pages=model["pages"], offline=model["offline"])
    if ray is not None:
        from densenet_cli.cli.ray_run import run_on_ray

        request = RayRequest(
            "embed", ray, part_size, output, format_, resume, overwrite, source, files_from, null, suffix, {}, model
        )
        create = partial(create_classifier, needs_head=False)
        return run_on_ray(request, create, lambda classifier: model_settings(classifier, model))
    check_not_folder(output)
    from densenet_cli.cli.progress import ProgressBar
    from densenet_cli.layers import embedding_size
    from densenet_cli.output.vectors import check_vectors, open_vectors, parts_path, sources_path

    # Check the output options before weights are downloaded.
    output_options = {"resume": resume, "overwrite": overwrite, "retry_errors": retry_errors}
    check_vectors(output, **output_options)
    classifier = create_classifier(needs_head=False, **model)
    width = embedding_size(classifier.config)
    try:
        with open_vectors(output, model_settings(classifier, model), width, **output_options) as vectors:
            echo_resumed(vectors.recorded)
            with NoteCounter() as notes, ProgressBar("count") as progress:
                for result in classifier.stream(vectors.pending(sources), ("features",)):
                    notes.add(result.notes)
                    embedding = classifier.embedding(result)
                    vectors.write(embedding)
                    if embedding.error:
                        echo_image_error(embedding.source, embedding.error)
                    progress.advance("images")
    except KeyboardInterrupt:
        if (parts := parts_path(output)).exists():
            echo_info(f"Finished vectors are kept in {printable(shown_path(str(parts)))}. Use --resume to continue.")
        raise
    echo_info(f"Wrote {plural(vectors.rows, 'vector')} of length {width:,} to {printable(shown_path(output))}.")
    if vectors.failed:
        errors = shown_path(str(sources_path(output)))
        echo_info(f"{plural(vectors.failed, 'source')} failed. See {printable(errors)} for the errors.")
    return 1 if vectors.failed else 0
