"""``Predictor`` and ``Embedder``: batches in all formats give the results of ``Classifier``."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from densenet_cli import Classifier, UsageError
from densenet_cli.ray import Embedder, Predictor
from densenet_cli.ray.records import embedding_schema, prediction_schema, to_table

pyarrow = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def arrays(photographs):
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize((60, 50))) for path in photographs[:3]])


def test_paths_bytes_and_arrays(weights, photographs, arrays):
    predictor = Predictor(weights=weights, threads=2, top_k=2)
    paths = [str(path) for path in photographs]
    with Classifier(weights=weights) as classifier:
        expected = to_table(classifier.predict_many(paths, top_k=2), prediction_schema())
        from_arrays = [classifier.predict(array, top_k=2).scores for array in arrays]
    assert predictor({"path": np.array(paths)}).equals(expected)
    data = np.array([path.read_bytes() for path in photographs], dtype=object)
    assert predictor({"bytes": data, "path": np.array(paths)}).equals(expected)
    assert predictor(pyarrow.table({"bytes": list(data), "path": paths})).equals(expected)
    rows = predictor({"image": arrays}).to_pylist()
    assert [row["source"] for row in rows] == ["<array>"] * 3
    assert [[score["label"] for score in row["predictions"]] for row in rows] == [
        [score.label for score in scores] for scores in from_arrays
    ]


def test_a_bad_image_is_an_error_in_its_row(weights, photographs):
    predictor = Predictor(weights=weights, threads=1)
    batch = {
        "bytes": np.array([photographs[0].read_bytes(), b"text", None, b""], dtype=object),
        "id": np.arange(4),
        "split": np.array(["a", "b", "c", "d"]),
    }
    table = predictor(batch)
    assert table.column_names == [*prediction_schema().names, "split"]
    rows = table.to_pylist()
    assert [row["source"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["split"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["error"] and row["error"]["type"] for row in rows] == [None, *["UnreadableImage"] * 3]


def test_embeddings(weights, photographs):
    paths = [str(path) for path in photographs[:2]]
    table = Embedder(weights=weights, threads=1)({"item": np.array([*paths, "none.jpg"])})
    with Classifier(weights=weights) as classifier:
        vectors = [classifier.embed(path).vector for path in paths]
    assert table.schema.equals(embedding_schema(len(vectors[0])))
    rows = table.to_pylist()
    assert np.array_equal(np.array([row["vector"] for row in rows[:2]], np.float32), np.array(vectors))
    assert rows[2]["vector"] is None and rows[2]["error"]["type"] == "SourceNotFound"


def test_a_batch_without_images_is_refused(weights):
    predictor = Predictor(weights=weights, threads=1)
    with pytest.raises(UsageError, match="text"):
        predictor({"text": np.array(["x"])})
    with pytest.raises(UsageError, match="missing"):
        Predictor(weights=weights, column="missing", threads=1)({"path": np.array(["x"])})
