"""Pickles as torch writes them, read without running anything: a machine with a stack, for the opcodes that data needs.

`pickle.Unpickler` calls what the file names, and takes memory that the file asks for, before it looks. Here a name is
looked up in a short list of constructors of data; every other name, and every other opcode, is an error.
The opcodes: :mod:`pickletools`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

OPCODES = 1 << 21  # a tensor has some 25


@dataclass(eq=False)
class Module:
    """An object of a class of TorchScript: its attributes."""

    of: str
    state: dict[str, Any] = field(default_factory=dict, repr=False)


class Storage(NamedTuple):
    """Where the elements of tensors lie."""

    dtype: str
    key: str
    size: int


class Strided(NamedTuple):
    """A tensor: a view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


class _Name(NamedTuple):
    """A constructor that the pickle names."""

    name: str


class Refused(ValueError):
    """What a pickle of data does not do."""


STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
}  # fmt: skip


def _short(value: Any) -> str:
    """A few words for a value; a nested one may share its parts, and would take forever to print."""
    return value[:80] if isinstance(value, str) else value.name if type(value) is _Name else type(value).__name__


def _numbers(value: Any) -> tuple[int, ...]:
    if (
        type(value) not in (tuple, list)
        or len(value) > 32
        or not all(type(n) is int and 0 <= n < 1 << 48 for n in value)
    ):
        raise Refused(f"a shape is a {_short(value)}, expected sizes from 0 on")
    return tuple(value)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> Strided:
    """``torch._utils._rebuild_tensor_v2``, and v3, which has a dtype last."""
    if type(storage) is not Storage or type(offset) is not int:
        raise Refused(f"a tensor is built of {_short(storage)}")
    dtype = more[-1].name.removeprefix("torch.") if more and type(more[-1]) is _Name else storage.dtype
    return Strided(storage, offset, _numbers(shape), _numbers(strides), dtype)


# None copies what it is given: a short pickle may name a long list many times.
CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.Size": _numbers,
    "torch.jit._pickle.build_intlist": lambda items: items,
    "torch.jit._pickle.build_doublelist": lambda items: items,
    "torch.jit._pickle.build_boollist": lambda items: items,
    "torch.jit._pickle.build_tensorlist": lambda items: items,
    "torch.jit._pickle.restore_type_tag": lambda value, _: value,
    "builtins.set": lambda items=(): items,
    "__builtin__.set": lambda items=(): items,
}
DTYPES = (*STORAGES.values(), "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "complex64")


def _named(module: str, name: str) -> _Name:
    full = f"{module}.{name}"
    storage = module in ("torch", "torch.storage") and name.removesuffix("Storage") in (*STORAGES, "Untyped")
    dtype = module == "torch" and name in DTYPES
    if full in CONSTRUCTORS or storage or dtype or module.startswith("__torch__"):
        return _Name(full)
    raise Refused(f"it asks for {full[:120]}, which is code, not data")


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refused("its stack is empty")
        return self.stack.pop()

    def above(self) -> list[Any]:
        """What lies above the last mark, which goes."""
        if not self.marks:
            raise Refused("it has no mark")
        start = self.marks.pop()
        items, self.stack[start:] = self.stack[start:], []
        return items

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1] if self.stack else None
        if not isinstance(target, dict) or len(items) % 2:
            raise Refused("it sets items of something else than a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int, float, bool, type(None))):
                raise Refused(f"a key is a {type(key).__name__}")
            target[key] = value

    def reduce(self) -> Any:
        given, name = self.pop(), self.pop()
        if type(name) is not _Name or type(given) is not tuple or name.name not in CONSTRUCTORS:
            raise Refused(f"it calls a {_short(name)}")
        return CONSTRUCTORS[name.name](*given)

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1] if self.stack else None
        if isinstance(target, Module) and isinstance(state, dict):
            target.state = state  # attributes of an OrderedDict, such as _metadata, are of no use here

    def persistent(self) -> Storage:
        match self.pop():
            case ("storage", _Name(name), str(key), _, int(size), *_):
                kind = name.rpartition(".")[2].removesuffix("Storage")
                return Storage(STORAGES.get(kind, "uint8"), key, size)
            case other:
                raise Refused(f"a storage is a {_short(other)}")


MARKED: dict[str, Callable[[list[Any]], Any]] = {"TUPLE": tuple, "LIST": list}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING",
    "SHORT_BINSTRING", "SHORT_BINBYTES", "BINBYTES",
}  # fmt: skip


def load(data: bytes) -> tuple[Any, int]:
    """What a pickle holds, and how many bytes it has; Refused if it is more than data."""
    machine = _Machine()
    try:
        for count, (opcode, argument, at) in enumerate(pickletools.genops(data)):
            if count > OPCODES:
                raise Refused(f"it has more than {OPCODES} opcodes")
            if opcode.name == "STOP":
                return machine.pop(), (at or 0) + 1
            _step(machine, opcode.name, argument)
    except Refused:
        raise
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, UnicodeError) as error:
        raise Refused(f"it is malformed: {error}") from None
    raise Refused("it has no end")


def _step(machine: _Machine, name: str, argument: Any) -> None:
    stack = machine.stack
    if name in LITERALS:
        stack.append(argument)
    elif name in CONSTANTS:
        stack.append(CONSTANTS[name])
    elif name in EMPTY:
        stack.append(EMPTY[name]())
    elif name in TUPLES:
        stack.append(tuple(machine.pop() for _ in range(TUPLES[name]))[::-1])
    elif name in MARKED:
        stack.append(MARKED[name](machine.above()))
    elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
        machine.memo[len(machine.memo) if argument is None else argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(machine.memo[argument])
    else:
        _rare(machine, name, argument)


def _rare(machine: _Machine, name: str, argument: Any) -> None:
    stack = machine.stack
    match name:
        case "PROTO" | "FRAME":
            pass
        case "MARK":
            machine.marks.append(len(stack))
        case "GLOBAL":
            stack.append(_named(*argument.split(" ", 1)))
        case "STACK_GLOBAL":
            attribute, module = machine.pop(), machine.pop()
            stack.append(_named(str(module), str(attribute)))
        case "REDUCE":
            stack.append(machine.reduce())
        case "NEWOBJ":
            _, of = machine.pop(), machine.pop()
            if type(of) is not _Name or not of.name.startswith("__torch__"):
                raise Refused(f"it makes an object of {_short(of)}")
            stack.append(Module(of.name))
        case "BUILD":
            machine.build()
        case "BINPERSID":
            stack.append(machine.persistent())
        case "SETITEM":
            value, key = machine.pop(), machine.pop()
            machine.set_items([key, value])
        case "SETITEMS":
            machine.set_items(machine.above())
        case "APPEND" | "APPENDS":
            items = machine.above() if name == "APPENDS" else [machine.pop()]
            if not stack or type(stack[-1]) is not list:
                raise Refused("it appends to something else than a list")
            stack[-1].extend(items)
        case _:
            raise Refused(f"it has the opcode {name}, which data does not need")
