"""Reading pickles as data: an interpreter of their opcodes that imports nothing and calls nothing that they name.

Unpickling runs code because a pickle can name any function and call it. Here, the name of a function or class becomes a
``Global``. Calling one gives an ``Instance``, which only stores the arguments, unless the caller of ``load`` implements
it. So files with other objects than arrays (arguments of the command line, optimizers, callbacks) can be read, and
their objects have no effect.

The opcodes are documented in ``pickletools``. Protocols 0 to 4 are supported. The number of operations, the depth, and
the total length of strings are limited.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from densenet_cli.errors import CheckpointError
from densenet_cli.weights.contents import damaged_file_error

MAX_OPERATIONS = 1_000_000
"""Opcodes, and items that one opcode copies. A DenseNet-121 with its optimizer needs 100,000."""
MAX_STRING_BYTES = 64 << 20
"""Total bytes of all strings."""
MAX_DEPTH = 1_000
"""Levels of unfinished lists, dictionaries, and tuples."""
MAX_NUMBER_SIZE = 1 << 10
"""Bytes of an integer, or digits of a number as text."""
MAX_NAME_LENGTH = 1 << 10
"""Characters in the name of a function or class."""
MAX_KEY = 1 << 63
"""Integers that are keys of a dictionary are smaller. Hashes of larger ones collide."""

INVALID_ESCAPE = re.compile(rb"\\(?![nrt'\"]|x[0-9a-fA-F]{2})")
SET_TYPES = ("builtins.set", "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset")


class Global:
    """The name of a function or class, such as ``collections.OrderedDict``."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Instance:
    """An object that the pickle would create. Nothing is created.

    Attributes:
        type_name: The name of the class or function, or "" if it is not a ``Global``.
        args: The arguments.
        state: The attributes: a dictionary, or whatever else the pickle contains.
        items: The items of a subclass of ``dict``.
    """

    __slots__ = ("args", "items", "state", "type_name")

    def __init__(self, type_: Any, args: Any) -> None:
        self.type_name = type_.name if isinstance(type_, Global) else ""
        self.args = args
        self.state: Any = None
        self.items: dict[Any, Any] = {}


Functions = Mapping[str, Callable[[tuple[Any, ...]], Any]]
"""Name of a function in pickles -> its implementation, which gets the tuple of arguments."""


def load(
    file: BinaryIO, functions: Functions | None = None, load_persistent: Callable[[Any], Any] | None = None
) -> Any:
    """Read one pickle from the current position of a file. Afterwards, the position is behind it.

    Args:
        file: The file.
        functions: The functions that are implemented. Unexpected arguments may raise ``TypeError`` or ``ValueError``.
        load_persistent: Returns the object for a persistent ID, an object outside the pickle.

    Returns:
        None, numbers, strings, bytes, lists, tuples, dictionaries, ``Global``, ``Instance``, and results of
        ``functions`` and ``load_persistent``. Sets become lists. Entries of dictionaries with other keys than strings
        and numbers are left out. Objects can contain themselves, and can be nested deeper than Python can recurse.

    Raises:
        CheckpointError: The pickle is damaged, or exceeds a limit.
    """
    try:
        return _Interpreter(file, functions or {}, load_persistent).run()
    except (ArithmeticError, AttributeError, EOFError, LookupError, TypeError, ValueError, struct.error) as error:
        raise damaged_file_error(f"invalid pickle: {error}"[:200]) from error


class _Interpreter:
    """The state of an interpreter. ``stacks`` contains the stacks below the marks, ``stack`` is the current one."""

    def __init__(self, file: BinaryIO, functions: Functions, load_persistent: Callable[[Any], Any] | None) -> None:
        self.file = file
        self.functions = functions
        self.load_persistent = load_persistent
        self.stack: list[Any] = []
        self.stacks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[str, Global] = {}
        self.operations = 0
        self.string_bytes = 0

    def run(self) -> Any:
        read, operations, stop = self.file.read, _OPERATIONS, b"."
        while (opcode := read(1)) != stop:
            self.count(1)
            operation = operations.get(opcode)
            if operation is None:
                raise ValueError(f"unsupported opcode {opcode!r}" if opcode else "it ends too early")
            operation(self)
        return self.stack.pop()

    def count(self, operations: int) -> None:
        self.operations += operations
        if self.operations > MAX_OPERATIONS:
            raise CheckpointError(f"The pickle needs more than {MAX_OPERATIONS:,} operations.")

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        if len(data) != size:
            raise EOFError("it ends too early")
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.read(struct.calcsize(form)))[0]

    def string(self, form: str) -> bytes:
        """Read a length and as many bytes."""
        size: int = self.number(form)
        self.string_bytes += size
        if size < 0 or self.string_bytes > MAX_STRING_BYTES:
            raise CheckpointError(f"The pickle contains more than {MAX_STRING_BYTES:,} bytes of strings.")
        return self.read(size)

    def line(self, max_size: int | None = None) -> bytes:
        """Read to the end of the line."""
        limit = MAX_STRING_BYTES - self.string_bytes if max_size is None else max_size
        data = self.file.readline(limit + 1)
        self.string_bytes += len(data)
        if not data.endswith(b"\n"):
            raise ValueError("a line is too long or incomplete")
        return data[:-1]

    def text_integer(self) -> int:
        text = self.line(MAX_NUMBER_SIZE).removesuffix(b"L")
        return text == b"01" if text in (b"00", b"01") else int(text)

    def quoted_string(self) -> str:
        text = self.line()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
            raise ValueError("a string has no quotes")
        if INVALID_ESCAPE.search(text[1:-1].replace(rb"\\", b"")):
            raise ValueError("a string has an invalid escape sequence")
        data: bytes = codecs.escape_decode(text[1:-1])[0]
        return data.decode("latin-1")

    def integer(self, form: str) -> int:
        size: int = self.number(form)
        if not 0 <= size <= MAX_NUMBER_SIZE:
            raise ValueError(f"an integer has {size} bytes")
        return int.from_bytes(self.read(size), "little", signed=True)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        if len(self.stacks) >= MAX_DEPTH:
            raise CheckpointError(f"The objects in the pickle are nested more than {MAX_DEPTH:,} levels deep.")
        self.stacks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """Return the objects above the last mark."""
        items, self.stack = self.stack, self.stacks.pop()
        self.count(len(items))
        return items

    def pop_tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise IndexError("the stack is empty")
        self.stack[-size:] = [tuple(self.stack[-size:])]

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        """Append to the list on top of the stack. Items of other objects are ignored."""
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def set_items(self, items: list[Any], new: bool = False) -> None:
        """Set the items of the dictionary on top of the stack, or of a new one."""
        if new:
            self.push({})
        self.update(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    def update(self, target: Any, pairs: Any) -> None:
        items = target.items if isinstance(target, Instance) else target
        if not isinstance(items, dict):
            raise TypeError("an item is set in an object that is not a dictionary")
        for key, value in pairs:
            # Other keys could be nested too deeply for hash(), or chosen to collide.
            if isinstance(key, str | bytes | float) or (isinstance(key, int) and -MAX_KEY < key < MAX_KEY):
                items[key] = value

    def push_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("the name of a function is not a string")
        if len(module) + len(name) > MAX_NAME_LENGTH:
            raise ValueError("the name of a function is too long")
        full_name = f"{module}.{name}"
        self.push(self.globals.setdefault(full_name, Global(full_name)))

    def call(self, function: Any, args: Any) -> Any:
        if not isinstance(args, tuple):
            raise TypeError("arguments are not a tuple")
        name = function.name if isinstance(function, Global) else ""
        if name == "collections.OrderedDict":
            return self.ordered_dict(args)
        if name in SET_TYPES and len(args) == 1 and isinstance(args[0], list):
            return args[0]
        if name in self.functions:
            return self.functions[name](args)
        return Instance(function, args)

    def ordered_dict(self, args: tuple[Any, ...]) -> dict[Any, Any]:
        """Return the dictionary of a list of pairs, as Python 2 writes an ``OrderedDict``."""
        pairs = args[0] if args else []
        if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise TypeError("an OrderedDict is not a list of pairs")
        self.count(2 * len(pairs))
        target: dict[Any, Any] = {}
        self.update(target, pairs)
        return target

    def reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], args)

    def new_object(self, keywords: bool = False) -> None:
        if keywords:
            self.stack.pop()
        args = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], args)

    def old_object(self) -> None:
        function, *args = self.pop_mark()
        self.push(self.call(function, tuple(args)))

    def old_instance(self) -> None:
        self.push_global(self.line().decode(), self.line().decode())
        function = self.stack.pop()
        self.push(self.call(function, tuple(self.pop_mark())))

    def build(self) -> None:
        """Set the attributes of an object. Attributes of arrays and dictionaries are ignored."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Instance):
            self.stack[-1].state = state

    def persistent(self, identifier: Any) -> None:
        if self.load_persistent is None:
            raise ValueError("it refers to an object outside the pickle")
        self.push(self.load_persistent(identifier))


_OPERATIONS: dict[bytes, Callable[[_Interpreter], Any]] = {
    b"\x80": lambda self: self.read(1),  # PROTO
    b"\x95": lambda self: self.read(8),  # FRAME
    b"(": _Interpreter.mark,
    b"0": _Interpreter.pop,
    b"1": _Interpreter.pop_mark,
    b"2": lambda self: self.push(self.stack[-1]),  # DUP
    b"p": lambda self: self.put(int(self.line(MAX_NUMBER_SIZE))),
    b"q": lambda self: self.put(self.read(1)[0]),
    b"r": lambda self: self.put(self.number("<I")),
    b"\x94": lambda self: self.put(len(self.memo)),
    b"g": lambda self: self.push(self.memo[int(self.line(MAX_NUMBER_SIZE))]),
    b"h": lambda self: self.push(self.memo[self.read(1)[0]]),
    b"j": lambda self: self.push(self.memo[self.number("<I")]),
    b"N": lambda self: self.push(None),
    b"\x88": lambda self: self.push(True),
    b"\x89": lambda self: self.push(False),
    b"I": lambda self: self.push(self.text_integer()),
    b"L": lambda self: self.push(self.text_integer()),
    b"J": lambda self: self.push(self.number("<i")),
    b"K": lambda self: self.push(self.read(1)[0]),
    b"M": lambda self: self.push(self.number("<H")),
    b"\x8a": lambda self: self.push(self.integer("<B")),
    b"\x8b": lambda self: self.push(self.integer("<i")),
    b"F": lambda self: self.push(float(self.line(MAX_NUMBER_SIZE))),
    b"G": lambda self: self.push(self.number(">d")),
    b"S": lambda self: self.push(self.quoted_string()),
    b"T": lambda self: self.push(self.string("<i").decode("latin-1")),  # a string of Python 2
    b"U": lambda self: self.push(self.string("<B").decode("latin-1")),
    b"B": lambda self: self.push(self.string("<I")),
    b"C": lambda self: self.push(self.string("<B")),
    b"\x8e": lambda self: self.push(self.string("<Q")),
    b"\x96": lambda self: self.push(self.string("<Q")),
    b"V": lambda self: self.push(self.line().decode("raw-unicode-escape")),
    b"X": lambda self: self.push(self.string("<I").decode("utf-8", "surrogatepass")),
    b"\x8c": lambda self: self.push(self.string("<B").decode("utf-8", "surrogatepass")),
    b"\x8d": lambda self: self.push(self.string("<Q").decode("utf-8", "surrogatepass")),
    b")": lambda self: self.push(()),
    b"t": lambda self: self.push(tuple(self.pop_mark())),
    b"\x85": lambda self: self.pop_tuple(1),
    b"\x86": lambda self: self.pop_tuple(2),
    b"\x87": lambda self: self.pop_tuple(3),
    b"]": lambda self: self.push([]),
    b"l": lambda self: self.push(self.pop_mark()),
    b"a": lambda self: self.extend([self.stack.pop()]),
    b"e": lambda self: self.extend(self.pop_mark()),
    b"\x8f": lambda self: self.push([]),  # a set
    b"\x90": lambda self: self.extend(self.pop_mark()),
    b"\x91": lambda self: self.push(self.pop_mark()),  # a frozenset
    b"}": lambda self: self.push({}),
    b"d": lambda self: self.set_items(self.pop_mark(), new=True),
    b"s": lambda self: self.set_items([self.stack.pop(-2), self.stack.pop()]),
    b"u": lambda self: self.set_items(self.pop_mark()),
    b"c": lambda self: self.push_global(self.line().decode(), self.line().decode()),
    b"\x93": lambda self: self.push_global(self.stack.pop(-2), self.stack.pop()),
    b"R": _Interpreter.reduce,
    b"b": _Interpreter.build,
    b"\x81": _Interpreter.new_object,
    b"\x92": lambda self: self.new_object(keywords=True),
    b"o": _Interpreter.old_object,
    b"i": _Interpreter.old_instance,
    b"P": lambda self: self.persistent(self.line().decode()),
    b"Q": lambda self: self.persistent(self.stack.pop()),
}
"""Opcode -> operation. ``pickletools`` has their names."""
