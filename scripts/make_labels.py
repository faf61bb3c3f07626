"""Write ``src/densenet_cli/data/imagenet.tsv`` from the class lists of timm and torchvision.

    pip download --no-deps --dest wheels timm torchvision==0.29.1
    python scripts/make_labels.py wheels/timm-*.whl wheels/torchvision-*.whl

timm has the WordNet IDs and the names of the synsets. torchvision has one readable name per class, which is the first
name of the synset except for two classes, for which it is clearer. If the lists differ anywhere else, the script fails,
because one of them has changed and needs a review.
"""

from __future__ import annotations

import ast
import sys
import zipfile
from pathlib import Path

OUTPUT = Path(__file__).parent.parent / "src/densenet_cli/data/imagenet.tsv"
KNOWN_DIFFERENCES = {134: ("crane", "crane bird"), 639: ("maillot", "maillot tank suit")}
"""Index -> (first name of the synset, torchvision's name)."""


def read_synsets(wheel: Path) -> list[tuple[str, str]]:
    """Return the WordNet ID and the first name of each class in timm's list."""
    with zipfile.ZipFile(wheel) as archive:
        ids = archive.read("timm/data/_info/imagenet_synsets.txt").decode().split()
        lemmas = archive.read("timm/data/_info/imagenet_synset_to_lemma.txt").decode().splitlines()
    names = dict(line.split("\t") for line in lemmas)
    return [(wordnet_id, names[wordnet_id].split(", ")[0]) for wordnet_id in ids]


def read_names(wheel: Path) -> list[str]:
    """Return the name of each class in torchvision's list. The source code is parsed and not run."""
    with zipfile.ZipFile(wheel) as archive:
        tree = ast.parse(archive.read("torchvision/models/_meta.py"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_IMAGENET_CATEGORIES":
            return list(ast.literal_eval(node.value))
    raise SystemExit("_IMAGENET_CATEGORIES is missing in torchvision/models/_meta.py.")


def main(timm_wheel: str, torchvision_wheel: str) -> None:
    """Compare the lists and write the file."""
    synsets = read_synsets(Path(timm_wheel))
    names = read_names(Path(torchvision_wheel))
    if not len(synsets) == len(names) == len(set(names)) == 1000:
        raise SystemExit(f"Expected 1,000 distinct classes. timm has {len(synsets)}, torchvision {len(set(names))}.")
    differences = {
        index: (synset_name, name)
        for index, ((_, synset_name), name) in enumerate(zip(synsets, names, strict=True))
        if synset_name != name
    }
    if differences != KNOWN_DIFFERENCES:
        raise SystemExit(f"Unexpected differences between the lists: {differences}")
    lines = [f"{wordnet_id}\t{name}\n" for (wordnet_id, _), name in zip(synsets, names, strict=True)]
    OUTPUT.write_text("".join(lines), encoding="utf-8")
    print(f"Wrote {len(lines)} classes to {OUTPUT}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
