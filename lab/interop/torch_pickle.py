"""Reads the pickle of a torch checkpoint as data.

A small stack machine over the instructions that `pickletools` decodes. It never imports, calls or
sets an attribute on anything: a global stays a name, and a "call" is a look-up in the table of
`torch_globals`. Python's own unpickler, even with `find_class` restricted, lets a file change
attributes of what it has been given and reserve memory at will.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from lab.errors import CorruptFileError, UnsafeFileError, require
from lab.interop import torch_globals
from lab.interop.torch_globals import Attributes, GlobalName, NumpyArray, NumpyDtype

_MAX_INTEGER_BITS = 2048


class _Machine:
    def __init__(self, num_bytes: int):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        # Bounds repeated copying of one memoised object: work stays linear in the file's size.
        self.budget = 16 * num_bytes + 4096

    def charge(self, *values: Any) -> None:
        for value in values:
            if isinstance(value, (str, bytes, list, tuple, dict)):
                self.budget -= len(value)
        require(self.budget >= 0, "the pickle expands beyond its size", CorruptFileError)

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop_expected(self, kind: type) -> Any:
        value = self.pop()
        require(type(value) is kind, f"{type(value).__name__} in place of {kind.__name__}")
        return value

    def top(self, kind: type) -> Any:
        value = self.stack[-1]
        require(isinstance(value, kind), f"{type(value).__name__} in place of {kind.__name__}")
        return value

    def push(self, value: Any) -> None:
        self.stack.append(value)


def _call(machine: _Machine) -> None:
    args = machine.pop_expected(tuple)
    name = machine.pop()
    if not isinstance(name, GlobalName) or name not in torch_globals.CALLS:
        called = name if isinstance(name, str) else type(name).__name__
        raise UnsafeFileError(f"calls {called[:200]!r}; nothing was run")
    machine.charge(*args)
    machine.push(torch_globals.CALLS[name](*args))


def _set_state(machine: _Machine) -> None:
    state, target = machine.pop(), machine.stack[-1]
    machine.charge(state)
    if isinstance(target, Attributes):
        is_plain = type(state) is dict and all(isinstance(key, str) for key in state)
        require(is_plain, "a namespace is malformed")
        target.update(state)
    elif isinstance(target, NumpyDtype):
        torch_globals.set_numpy_dtype(target, state)
    elif isinstance(target, NumpyArray):
        torch_globals.set_numpy_array(target, state)
    elif type(target) is not dict:  # an OrderedDict's state is torch's `_metadata`: of no use here
        raise UnsafeFileError(f"sets attributes of a {type(target).__name__}; nothing was run")


def _set_items(machine: _Machine, items: list[Any]) -> None:
    target = machine.top(dict)
    require(len(items) % 2 == 0, "a dictionary has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[torch_globals.require_key(key)] = value


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _set_items(machine, [key, value])


def _append(machine: _Machine, items: list[Any]) -> None:
    machine.top(list).extend(items)


def _add(machine: _Machine, items: list[Any]) -> None:
    machine.top(set).update(map(torch_globals.require_key, items))


def _tuple_of(machine: _Machine, count: int) -> None:
    items = machine.stack[-count:]
    require(len(items) == count, "the pickle's stack runs empty")
    del machine.stack[-count:]
    machine.push(tuple(items))


def _pop_or_unmark(machine: _Machine) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop()


def _global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    is_text = isinstance(name, str) and isinstance(module, str)
    require(is_text, "a global is not named by text")
    machine.push(torch_globals.admitted(f"{module}.{name}"))


def _storage(machine: _Machine) -> None:
    machine.push(torch_globals.storage_from_persistent_id(machine.pop()))


def _push_integer(machine: _Machine, value: int) -> None:
    require(value.bit_length() <= _MAX_INTEGER_BITS, "an integer is absurdly long")
    machine.push(value)


def _ignore(machine: _Machine, _: Any) -> None:
    pass


_PUSH_ARGUMENT = dict.fromkeys(
    (
        *("BININT", "BININT1", "BININT2", "BINFLOAT"),
        *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    ),
    _Machine.push,
)

_INSTRUCTIONS: Mapping[str, Callable[[_Machine, Any], object]] = {
    **_PUSH_ARGUMENT,
    "PROTO": _ignore,
    "FRAME": _ignore,
    "LONG1": _push_integer,
    "LONG4": _push_integer,
    "BYTEARRAY8": lambda machine, content: machine.push(bytes(content)),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "APPEND": lambda machine, _: _append(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.pop_mark()),
    "ADDITEMS": lambda machine, _: _add(machine, machine.pop_mark()),
    "SETITEM": lambda machine, _: _set_item(machine),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: _tuple_of(machine, 1),
    "TUPLE2": lambda machine, _: _tuple_of(machine, 2),
    "TUPLE3": lambda machine, _: _tuple_of(machine, 3),
    "FROZENSET": lambda machine, _: machine.push(
        frozenset(map(torch_globals.require_key, machine.pop_mark()))
    ),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: _pop_or_unmark(machine),
    "POP_MARK": lambda machine, _: machine.pop_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "BINPUT": lambda machine, index: machine.memo.__setitem__(index, machine.stack[-1]),
    "LONG_BINPUT": lambda machine, index: machine.memo.__setitem__(index, machine.stack[-1]),
    "MEMOIZE": lambda machine, _: machine.memo.__setitem__(len(machine.memo), machine.stack[-1]),
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "GLOBAL": lambda machine, name: machine.push(torch_globals.admitted(name.replace(" ", ".", 1))),
    "STACK_GLOBAL": lambda machine, _: _global(machine),
    "REDUCE": lambda machine, _: _call(machine),
    "NEWOBJ": lambda machine, _: _call(machine),
    "BUILD": lambda machine, _: _set_state(machine),
    "BINPERSID": lambda machine, _: _storage(machine),
}


def _run(data: bytes) -> Any:
    machine = _Machine(len(data))
    for instruction, argument, _ in pickletools.genops(data):
        if instruction.name == "STOP":
            return machine.pop()
        if instruction.name == "INST":  # names a global, then makes an object of it
            torch_globals.admitted(str(argument).replace(" ", ".", 1))
        if instruction.name not in _INSTRUCTIONS:
            raise UnsafeFileError(
                f"uses the pickle instruction {instruction.name}, which no torch checkpoint needs; "
                "nothing was run"
            )
        _INSTRUCTIONS[instruction.name](machine, argument)
    raise CorruptFileError("the pickle does not end")


def read_plain_pickle(data: bytes) -> Any:
    """Reads the pickle of a torch checkpoint (protocols 2 to 5) into plain data.

    Returns: nested dict, list, tuple, set and scalars; tensors as StoredTensor, numpy arrays as
      NumpyArray, `argparse.Namespace` as a dict of its attributes, dtypes and devices as text.
    Raises: UnsafeFileError where the pickle names, calls or changes anything else;
      CorruptFileError where it is malformed.
    """
    try:
        return _run(data)
    except (UnsafeFileError, CorruptFileError):
        raise
    # `require` raises ValueError, an empty stack or unknown memo LookupError
    except (ValueError, TypeError, LookupError, ArithmeticError, MemoryError) as error:
        raise CorruptFileError(f"malformed pickle: {str(error)[:200]}") from error
