"""Modules that a process imports now, and whose code runs when the process needs it."""

from __future__ import annotations

import os
import sys
import threading
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


def defer(*names: str) -> None:
    """Run the code of the modules `names` at the first access to one of their names, not at their import.

    An importer that uses `from` accesses a name. If certmond cannot read the file of the module, the access raises
    ImportError. After any exception, the next access runs the code again. The function does nothing for a module that
    the process has already imported, or that does not exist.
    """
    for name in names:
        if name in sys.modules or (spec := find_spec(name)) is None:
            continue
        module = module_from_spec(spec)
        module.__class__ = _DeferredModule
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


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
        _loading.add(self.__name__)  # a module that this code imports can access a name of this module
        try:
            module.__loader__.exec_module(module)
        except OSError as error:  # for example because no descriptor is available
            raise ImportError(f"cannot load {self.__name__} ({error.strerror})", name=self.__name__) from error
        finally:
            _loading.discard(self.__name__)
        module.__class__ = ModuleType


_loading = set[str]()
_LOADING = threading.RLock()
os.register_at_fork(before=_LOADING.acquire, after_in_parent=_LOADING.release, after_in_child=_LOADING.release)
