"""Make ``src/densenet_cli/data/imagenet.tsv`` from what timm and torchvision list, checked against each other.

    pip download --no-deps --dest wheels timm torchvision==0.29.1
    python scripts/make_labels.py wheels/timm-*.whl wheels/torchvision-*.whl

timm has the WordNet ids and the synsets' names, torchvision one readable name a class. The first name of a
synset is torchvision's at all positions but two, where torchvision's is the clearer one. Any other difference
ends the script: then one of the lists has changed, and somebody has to look.
"""

from __future__ import annotations

import ast
import sys
import zipfile
from pathlib import Path

TARGET = Path(__file__).parent.parent / "src/densenet_cli/data/imagenet.tsv"
KNOWN_DIFFERENCES = {134: ("crane", "crane bird"), 639: ("maillot", "maillot tank suit")}


def timm_classes(wheel: Path) -> list[tuple[str, str]]:
    """(WordNet id, first name of its synset) of each class in order."""
    with zipfile.ZipFile(wheel) as archive:
        ids = archive.read("timm/data/_info/imagenet_synsets.txt").decode().split()
        lemmas = archive.read("timm/data/_info/imagenet_synset_to_lemma.txt").decode().splitlines()
    names = dict(line.split("\t") for line in lemmas)
    return [(wordnet_id, names[wordnet_id].split(", ")[0]) for wordnet_id in ids]


def torchvision_names(wheel: Path) -> list[str]:
    """The readable name of each class in order, from the source text: nothing of the wheel is run."""
    with zipfile.ZipFile(wheel) as archive:
        tree = ast.parse(archive.read("torchvision/models/_meta.py"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_IMAGENET_CATEGORIES":
            return list(ast.literal_eval(node.value))
    raise SystemExit("torchvision no longer has _IMAGENET_CATEGORIES")


def main(timm_wheel: str, torchvision_wheel: str) -> None:
    """Check, then write."""
    classes = timm_classes(Path(timm_wheel))
    names = torchvision_names(Path(torchvision_wheel))
    if not len(classes) == len(names) == len(set(names)) == 1000:
        raise SystemExit(f"timm lists {len(classes)} classes and torchvision {len(names)}, not 1,000 different ones")
    differences = {
        index: (theirs, name)
        for index, ((_, theirs), name) in enumerate(zip(classes, names, strict=True))
        if theirs != name
    }
    if differences != KNOWN_DIFFERENCES:
        raise SystemExit(f"the lists differ otherwise than known: {differences}")
    lines = [f"{wordnet_id}\t{name}\n" for (wordnet_id, _), name in zip(classes, names, strict=True)]
    TARGET.write_text("".join(lines), encoding="utf-8")
    print(f"{TARGET}: {len(lines)} classes; the lists differ at {', '.join(map(str, differences))} alone")


if __name__ == "__main__":
    main(*sys.argv[1:])
