"""A library whose modules a process imports one by one, without the `__init__` of the library, or without a module."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

SHA2 = ("_sha2",) if sys.version_info >= (3, 12) else ("_sha256", "_sha512")
BEFORE = "import sys\nfrom certmond.library_subset import register\n"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a directory with the package `heavy`. Its module `light` needs the module `other`."""
    (package := tmp_path / "heavy").mkdir()
    (package / "__init__.py").write_text("from heavy.light import name\nwhole = True\n")
    (package / "light.py").write_text("from . import other\nname = other.name\n")
    (package / "other.py").write_text("name = 'light'\n")
    return tmp_path


def run(library: Path, code: str) -> str:
    """Return the output of a process that runs this code, and can import the library."""
    path = os.pathsep.join([str(library), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_a_module_without_the_package(library: Path) -> None:
    """A registered library imports the module and the modules that this module needs, and does not run `__init__`."""
    code = "register('heavy')\nfrom heavy.light import name\nprint(name, 'whole' in vars(sys.modules['heavy']))"
    assert run(library, BEFORE + code) == "light False"


def test_a_missing_name_completes_the_package(library: Path) -> None:
    """The first access to a name that is not a module runs `__init__`, with the modules that are already imported."""
    code = "register('heavy')\nimport heavy.light as first\nimport heavy\nprint(heavy.whole, heavy.light is first)"
    assert run(library, BEFORE + code) == "True True"


def test_names_of_modules(library: Path) -> None:
    """A registered library has the names of the given modules, and does not run `__init__` for them."""
    code = (
        "register('heavy', 'heavy.light')\nfrom heavy import name\nimport heavy\n"
        "print(name, 'whole' in vars(heavy), heavy.whole, heavy.name)"
    )
    assert run(library, BEFORE + code) == "light False True light"


def test_a_package_that_replaces_its_module(library: Path) -> None:
    """If `__init__` replaces the module in `sys.modules`, all later imports get the replacement."""
    (outer := library / "outer/changing").mkdir(parents=True)
    (library / "outer/__init__.py").write_text("")
    (outer / "__init__.py").write_text(
        "import sys, types\nreplacement = types.ModuleType(__name__)\nreplacement.whole = True\n"
        "sys.modules[__name__] = replacement\n"
    )
    code = (
        "register('outer.changing')\nimport outer.changing\nassert outer.changing.whole\n"
        "from outer import changing\nprint(changing is sys.modules['outer.changing'] is outer.changing)"
    )
    assert run(library, BEFORE + code) == "True"


def test_a_failed_import_can_be_repeated(library: Path) -> None:
    """If `__init__` raises an exception, the next access to a missing name runs `__init__` again."""
    (library / "heavy/__init__.py").write_text(
        "import os\nif 'FAIL' in os.environ:\n    raise MemoryError\nwhole = True\n"
    )
    code = (
        "import os\nregister('heavy')\nimport heavy\nos.environ['FAIL'] = '1'\n"
        "try:\n    heavy.whole\nexcept MemoryError:\n    del os.environ['FAIL']\nprint(heavy.whole)"
    )
    assert run(library, BEFORE + code) == "True"


def test_an_unknown_name(library: Path) -> None:
    """An unknown name of a registered library raises AttributeError, as without the registration."""
    code = "register('heavy')\nimport heavy\nprint(hasattr(heavy, 'absent'), hasattr(heavy, 'absent'))"
    assert run(library, BEFORE + code) == "False False"


def test_a_package_inside_a_package(library: Path) -> None:
    """The registration of a package inside another one runs only the `__init__` of the outer package."""
    (inner := library / "outer/heavy").mkdir(parents=True)
    (library / "outer/__init__.py").write_text("")
    for module in (library / "heavy").glob("*.py"):
        (inner / module.name).write_text(module.read_text().replace("from heavy", "from outer.heavy"))
    code = (
        "register('outer.heavy')\nimport outer.heavy\nfrom outer.heavy.light import name\n"
        "print(name, 'whole' in vars(outer.heavy), outer.heavy.whole, outer.heavy is sys.modules['outer.heavy'])"
    )
    assert run(library, BEFORE + code) == "light False True True"


def test_an_imported_library_stays(library: Path) -> None:
    """The registration does not replace a library that the process has already imported."""
    code = "import heavy\nregister('heavy')\nprint(sys.modules['heavy'] is heavy, heavy.whole)"
    assert run(library, BEFORE + code) == "True True"


def test_a_library_that_is_not_installed(library: Path) -> None:
    """The registration of a missing library does nothing. Its import then raises ImportError as usual."""
    assert run(library, BEFORE + "register('absent')\nprint('absent' in sys.modules)") == "False"


IMPORTER = "try:\n    import heavy.other as used\nexcept ImportError:\n    import json as used\nprint(used.__name__)"


@pytest.mark.parametrize(
    ("before", "used"),
    [
        ("exclude('heavy.other', 'json', 'heavy.light')", "json"),
        ("exclude('heavy.other', 'json', 'absent')", "heavy.other"),
        ("import heavy.other\nexclude('heavy.other', 'json')", "heavy.other"),
    ],
    ids=["excluded", "a replacement is missing", "already imported"],
)
def test_a_module_is_excluded_if_its_replacements_exist(library: Path, before: str, used: str) -> None:
    """The importer of an excluded module uses its replacement. Without a replacement, the module is not excluded."""
    (library / "heavy" / "__init__.py").write_text("")
    assert run(library, f"from certmond.library_subset import exclude\n{before}\n{IMPORTER}") == used


def test_hash_functions_without_openssl(library: Path) -> None:
    """After an import of certmond.pki, hashlib has every algorithm that it has with OpenSSL, with equal results, and
    OpenSSL's libcrypto is not loaded.
    """
    code = (
        "import hashlib, hmac, sys\n"
        "print({each: hashlib.new(each, b'abc').digest() for each in sorted(hashlib.algorithms_guaranteed)"
        " if 'shake' not in each}, hmac.digest(b'k', b'abc', 'sha256'), hmac.compare_digest(b'a', b'a'),"
        " hashlib.sha256(b'abc', usedforsecurity=False).hexdigest())\n"
        "print('libcrypto' in open('/proc/self/maps').read(), file=sys.stdout)"
    )
    with_openssl, without = run(library, code), run(library, f"import certmond.pki\n{code}")
    assert with_openssl.splitlines()[0] == without.splitlines()[0]
    if not all(map(find_spec, ("_md5", "_sha1", *SHA2, "_sha3", "_blake2"))):
        pytest.skip("this Python has no hash functions without OpenSSL")
    assert (with_openssl.splitlines()[1], without.splitlines()[1]) == ("True", "False")


PATTERNS = """
import re, sys
from certmond.library_subset import defer_patterns
defer_patterns("heavy.light")
import heavy.light as light
"""


def patterns(library: Path, light: str, code: str) -> str:
    """Return the output of `code` after the import of a module `light` whose expressions are deferred."""
    (library / "heavy/__init__.py").write_text("")
    (library / "heavy/light.py").write_text(light)
    return run(library, PATTERNS + code)


def test_a_deferred_expression(library: Path) -> None:
    """A deferred expression is compiled at its first use, once, with its flags. After the import, `re.compile` is
    Python's own function.
    """
    light = "import re\nclass Parser:\n    word = re.compile('A+', re.IGNORECASE)\n"
    code = (
        "compiled = []\noriginal = re.compile\nassert original.__module__ == 're'\n"
        "re.compile = lambda *arguments: compiled.append(arguments[0]) or original(*arguments)\n"
        "word = light.Parser.word\n"
        "print(len(compiled), word.match('aab').group(), word.fullmatch('b'), word.pattern, compiled)"
    )
    assert patterns(library, light, code) == "0 aa None A+ ['A+']"


def test_expressions_of_other_modules_are_compiled(library: Path) -> None:
    """During the import of a module with deferred expressions, other modules compile theirs at once."""
    (library / "heavy/other.py").write_text("import re\nword = re.compile('a')\n")
    light = "import re\nfrom heavy.other import word\nown = re.compile('b')\n"
    assert patterns(library, light, "print(type(light.word).__name__, type(light.own) is re.Pattern)") == (
        "Pattern False"
    )


def test_a_library_in_an_archive_has_compiled_expressions(library: Path) -> None:
    """A module whose source is not a file, for example in a zip archive, compiles its expressions at the import."""
    with zipfile.ZipFile(library / "packed.zip", "w") as archive:
        archive.writestr("heavy/__init__.py", "")
        archive.writestr("heavy/light.py", "import re\nword = re.compile('a')\n")
    before = f"import sys\nsys.path.insert(0, {str(library / 'packed.zip')!r})\n"
    assert run(library, f"{before}{PATTERNS}\nprint(light.__file__, type(light.word) is re.Pattern)") == (
        f"{library}/packed.zip/heavy/light.py True"
    )


def test_a_copy_of_a_deferred_expression_is_an_expression(library: Path) -> None:
    """copy and pickle give a compiled expression with the same flags."""
    light = "import re\nword = re.compile('a', re.IGNORECASE)\n"
    code = (
        "import copy, pickle\n"
        "made = [copy.copy(light.word), copy.deepcopy(light.word), pickle.loads(pickle.dumps(light.word))]\n"
        "print([each == re.compile('a', re.IGNORECASE) for each in made])"
    )
    assert patterns(library, light, code) == "[True, True, True]"


def test_a_failed_import_restores_re_compile(library: Path) -> None:
    """If the import of such a module raises an exception, `re.compile` is Python's own function again."""
    before = PATTERNS.replace("import heavy.light as light", "compiled = re.compile")
    code = "\ntry:\n    import heavy.light\nexcept ZeroDivisionError:\n    print(re.compile is compiled)"
    (library / "heavy/__init__.py").write_text("")
    (library / "heavy/light.py").write_text("1 / 0\n")
    assert run(library, before + code) == "True"


def test_an_imported_module_keeps_its_expressions(library: Path) -> None:
    """A module that the process has already imported keeps its compiled expressions."""
    (library / "heavy/__init__.py").write_text("")
    (library / "heavy/light.py").write_text("import re\nword = re.compile('a')\n")
    code = f"import heavy.light\n{PATTERNS}\nprint(type(light.word) is re.Pattern)"
    assert run(library, code) == "True"


def test_the_daemon_defers_expressions_of_its_libraries(library: Path) -> None:
    """The modules of the daemon do not compile the expressions for RFC 4514 names and for YAML without libyaml. Both
    parsers work nevertheless.
    """
    code = (
        "import re, certmond.daemon.loop, certmond.config.parser, yaml\nfrom cryptography import x509\n"
        "from cryptography.x509 import name\n"
        "deferred = [name._RFC4514NameParser._STRING_RE, yaml.reader.Reader.NON_PRINTABLE]\n"
        "print(sum(isinstance(each, re.Pattern) for each in deferred))\n"
        "print(x509.Name.from_rfc4514_string(r'CN=a\\,b+2.5.4.10=#61').rdns[0].rfc4514_string())\n"
        "try:\n    yaml.load('a: \\x01', Loader=yaml.SafeLoader)\nexcept yaml.reader.ReaderError as error:\n"
        "    print(error.reason)"
    )
    assert run(library, code).splitlines() == ["0", "CN=a\\,b+O=a", "special characters are not allowed"]
