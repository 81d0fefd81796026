"""A module that a process imports, and whose code runs at the first access to one of its names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_library_subset import run

DEFER = "import sys\nfrom certmond.deferred_module import defer\n"
COUNTED = "import builtins\nbuiltins.runs = getattr(builtins, 'runs', 0) + 1\n"


def test_a_deferred_module_runs_at_the_first_access(tmp_path: Path) -> None:
    """The import of a deferred module does not run its code. The first access to a name runs the code, once."""
    (tmp_path / "late.py").write_text(f"{COUNTED}name = 'late'\n")
    code = (
        "import builtins\ndefer('late')\nimport late\nbefore = hasattr(builtins, 'runs')\n"
        "print(before, late.name, late.name, runs, type(late).__name__, late is sys.modules['late'])"
    )
    assert run(tmp_path, DEFER + code) == "False late late 1 module True"


def test_a_deferred_module_with_from(tmp_path: Path) -> None:
    """`from` runs the code of a deferred module, also with `*`, and of a module inside a package."""
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer/__init__.py").write_text("")
    (tmp_path / "outer/late.py").write_text("name = 'late'\n")
    (tmp_path / "other.py").write_text("other = 'other'\n")
    code = (
        "defer('outer.late', 'other')\nimport outer.late, other\nprint('name' in vars(outer.late))\n"
        "from outer.late import name\nfrom other import *\nprint(name, other)"
    )
    assert run(tmp_path, DEFER + code).split() == ["False", "late", "other"]


def test_a_deferred_module_lacks_a_name(tmp_path: Path) -> None:
    """An unknown name of a deferred module raises AttributeError. A module with `__getattr__` answers by itself."""
    (tmp_path / "late.py").write_text(
        "def __getattr__(name):\n    if name == 'made':\n        return 'made'\n    raise AttributeError\n"
    )
    code = (
        "defer('late', 'shlex')\nimport late, shlex\n"
        "print(hasattr(shlex, 'absent'), shlex.quote(''), late.made, hasattr(late, 'absent'))"
    )
    assert run(tmp_path, DEFER + code) == "False '' made False"


def test_a_deferred_module_is_not_a_package(tmp_path: Path) -> None:
    """The import of a module inside a deferred module fails with ModuleNotFoundError, and does not run the module."""
    (tmp_path / "late.py").write_text("name = 'late'\n")
    code = (
        "defer('late')\ntry:\n    import late.absent\nexcept ModuleNotFoundError as error:\n    print(error.name)\n"
        "print('name' in vars(sys.modules['late']))"
    )
    assert run(tmp_path, DEFER + code).split() == ["late.absent", "False"]


@pytest.mark.parametrize("failure", ["raise MemoryError", "open('/absent')"])
def test_a_deferred_module_that_fails_runs_again(tmp_path: Path, failure: str) -> None:
    """If the code of a deferred module raises an exception, the access raises it, and no access finds a name that the
    code has defined before. The next access runs the code again.
    """
    (tmp_path / "late.py").write_text(
        f"import os\nname = 'early'\nif 'FAIL' in os.environ:\n    {failure}\nname = 'late'\n"
    )
    code = (
        "import os\ndefer('late')\nimport late\nos.environ['FAIL'] = '1'\nfor _ in range(2):\n    try:\n"
        "        late.name\n    except (MemoryError, OSError) as error:\n        print(type(error).__name__)\n"
        "del os.environ['FAIL']\nprint(late.name)"
    )
    kind = "MemoryError" if failure.startswith("raise") else "FileNotFoundError"
    assert run(tmp_path, DEFER + code).split() == [kind, kind, "late"]


def test_deferred_modules_that_import_each_other(tmp_path: Path) -> None:
    """Two deferred modules can import each other, as two other modules can."""
    (tmp_path / "first.py").write_text("import second\nother = second.name\nname = 'first'\n")
    (tmp_path / "second.py").write_text("import first\nname = 'second'\nmissing = hasattr(first, 'name')\n")
    code = "defer('first', 'second')\nimport first, second\nprint(first.other, second.missing, first.name)"
    assert run(tmp_path, DEFER + code) == "second False first"


def test_two_threads_need_a_deferred_module(tmp_path: Path) -> None:
    """While one thread runs the code of a deferred module, another thread that needs a missing name waits for it."""
    (tmp_path / "late.py").write_text(f"{COUNTED}builtins.begun.set()\nbuiltins.go.wait()\nname = 'late'\n")
    code = """
import builtins, os, threading
from concurrent.futures import ThreadPoolExecutor
builtins.begun, builtins.go = threading.Event(), threading.Event()
defer("late")
import late
with ThreadPoolExecutor() as pool:
    first = pool.submit(lambda: late.name)
    begun.wait()
    second = pool.submit(lambda: (go.set(), late.name)[1])
    print(first.result(), second.result(), runs)
"""
    assert run(tmp_path, DEFER + code) == "late late 1"


def test_a_fork_waits_for_a_deferred_module(tmp_path: Path) -> None:
    """A process that forks while another thread runs the code of a deferred module has a child that can use it."""
    (tmp_path / "late.py").write_text("import builtins\nbuiltins.begun.set()\nbuiltins.go.wait()\nname = 'late'\n")
    code = """
import builtins, os, threading
builtins.begun, builtins.go = threading.Event(), threading.Event()
defer("late")
import late
thread = threading.Thread(target=lambda: late.name)
thread.start()
begun.wait()
os.register_at_fork(before=go.set)  # runs before the wait for the thread
child = os.fork()
if not child:
    os._exit(late.name != "late")
thread.join()
print(os.waitpid(child, 0)[1])
"""
    assert run(tmp_path, f"import warnings\nwarnings.simplefilter('ignore')\n{DEFER}{code}") == "0"


def test_an_imported_or_missing_module_is_not_deferred(tmp_path: Path) -> None:
    """A module that the process has imported stays. The import of a missing module raises ImportError as usual."""
    code = (
        "import shlex\ndefer('shlex', 'absent', 'absent.child')\n"
        "print(sys.modules['shlex'] is shlex, sys.modules.keys() & {'absent', 'absent.child'})"
    )
    assert run(tmp_path, DEFER + code) == "True set()"
