"""Label files: every format with its correct labels, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from densenet_cli import label_files, labels, textfiles
from densenet_cli.errors import UsageError
from densenet_cli.labels import ClassLabel, imagenet

CATS = (ClassLabel(0, None, "cat"), ClassLabel(1, None, "dog, small"), ClassLabel(2, None, "été"))
FISH = (ClassLabel(0, "n01440764", "tench, Tinca tinca"), ClassLabel(1, "n01443537", "goldfish"))

FORMATS = {
    "names": "cat\ndog, small\nété\n",
    "names, spaces and blank lines at the end": " cat \ndog, small\t\nété\n\n \n",
    "numbers": "0 cat\n1 dog, small\n2 été",
    "numbers in any order": "2 été\n0 cat\n1 dog, small",
    "numbers from 1": "1 cat\n2 dog, small\n3 été",
    "numbers with zeros": "00 cat\n01 dog, small\n02 été",
    "numbers, colon": "0: cat\n1: dog, small\n2:été",
    "numbers, comma": '0,cat\n1,"dog, small"\n2,été',
    "numbers, comma, no quotes": "0,cat\n1,dog, small\n2,été",
    "numbers, semicolon": "0;cat\n1;dog, small\n2;été",
    "numbers, tab": "0\tcat\n1\tdog, small\n2\tété",
    "numbers in quotes": '"0","cat"\n"1","dog, small"\n"2","été"',
    "JSON list": '["cat", "dog, small", "\\u00e9t\\u00e9"]',
    "JSON index to name": '\n {"2": "été", "0": "cat", "1": "dog, small"}',
    "JSON name to index": '{"dog, small": 1, "cat": 0, "été": 2}',
    "id2label": '{"x": {"a": 1}, "id2label": {"0": "cat", "1": "dog, small", "2": "été"}}',
    "label2id": '{"label2id": {"cat": 0, "dog, small": 1, "été": "2"}}',
    "id2label and label2id": '{"id2label": {"0": "cat", "1": "dog, small", "2": "été"}, "label2id": {"été": 2}}',
    "Python dict": "{0: 'cat',\n 1: 'dog, small',\n 2: \"été\"}",
    "Python list": "['cat', 'dog, small', 'été']",
    "YAML names": "path: ../x # a comment\nnc: 3\nnames:\n  0: cat\n  1: dog, small\n  2: été\n",
    "YAML list of names": 'names: [cat, "dog, small", été]\n',
    "YAML list": "- cat\n- dog, small\n- 'été'\n",
    "YAML document": "---\n0: cat\n1: dog, small\n2: été\n",
    "YAML id2label": "id2label:\n  0: cat\n  1: dog, small\n  2: été\n",
    "CSV": 'index,name,color\n2,été,x\n0,cat,y\n1,"dog, small",x\n',
    "CSV, class number and label": "class;label\n0;cat\n1;dog, small\n2;été",
    "CSV, pandas": ',label\n0,cat\n1,"dog, small"\n2,été\n',
    "CSV, quoted header": '"Class ID","Class Name"\n"0","cat"\n"1","dog, small"\n"2","été"\n',
    "CSV, one column": 'label\ncat\n"dog, small"\nété',
    "TSV": "id\tname\n0\tcat\n1\tdog, small\n2\tété\n",
    "TSV, pandas": "\tlabel\n0\tcat\n1\tdog, small\n2\tété\n",
}

FORMATS_WITH_IDS = {
    "ID, tab": "n01440764\ttench, Tinca tinca\nn01443537\tgoldfish",
    "ID, space": "n01440764 tench, Tinca tinca\nn01443537 goldfish",
    "ID, comma": 'n01440764,"tench, Tinca tinca"\nn01443537,goldfish',
    "number and ID": "1 n01443537 goldfish\n0 n01440764 tench, Tinca tinca",
    "number and ID, tabs": "0\tn01440764\ttench, Tinca tinca\n1\tn01443537\tgoldfish",
    "class index": '{"0": ["n01440764", "tench, Tinca tinca"], "1": ["n01443537", "goldfish"]}',
    "JSON list": '[["n01440764", "tench, Tinca tinca"], "n01443537 goldfish"]',
    "YAML": "names:\n  0: [n01440764, 'tench, Tinca tinca']\n  1: n01443537 goldfish",
    "CSV": 'id,name\nn01440764,"tench, Tinca tinca"\nn01443537,goldfish',
    "CSV, number": 'label,wnid,class_id\ngoldfish,n01443537,1\n"tench, Tinca tinca",n01440764,0\n',
}


@pytest.fixture
def read(tmp_path):
    """Write a file and read it as labels."""

    def write_and_read(content: str | bytes, classes: int, name: str = "labels.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return label_files.read(path, classes)

    return write_and_read


@pytest.mark.parametrize("name", FORMATS)
def test_formats(read, name):
    assert read(FORMATS[name], 3) == CATS
    assert read(FORMATS[name].replace("\n", "\r\n").encode("utf-16"), 3) == CATS
    assert read("\ufeff" + FORMATS[name].replace("\n", "\r"), 3) == CATS


@pytest.mark.parametrize("name", FORMATS_WITH_IDS)
def test_wordnet_ids(read, name):
    assert read(FORMATS_WITH_IDS[name], 2) == FISH


def test_only_some_lines_have_wordnet_ids(read):
    assert read("cat\nn02084071\tdog, small", 2) == (CATS[0], ClassLabel(1, "n02084071", "dog, small"))


def test_wordnet_ids_without_names_get_the_names_of_imagenet(read):
    expected = (imagenet()[285], imagenet()[1])
    for text in ("n02124075\nn01443537", '{"n01443537": 1, "n02124075": 0}', "index,wnid\n0,n02124075\n1,n01443537"):
        assert read(text, 2) == expected


def test_the_table_of_imagenet(read):
    assert label_files.read(labels.IMAGENET_FILE, 1000) == imagenet()
    index = {str(label.index): [label.id, label.name] for label in imagenet()}
    assert read(json.dumps(index), 1000) == imagenet()


def test_two_classes_can_have_the_same_name(read):
    for text in ("crane\ncrane\n", "0 crane\n1 owl\n2 crane\n", '{"0": "crane", "1": "crane"}'):
        assert "crane" in [label.name for label in read(text, text.count("\n") or 2)]
    config = {"id2label": {"0": "crane", "1": "owl", "2": "crane"}, "label2id": {"owl": 1, "crane": 2}}
    assert [label.name for label in read(json.dumps(config), 3)] == ["crane", "owl", "crane"]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("7 up\ncola\nwater", ["7 up", "cola", "water"]),
        ("1 cent\n2 cents\n5 cents\neuro", ["1 cent", "2 cents", "5 cents", "euro"]),
        ("3\n1\n2", ["3", "1", "2"]),
        ("0,5 mm\n1,5 mm\n2,5 mm", ["0,5 mm", "1,5 mm", "2,5 mm"]),
        ("10:30\n11:45", ["10:30", "11:45"]),
        ("type 0\ntype 1", ["type 0", "type 1"]),
        ("001.Black_footed_Albatross\n002.Laysan_Albatross", ["001.Black_footed_Albatross", "002.Laysan_Albatross"]),
        ('["0 people", "1 person"]', ["0 people", "1 person"]),
        ('[1, 20, 3.50, "x", 1e5]', ["1", "20", "3.50", "x", "1e5"]),
        ("names: [no, on, 010, 1.10, null, ~, 2024-01-01]", ["no", "on", "010", "1.10", "null", "~", "2024-01-01"]),
        ('{"0": "5", "1": "7"}', ["5", "7"]),
        ("index,label\n0,0\n1,1", ["0", "1"]),
        ("a\u2028b\nc", ["a\u2028b", "c"]),
        ('"quoted" cat, old\nlabeled dog', ['"quoted" cat, old', "labeled dog"]),
        ("jack-o'-lantern\n- dash\n", ["jack-o'-lantern", "- dash"]),
    ],
)
def test_names_that_look_like_something_else(read, content, names):
    assert [label.name for label in read(content, len(names))] == names


@pytest.mark.parametrize("suffix", [".txt", ".json", ".yaml", ".csv", ".tsv", ""])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('["a", "b", "c"]', "JSON"),
        ("names: [a, b, c]", "YAML"),
        ("index,name\n0,a\n1,b\n2,c", "CSV"),
        ("a\nb\nc", "text"),
    ],
)
def test_the_contents_decide_on_the_format(read, content, found, suffix):
    name = f"labels{suffix}"
    if suffix in (".json", ".yaml") and found in ("CSV", "text"):
        with pytest.raises(UsageError, match=name):
            read(content, 3, name)
        return
    assert [label.name for label in read(content, 3, name)] == ["a", "b", "c"]
    with pytest.raises(UsageError, match=rf"2 classes, but .*{name} contains 3 labels \("):
        read(content, 2, name)


REFUSED = {
    "empty": ("", "0 labels"),
    "blank": (" \n\n", "0 labels"),
    "blank line": ("\ncat", "Line 1"),
    "blank line 2": ("cat\n\ndog", "Line 2"),
    "control character": ("cat\n\x1b[31mdog", "class 1"),
    "not text": (b"cat\n\xff", "UTF-8"),
    "null bytes": (b"cat\0dog", "null"),
    "too large": (b"x" * (textfiles.MAX_SIZE + 1), "larger"),
    "gap": ("0 cat\n2 dog", "1 is missing"),
    "gap from 1": ("1 cat\n3 dog", "0 is missing"),
    "duplicate": ("0 cat\n0 dog", "0.* more than once"),
    "from 1, not in order": ("2 cat\n1 dog", "1 to 2"),
    "names with numbers": ("7 up\n3 musketeers", "begins with a number"),
    "counts": ("1 star\n2 stars\n3 stars\n4 stars", "part of the name"),
    "line without number": ("0 cat\n1 dog\nowl", "line 3"),
    "number without name": ("0 cat\n1", "class 1"),
    "number last": ("cat,0\ndog,1", "line ends with"),
    "number last, tab": ("cat\t1\ndog\t2", "line ends with"),
    "ID and number": ("n02119789 1 kit_fox\nn02100735 2 English_setter", "WordNet ID and a number"),
    "tab": ("cat\tblack\ndog\twhite", "Line 1 .*tab"),
    "ID twice": ("n01440764 a\nn01440764 b", "n01440764"),
    "JSON, damaged": ('["cat", "dog"', "JSON"),
    "JSON, missing comma": ('["cat" "dog"]', "JSON"),
    "JSON with comment": ('[// "a"\n"cat", "dog"]', "JSON"),
    "JSON, gap": ('{"0": "cat", "2": "dog"}', "1 is missing"),
    "JSON, from 1, not in order": ('{"2": "cat", "1": "dog"}', "1 to 2"),
    "JSON, key twice": ('{"0": "cat", "0": "dog"}', "'0' .*more than once"),
    "JSON, index twice": ('{"0": "cat", "00": "dog"}', "0.*more than once"),
    "JSON, number in both": ('{"0": 1, "1": 2, "2": 0}', "numbers"),
    "JSON, numbers in neither": ('{"cat": "dog", "a": "b"}', "numbers"),
    "JSON, inverse with gap": ('{"cat": 0, "dog": 2}', "1 is missing"),
    "JSON, another object": ('{"model_type": "resnet"}', "id2label"),
    "JSON, null": ('["cat", null]', "null"),
    "JSON, Boolean": ('["cat", true]', "Boolean"),
    "JSON, nested": ('["cat", ["a", "b"]]', "A list"),
    "JSON, objects": ('[{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]', "A mapping"),
    "JSON, surrogate": ('["cat", "\\ud800"]', "class 1"),
    "JSON, line break": ('["cat", "a\\nb"]', "class 1"),
    "JSON, empty name": ('["cat", " "]', "class 1"),
    "JSON, contradiction": ('{"id2label": {"0": "a", "1": "b"}, "label2id": {"b": 0}}', "contradict"),
    "JSON, contradiction out of range": ('{"id2label": {"0": "a", "1": "b"}, "label2id": {"b": 5}}', "contradict"),
    "JSON, two lists": ('{"names": ["a", "b"], "labels": ["b", "a"]}', "different"),
    "JSON, inverse is a list": ('{"label2id": ["a", "b"]}', "label2id"),
    "JSON, both are lists": ('{"names": ["a", "b"], "label2id": ["cd", [1, 2]]}', "label2id"),
    "JSON, float index": ('{"a": 0.0, "b": 1.0}', "numbers"),
    "JSON, huge number": ('{"' + "9" * 5000 + '": "a", "1": "b"}', "numbers"),
    "JSON, deep": ("[" * 100_000, "JSON"),
    "YAML, damaged": ("names: [a, b", "YAML"),
    "YAML, two documents": ("---\nnames: [a]\n---\nnames: [b]", "YAML"),
    "YAML, key twice": ("names: [a, b]\nnames: [b, a]", "'names' .*more than once"),
    "YAML, index twice": ("names:\n  0: a\n  0: b", "0.*more than once"),
    "YAML, complex key": ("names:\n  ? [0]\n  : a", "key"),
    "YAML, deep": ("names: " + "[" * 100_000, "YAML"),
    "YAML, too large": ("names: [" + "a, " * 400_000 + "a]", "1 MiB"),
    "YAML, recursive": ("names: &a [*a, *a]", "nested|A list"),
    "YAML, empty": ("---\n", "neither a list"),
    "YAML, object": ("names: !!python/object/apply:os.getcwd []", "0 labels"),
    "YAML, aliases": (
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True))
        + "names: *k",
        "A list",
    ),
    "CSV, gap": ("index,name\n0,a\n2,b", "1 is missing"),
    "CSV, no number": ("name,description\na,x\nb,y", "index"),
    "CSV, images": ("path,label\na.jpg,cat\nb.jpg,dog", "index"),
    "CSV, two names": ("index,name,label\n0,a,x\n1,b,y", "'name', 'label'"),
    "CSV, same column twice": ("index,name,name\n0,a,x\n1,b,y", "'name', 'name'"),
    "CSV, two numbers": ("index,class_id,name\n0,1,a\n1,0,b", "'class_id'"),
    "CSV, other IDs": ("id,name\n/m/01,a\n/m/02,b", "'id'"),
    "CSV, too many fields": ("index,name\n0,a,x\n1,b", "Line 2"),
    "CSV, empty name": ("index,name\n0,a\n1,", "class 1"),
    "CSV, no rows": ("index,name", "0 labels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(read, case):
    content, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as raised:
        read(content, 2)
    assert "labels.txt" in str(raised.value)
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)


def test_numbers_are_refused_if_they_are_the_names_of_other_classes(tmp_path):
    folders = labels.from_class_names(sorted(str(number) for number in range(1, 11)))
    path = tmp_path / "names.json"
    path.write_text(json.dumps({str(number): f"flower {number}" for number in range(1, 11)}))
    with pytest.raises(UsageError, match="1, 10, 2"):
        label_files.read(path, 10, folders)
    assert label_files.read(path, 10, folders[:1] + folders[2:] + folders[1:2])[9].name == "flower 10"
    path.write_text(json.dumps([f"flower {label.name}" for label in folders]))
    assert label_files.read(path, 10, folders)[1].name == "flower 10"


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="No such file or directory"):
        label_files.read(tmp_path / "none.txt", 2)


def write_csv(names, delimiter=","):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([("index", "name"), *enumerate(names)])
    return file.getvalue()


WRITERS = {
    "JSON list": lambda names: json.dumps(names),
    "JSON index to name": lambda names: json.dumps(dict(enumerate(names))),
    "id2label": lambda names: json.dumps({"id2label": dict(enumerate(names))}, ensure_ascii=False, indent=1),
    "Keras": lambda names: json.dumps({name: index for index, name in enumerate(names)}),
    "YAML": lambda names: yaml.safe_dump({"names": names}, allow_unicode=True),
    "Ultralytics": lambda names: yaml.safe_dump({"names": dict(enumerate(names))}),
    "CSV": write_csv,
    "CSV with semicolons": lambda names: write_csv(names, ";"),
    "numbered": lambda names: "".join(f"{index}: {name}\n" for index, name in enumerate(names)),
}

# Names without a meaning in some format: numbers, WordNet IDs, and text in quotes.
NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).filter(
        lambda name: name == name.strip() and not re.match(r'\d+\Z|n\d{8}|"', name)
    ),
    min_size=1,
    max_size=20,
    unique=True,
)


@pytest.mark.parametrize("writer", WRITERS)
def test_names_are_the_same_in_every_format(tmp_path_factory, writer):
    path = tmp_path_factory.mktemp("labels") / "file"

    @given(NAMES)
    def check(names):
        path.write_text(WRITERS[writer](names), encoding="utf-8")
        assert [label.name for label in label_files.read(path, len(names))] == names

    check()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["0", "1", "a", "names", "label2id"]), inner),
).map(json.dumps)
LINES = st.text(alphabet="019 \t\n,:;[]{}'\"-&*!?|>#%abn")


@given(
    st.binary() | st.one_of(st.text(), LINES, JSON).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from([".txt", ".json", ".yaml", ".csv"]),
    st.integers(0, 3),
)
def test_other_contents_are_usage_errors(tmp_path_factory, content, suffix, classes):
    path = tmp_path_factory.getbasetemp() / f"arbitrary{suffix}"
    path.write_bytes(content)
    try:
        result = label_files.read(path, classes)
    except UsageError as error:
        assert path.name in str(error)
    else:
        assert len(result) == classes
        assert all(labels.is_valid(label.name) and label.name.encode() for label in result)


def test_modules_are_imported_only_when_needed(weights, photographs, tmp_path):
    script = (
        "import sys; from densenet_cli import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: print([name for name in ('densenet_cli.label_files', 'yaml') if name in sys.modules])"
    )
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{number} thing {number}\n" for number in range(10)))
    command = [sys.executable, "-c", script, "predict", photographs[0], "--weights", weights]
    for options, expected in (([], "[]"), (["--labels", names], "['densenet_cli.label_files']")):
        result = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=True)
        assert result.stdout.splitlines()[-1] == expected
