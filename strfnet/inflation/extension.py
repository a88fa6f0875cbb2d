"""Behaviour added to one module: a mixin in front of its class. This is the only file that assigns ``__class__``."""

import functools
import inspect
from typing import Any, ClassVar

from torch import nn

Kind = type[nn.Module]


class Extension(nn.Module):
    """Base of the mixins that `extend` puts in front of the class of a module.

    The module keeps its keys, weights, hooks and type. A mixin declares the attributes that it needs as annotations;
    `extend` sets them, and `retract` deletes them. The extended class is created on demand. Copies and pickles name
    its parts, and take the state that the module's class gives, by ``__getstate__`` or ``__reduce__``.
    """

    _own_class: ClassVar[Kind]
    _mixins: ClassVar[tuple[Kind, ...]] = ()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        reduced: Any = super().__reduce_ex__(2)
        make, arguments, *state = reduced
        arguments = tuple(self._own_class if value is type(self) else value for value in arguments)
        return _rebuilt, (make, arguments, self._mixins), *state


def extend(module: nn.Module, mixin: type[Extension], **attributes: Any) -> None:
    """Puts ``mixin`` in front of the class of ``module`` and sets ``attributes``, in place."""
    _set_class(module, own_class(module), (*mixins_of(module), mixin))
    for name, value in attributes.items():
        setattr(module, name, value)


def retract(module: nn.Module, mixin: type[Extension]) -> None:
    """Removes ``mixin`` and its attributes from ``module``, in place; other mixins stay."""
    for kind in mixin.__mro__[: mixin.__mro__.index(Extension)]:
        for name in inspect.get_annotations(kind):
            delattr(module, name)
    _set_class(module, own_class(module), tuple(kind for kind in mixins_of(module) if kind is not mixin))


def own_class(module: nn.Module) -> Kind:
    """The class of ``module`` without mixins."""
    return getattr(type(module), "_own_class", type(module))


def set_own_class(module: nn.Module, kind: Kind) -> None:
    """Gives ``module`` another class, in place; mixins stay in front of it."""
    _set_class(module, kind, mixins_of(module))


def mixins_of(module: nn.Module) -> tuple[Kind, ...]:
    """The mixins in front of the class of ``module``, the last added last."""
    return getattr(type(module), "_mixins", ())


def _set_class(module: Any, own: Any, mixins: tuple[Kind, ...]) -> None:
    module.__class__ = _extended_class(own, mixins)


@functools.cache
def _extended_class(own: Any, mixins: tuple[Any, ...]) -> Any:
    if not mixins:
        return own
    *inner, outermost = mixins
    base = _extended_class(own, tuple(inner))
    names = {"__doc__": own.__doc__, "__module__": outermost.__module__, "_own_class": own, "_mixins": mixins}
    prefix = vars(outermost).get("_prefix", outermost.__name__)  # what precedes the name of the class
    return type(f"{prefix}{base.__name__}", (outermost, base), names)


def _rebuilt(make: Any, arguments: tuple[Any, ...], mixins: tuple[Kind, ...]) -> nn.Module:
    module = make(*arguments)
    _set_class(module, own_class(module), mixins)
    return module
