"""Pickles are read as data: valid ones give plain objects, malicious ones have no effect and end in one error."""

from __future__ import annotations

import collections
import io
import os
import pickle
import resource
import sys
import time
from pathlib import Path

import pytest

from densenet_cli.errors import CheckpointError
from densenet_cli.weights.pytorch import pickles
from densenet_cli.weights.pytorch.pickles import Global, Instance


def load(data: bytes, **options):
    return pickles.load(io.BytesIO(data), **options)


VALUES = [
    None,
    True,
    False,
    *(0, 1, -1, 255, 256, 65535, 65536, -(1 << 31), 1 << 31, 1 << 70, -(1 << 70), 0x1950A86A20F9469CFC6C),
    *(0.0, -1.5, 1e300, float("inf")),
    *("", "plain", "é \n \\ ' \"", "\ud800", "x" * 300, "😀"),
    *(b"", b"\x00\xff'\n", b"x" * 300),
    [],
    [1, [2, [3]]],
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    {},
    {"a": 1, 2: "b", 1.5: None, True: [], b"k": ()},
    {"nested": {"list": [1, {"x": (2, 3)}]}},
    list(range(3000)),
    {str(number): number for number in range(3000)},
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_plain_values_are_those_of_pickle(value, protocol):
    data = pickle.dumps(value, protocol)
    if isinstance(value, bytes) and protocol < 3:
        pytest.skip("bytes are written as a call of a codec")
    if isinstance(value, dict) and b"k" in value and protocol < 3:
        value = {key: item for key, item in value.items() if key != b"k"}
        data = pickle.dumps(value, protocol)
    assert load(data) == value


def test_strings_of_python_2():
    assert load(b"\x80\x02U\x03a\xe9bq\x00.") == "aéb"
    assert load(b"\x80\x02T\x03\x00\x00\x00a\xe9bq\x00.") == "aéb"
    assert load(b"S'a\\xe9b\\n'\np0\n.") == "aéb\n"
    assert load(rb"S'a\\d\\\'\n'" + b"\n.") == "a\\d\\'\n"
    assert load(b"Va\\u00e9b\np0\n.") == "aéb"
    assert load(b"L12345678901234567890L\n.") == 12345678901234567890
    # OrderedDict([("a", 1)]) by Python 2, which passes a list of lists.
    assert load(b"\x80\x02ccollections\nOrderedDict\nq\x00]q\x01]q\x02(U\x01aK\x01eaq\x03\x85q\x04Rq\x05.") == {"a": 1}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_ordered_dictionaries_and_sets(protocol):
    value = collections.OrderedDict([("b", 1), ("a", 2)])
    assert list(load(pickle.dumps(value, protocol)).items()) == [("b", 1), ("a", 2)]
    assert sorted(load(pickle.dumps({3, 1, 2}, protocol))) == [1, 2, 3]
    assert sorted(load(pickle.dumps(frozenset([3, 1, 2]), protocol))) == [1, 2, 3]


class Custom:
    def __init__(self):
        self.value = 5


class Mapping(dict):
    pass


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_other_objects_are_data(protocol):
    custom = load(pickle.dumps(Custom(), protocol))
    assert isinstance(custom, Instance) and custom.type_name.endswith("test_pickles.Custom")
    assert custom.state == {"value": 5}
    mapping = load(pickle.dumps(Mapping(a=1), protocol))
    assert isinstance(mapping, Instance) and mapping.items == {"a": 1}
    function = load(pickle.dumps(os.system, protocol))
    assert isinstance(function, Global) and function.name.endswith("system")


def test_objects_that_contain_themselves():
    value: list = []
    value.append(value)
    loaded = load(pickle.dumps(value))
    assert loaded[0] is loaded


class Harm:
    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_called(tmp_path, protocol):
    target = str(tmp_path / "harm")
    for harm in (
        Harm(os.mkdir, target),
        Harm(os.system, f"touch {target}"),
        Harm(eval, f"__import__('os').mkdir({target!r})"),
        Harm(__import__, "os"),
    ):
        load(pickle.dumps([harm, {"state_dict": harm}], protocol))
    assert list(tmp_path.iterdir()) == []


def test_opcodes_that_call_something(tmp_path):
    path = str(tmp_path / "harm").encode()
    for data in (
        b"(S'" + path + b"'\nios\nmkdir\n.",  # INST
        b"(cos\nmkdir\nS'" + path + b"'\no.",  # OBJ
        b"cos\nmkdir\nS'" + path + b"'\n\x85R.",
        b"cos\nmkdir\nS'" + path + b"'\n\x85\x81.",  # NEWOBJ
        b"cos\nmkdir\nS'" + path + b"'\n\x85}\x92.",  # NEWOBJ_EX
        b"\x8c\x02os\x8c\x05mkdir\x93S'" + path + b"'\n\x85R.",
        b"cbuiltins\nobject\n)\x81}S'__setstate__'\ncos\nmkdir\nsb.",  # BUILD
    ):
        assert isinstance(load(data), Instance)
    for data in (b"\x82\x01.", b"\x83\x01\x00.", b"\x84\x01\x00\x00\x00.", b"Pid\n.", b"NQ."):
        with pytest.raises(CheckpointError):
            load(data)
    assert list(tmp_path.iterdir()) == []


def test_only_given_functions_are_called():
    def double(args):
        return 2 * args[0]

    data = b"cmodule\ndouble\nK\x15\x85R."
    assert load(data, functions={"module.double": double}) == 42
    assert isinstance(load(data), Instance)
    with pytest.raises(CheckpointError):
        load(b"cmodule\ndouble\nN\x85R.", functions={"module.double": double})
    with pytest.raises(CheckpointError):
        load(b"cmodule\ndouble\n)R.", functions={"module.double": double})


def test_position_after_the_pickle():
    file = io.BytesIO(pickle.dumps("first", 4) + pickle.dumps("second", 2) + b"rest")
    assert (pickles.load(file), pickles.load(file), file.read()) == ("first", "second", b"rest")


def repeated(operations: bytes, count: int, start: bytes = b"", end: bytes = b".") -> bytes:
    return start + operations * count + end


NAME = b"X\x00\x00\x10\x00" + b"m" * (1 << 20)

HOSTILE = {
    "empty": b"",
    "only a stop": b".",
    "truncated": pickle.dumps(list(range(100)))[:-5],
    "unknown opcode": b"\xff.",
    "no mark": b"t.",
    "no memo": b"h\x05.",
    "string of 4 GB": b"X\xff\xff\xff\xffabc.",
    "string of 2**63 bytes": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "string of 2 GB in Python 2": b"T\xff\xff\xff\x7fabc.",
    "string of negative length": b"T\xff\xff\xff\xffabc.",
    "bytes of 2**64": b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc.",
    "array of bytes of 2**64": b"\x96\xff\xff\xff\xff\xff\xff\xff\xffabc.",
    "integer of 2 GB": b"\x8b\xff\xff\xff\x7fabc.",
    "integer with many digits": b"L" + b"9" * 100_000 + b"L\n.",
    "number that is none": b"Fabc\n.",
    "invalid UTF-8": b"X\x02\x00\x00\x00\xff\xfe.",
    "string without quotes": b"Sabc\n.",
    "invalid escape sequence": b"S'\\\\\\d'\n.",
    "octal escape sequence": b"S'\\400'\n.",
    "line without an end": b"c" + b"a" * 1000,
    "deep marks": repeated(b"(", 100_000),
    "deep lists": repeated(b"](", 100_000, end=b"e" * 100_000 + b"."),
    "too many operations": repeated(b"N0", 3_000_000),
    "endless list": repeated(b"N", 3_000_000),
    "same list, often": repeated(b"h\x00", 3_000_000, b"](" + b"N" * 1000 + b"eq\x00"),
    "dictionary of a million pairs, often": b"]("
    + b"NN\x86" * 100_000
    + b"eq\x000"
    + repeated(b"ccollections\nOrderedDict\nh\x00\x85R0", 1000),
    "items of a number": b"K\x01K\x02K\x03s.",
    "odd number of items": b"}(K\x01K\x02K\x03u.",
    "call without arguments": b"cos\nsystem\nNR.",
    "OrderedDict of a number": b"ccollections\nOrderedDict\nK\x05\x85R.",
    "OrderedDict of triples": b"ccollections\nOrderedDict\n]NNN\x87a\x85R.",
    "long names, joined often": NAME + b"q\x000" + repeated(b"h\x00h\x00\x930", 100_000),
    "name of numbers": b"K\x01K\x02\x93.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickle_is_rejected_quickly(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as caught:
        load(HOSTILE[name])
    assert time.perf_counter() - start < 20
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    if sys.platform == "linux":
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 300


def test_memory_of_a_file_within_the_limits():
    """A million small objects need less than 200 MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load(b"K\x00" + b"}" * (pickles.MAX_OPERATIONS - 10) + b".")
    if sys.platform == "linux":
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 200


@pytest.mark.parametrize("wrap", [b"\x85", b"]\x86", b"}\x86"])
def test_deep_objects_are_harmless(wrap):
    """They are neither hashed, compared, nor printed, and Python deletes them without recursion."""
    deep = b"N" + wrap * 100_000
    load(deep + b".")
    load(deep + b"q\x000}h\x00K\x01s.")
    with pytest.raises(CheckpointError):
        load(b"ccollections\nOrderedDict\n" + deep + b"\x85R.")
    load(b"cos\nsystem\n" + deep + b"\x85R.")


def test_keys_that_could_collide_are_left_out():
    prime = (1 << 61) - 1
    assert load(pickle.dumps({number * prime: 1 for number in range(5, 100)})) == {}
    assert load(b"}(K\x01K\x02K\x01\x85K\x02N\x85\x85K\x03u.") == {1: 2}


def test_random_bytes():
    import random

    rng = random.Random(0)
    data = pickle.dumps([VALUES[:12], {"a": Path("x"), "b": Custom(), "c": collections.OrderedDict(x=1)}], 2)
    for _ in range(5000):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 2, 5))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            load(bytes(damaged))
        except CheckpointError as error:
            assert "\n" not in str(error)
