"""Runs the program that a pickle is, as far as dictionaries of tensors need it.

Not with the standard library's unpickler: whatever its ``find_class`` forbids, a few bytes can make it fill the memory
(an index into its memo) or compute for ever (the hash of a tuple that holds another twice, sixty deep). Here only text
is hashed, and nothing grows larger than the program.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any


def run_pickle(program: bytes, known: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any]) -> Any:
    """What the program leaves behind.

    ``known`` is all that it may name, and call if callable; ``persistent`` resolves its references. Raises ValueError,
    TypeError, LookupError or AttributeError for anything else it does.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def take(begin: int) -> list[Any]:
        """What lies on the stack from here on, off it."""
        if begin < 0:
            raise ValueError("it takes what is not there")
        taken = stack[begin:]
        del stack[begin:]
        return taken

    argument: Any
    for opcode, argument, _ in pickletools.genops(program):
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass  # genops ends with the last
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = 0 if opcode.name == "EMPTY_TUPLE" else int(opcode.name[-1])
                stack.append(tuple(take(len(stack) - size)))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(take(marks.pop())))
            case "APPEND" | "APPENDS":
                items = take(marks.pop() if opcode.name == "APPENDS" else len(stack) - 1)
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = take(marks.pop() if opcode.name == "SETITEMS" else len(stack) - 2)
                _set(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_named(known, argument.split(" ")))
            case "STACK_GLOBAL":
                stack.append(_named(known, take(len(stack) - 2)))
            case "REDUCE":
                function, arguments = take(len(stack) - 2)
                stack.append(function(*arguments))
            case "BINPERSID":
                stack.append(persistent(stack.pop()))
            case "BUILD":
                stack.pop()  # attributes, such as _metadata: how torch's modules were versioned
            case _:
                raise ValueError(f"its program has a {opcode.name}")
    return stack.pop()


def _set(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict) or not all(isinstance(key, str) for key in items[::2]):
        raise TypeError("not only tensors by name")
    target.update(zip(items[::2], items[1::2], strict=True))


def _named(known: Mapping[tuple[str, str], Any], names: list[Any]) -> Any:
    module, name = names
    if not (isinstance(module, str) and isinstance(name, str)):
        raise TypeError("it asks for what has no name")
    if (module, name) not in known:
        raise ValueError(f"it asks for {module}.{name}"[:200])
    return known[module, name]
