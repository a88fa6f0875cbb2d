"""Functions of the user named by text, ``package.module:function``."""

import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def is_reference(text: object) -> bool:
    """Whether a text has the form ``package.module:function``."""
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text) is not None


def reference_to(function: Callable[..., Any]) -> str:
    """Returns the text that names a function.

    Raises: ValueError for a function that another process would not find by it.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    text = f"{module}:{name}"
    found = getattr(sys.modules.get(str(module)), name, None)
    if module == "__main__" or not is_reference(text) or found is not function:
        raise ValueError(f"{function!r} is {text}, wanted a function at the top of a module that can be imported")
    return text


def resolve(text: str) -> Callable[..., Any]:
    """Returns the function that a text names; its module is imported, from the working directory too.

    Raises: ValueError with the reason.
    """
    module_name, _, name = text.partition(":")
    sys.path.insert(0, os.getcwd())  # a console script does not look into the working directory by itself
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever the module itself raises
        raise ValueError(f"cannot import {module_name!r} of {text!r}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{name!r} in {module_name!r} is {type(function).__name__}, wanted a function")
    return function


def keywords_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the arguments that a function takes by keyword, with their defaults."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.kind in kinds}


def call(text: str, num_classes: int | None, options: Mapping[str, Any]) -> Any:
    """Returns what the function returns, called with the options, and ``num_classes`` if it takes that."""
    function = resolve(text)
    classes = {"num_classes": num_classes} if "num_classes" in keywords_of(function) else {}
    return function(**classes, **options)
