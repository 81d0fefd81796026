"""Modules that a process imports now, and whose code runs when the process needs it."""

from __future__ import annotations

import os
import sys
import threading
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


def defer(*names: str) -> None:
    """Run the code of the modules `names` at the first access to one of their names, not at their import.

    An importer that uses `from` accesses a name. After an exception of the code, the next access runs the code again.
    The function does nothing for a module that the process has already imported, or that does not exist.

    While the code of a deferred module runs, no other deferred module can begin. Therefore, this code must not import a
    module that uses a deferred module, because two threads could wait for each other.
    """
    for name in names:
        if name in sys.modules or (spec := _spec(name)) is None:
            continue
        module = module_from_spec(spec)
        module.__class__ = _DeferredModule
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def _spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except ModuleNotFoundError:  # the parent does not exist
        return None


class _DeferredModule(ModuleType):
    """A module whose code has not run."""

    def __getattr__(self, name: str) -> Any:
        if name != "__path__":  # the import system reads this attribute of each module
            with _LOADING:
                if self.__class__ is _DeferredModule and self.__name__ not in _loading:
                    self._load()
        return ModuleType.__getattribute__(self, name)

    def _load(self) -> None:
        module: Any = self
        before = dict(self.__dict__)
        try:
            _loading.add(self.__name__)  # a module that this code imports can access a name of this module
            module.__loader__.exec_module(module)
            module.__class__ = ModuleType
        except BaseException:
            for name in self.__dict__.keys() - before.keys():
                del self.__dict__[name]  # otherwise, the next access would find a name of the incomplete module
            self.__dict__.update(before)
            raise
        finally:
            _loading.discard(module.__name__)


_loading = set[str]()
_LOADING = threading.RLock()
os.register_at_fork(before=_LOADING.acquire, after_in_parent=_LOADING.release, after_in_child=_LOADING.release)
