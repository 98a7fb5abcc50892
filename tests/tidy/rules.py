"""Our rules for source text, as functions from a module to the places that break them.

Each yields `line: what is wrong`. Pure, so that the tests can also show them a module that breaks
the rule: a rule that cannot fail would be worse than none.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Final

MODULE_LINES_MAX: Final = 600
FUNCTION_LINES_MAX: Final = 70

# Pure code may not touch the world through builtins either; imports are import-linter's business.
_IMPURE_BUILTINS: Final = {"open", "print", "input", "eval", "exec", "__import__"}
_CATCH_ALL: Final = {"Exception", "BaseException"}


def too_long(module: ast.Module, line_count: int) -> Iterator[str]:
    """Modules over 600 lines and functions over 70."""
    if line_count > MODULE_LINES_MAX:
        yield f"1: {line_count} lines in the module, at most {MODULE_LINES_MAX}"
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield f"{node.lineno}: {length} lines in {node.name}, at most {FUNCTION_LINES_MAX}"


def no_docstring(module: ast.Module) -> Iterator[str]:
    """Modules that do not say what they own."""
    if module.body and not ast.get_docstring(module):
        yield "1: no module docstring"


def catches_everything(module: ast.Module) -> Iterator[str]:
    """`except Exception`, and any catch-all that does not end by raising again."""
    for node in ast.walk(module):
        if isinstance(node, ast.ExceptHandler):
            caught = set(_caught(node))
            if "Exception" in caught:
                yield f"{node.lineno}: except Exception"
            elif (not caught or "BaseException" in caught) and not _raises_again(node):
                yield f"{node.lineno}: a catch-all that does not raise again"
        elif isinstance(node, ast.Call) and _suppressed(node) & _CATCH_ALL:
            yield f"{node.lineno}: suppresses everything"


def swallows_cancellation(module: ast.Module) -> Iterator[str]:
    """Handlers of CancelledError that only go on."""
    for node in ast.walk(module):
        if isinstance(node, ast.ExceptHandler):
            cancelled = any(name.endswith("CancelledError") for name in _caught(node))
            if cancelled and all(isinstance(s, ast.Pass | ast.Continue) for s in node.body):
                yield f"{node.lineno}: cancellation is swallowed"


def sleeps(module: ast.Module) -> Iterator[str]:
    """`time.sleep`, under whatever name it was imported."""
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and _name(node) == "time.sleep":
            yield f"{node.lineno}: time.sleep"
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            imported = [alias.name for alias in node.names]
            yield from (f"{node.lineno}: time.sleep imported" for n in imported if n == "sleep")


def touches_the_world(module: ast.Module) -> Iterator[str]:
    """Coroutines and impure builtins, in code that must be pure."""
    for node in ast.walk(module):
        if isinstance(node, ast.AsyncFunctionDef):
            yield f"{node.lineno}: {node.name} is a coroutine"
        elif isinstance(node, ast.Call) and _name(node.func) in _IMPURE_BUILTINS:
            yield f"{node.lineno}: calls {_name(node.func)}"


def contains(text: str, words: Iterable[str]) -> Iterator[str]:
    """Lines of any text file that contain one of the words."""
    for number, line in enumerate(text.splitlines(), start=1):
        yield from (f"{number}: {word}" for word in words if word in line)


def _caught(handler: ast.ExceptHandler) -> Iterator[str]:
    if isinstance(handler.type, ast.Tuple):
        yield from (_name(element) for element in handler.type.elts)
    elif handler.type is not None:
        yield _name(handler.type)


def _suppressed(call: ast.Call) -> set[str]:
    """What a `suppress(...)` names, nothing for any other call."""
    is_suppress = _name(call.func) in {"suppress", "contextlib.suppress"}
    return {_name(argument) for argument in call.args} if is_suppress else set()


def _raises_again(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[-1], ast.Raise)


def _name(node: ast.AST) -> str:
    """Dotted name of an expression, empty when it is not one."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return ""
