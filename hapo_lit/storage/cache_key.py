"""The key under which a result is kept on disk: it changes with everything that the result was made from.

All caches use :func:`cache_key`: verdicts on teachers, prepared problems with their held-out marks, the base policy.

A part is described by its qualified class name and its settings, which are its attributes; parts among these are
described in the same way.  A part that has attributes besides its settings, such as counters or processes, says what
its settings are with a method ``fingerprint()``.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence, Set
from enum import Enum
from functools import cache, partial
from pathlib import Path, PurePath
from types import FunctionType, MethodType, ModuleType
from typing import Any, Generic, NamedTuple, Protocol

from hapo_lit import __version__

_PLAIN = (str, bytes, bool, int, float, complex, type(None), type(Ellipsis))
_CONTAINERS = (list, tuple, dict, set, frozenset, re.Pattern)
_CONTENTS = (Mapping, list, tuple, Set, PurePath, re.Pattern, Enum, *_PLAIN)
"""Values that are described by what they hold."""
_SILENT = (object, Generic, Protocol, Enum, *_PLAIN, *_CONTAINERS)
"""Bases that say nothing of what a class does beyond what is described of its contents."""
_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_ENDS = 2**16
"""Bytes at either end of a large file that are read for its stamp."""
_LARGE = 2**30
"""Bytes from which a file is not read as a whole: weights of a judge, of many GB."""


class CacheKey(NamedTuple):
    """A key, and why nothing may be kept under it."""

    key: str
    """32 hexadecimal digits."""
    unknown: str
    """The first thing that could not be described, such as ``Needle.pattern (a lock)``; empty = nothing, and what is
    kept under the key may be used again."""


def cache_key(parts: Mapping[str, Any], libraries: Sequence[str] = ()) -> CacheKey:
    """The key of what these parts make.

    It covers their classes and settings, the source files of the classes and of the modules beside them that these
    import, the versions of this package, of Python, and of ``libraries``.

    Args:
        parts: objects, or settings of parts with their class under ``_target_``.
        libraries: distributions whose versions decide the result; those that are not installed count as such.
    """
    found = _Description()
    text = found.of(parts, "")
    files = sorted({(file.name, _hash(file.read_bytes())) for file in found.files | _imported(found.files)})
    versions = [(name, _version(name)) for name in sorted(libraries)]
    return CacheKey(_hash(repr((text, files, __version__, versions, sys.version_info[:2]))), found.unknown)


def identity(parts: Mapping[str, Any]) -> str:
    """A hash of the same parts that an upgrade of this package or of a library leaves as it is.

    What cannot be described counts by its class alone.
    """
    found = _Description()
    text = found.of(parts, "")
    own = {file for file in found.files if _is_loose(file)}
    files = sorted({(file.name, _hash(file.read_bytes())) for file in own | _imported(own)})
    return _hash(repr((text, files)))


def content_hash(file: Path) -> str:
    """A hash of all that is in a file; its name, its place and its time do not count."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:32]


def file_stamp(file: Path) -> tuple[object, ...]:
    """What distinguishes a file that a setting names: its content, or, where that is larger than :data:`_LARGE`, size,
    time of change, and a hash of both ends."""
    facts = file.stat()
    if facts.st_size <= _LARGE:
        return (content_hash(file),)
    with file.open("rb") as content:
        head = content.read(_ENDS)
        content.seek(max(0, facts.st_size - _ENDS))
        ends = head + content.read()
    return facts.st_size, facts.st_mtime_ns, _hash(ends)


class _Description:
    """Collects the files of the classes that it meets, and the first thing that it cannot describe."""

    def __init__(self) -> None:
        self.files: set[Path] = set()
        self.unknown = ""
        self._open: set[int] = set()

    def of(self, value: Any, where: str) -> str:
        """A text that is equal for equal settings, in every process."""
        if type(value) in _PLAIN:
            return repr(value) + self._named_file(value)
        if id(value) in self._open:
            return "<part of itself>"
        self._open.add(id(value))
        try:
            return self._container(value, where) or self._code(value, where) or self._part(value, where)
        finally:
            self._open.discard(id(value))

    def _named_file(self, value: Any) -> str:
        """What distinguishes the file that a setting names, or the files in the folder that it names, such as that of a
        model."""
        if not isinstance(value, str) or len(value) > 1000 or not re.search(r"[./\\]", value) or "\0" in value:
            return ""
        try:
            file = Path(value).expanduser()
            if file.is_dir() and re.search(r"\w", value):  # a mere "/" or "." is a text
                stamps = [(inside.name, *file_stamp(inside)) for inside in sorted(file.iterdir()) if inside.is_file()]
                return repr(stamps) if stamps else ""
            return repr(file_stamp(file)) if file.is_file() else ""
        except (OSError, RuntimeError):  # no such user, or a name that no file can have
            return ""

    def _container(self, value: Any, where: str) -> str:
        if type(value).__module__ == "numpy" and hasattr(value, "dtype") and not value.dtype.hasobject:
            return f"numpy {value.dtype.str} {value.shape} {_hash(value.tobytes())}"
        if not isinstance(value, _CONTENTS):
            return ""
        name = "" if type(value) in _CONTAINERS else self._class(type(value), where)
        if isinstance(value, Mapping):
            target = value.get("_target_")
            if isinstance(target, str):
                self._target(target, where)
            items = [(self.of(key, where), self.of(item, f"{where}.{key}")) for key, item in value.items()]
            return f"{name}{{{', '.join(': '.join(pair) for pair in items)}}}"
        if isinstance(value, list | tuple):
            return f"{name}[{', '.join(self.of(item, f'{where}[{index}]') for index, item in enumerate(value))}]"
        if isinstance(value, Set):
            return f"{name}{{{', '.join(sorted(self.of(item, where) for item in value))}}}"
        if isinstance(value, PurePath):
            return f"path {self.of(str(value), where)}"
        if isinstance(value, re.Pattern):
            return f"pattern {value.pattern!r} {value.flags}"
        if isinstance(value, Enum):
            return f"{name}.{value.name}"
        return f"{name}({value!r})"

    def _code(self, value: Any, where: str) -> str:
        """A class, a function, a method or a module, with the values that a function has bound."""
        if isinstance(value, type):
            return f"class {self._class(value, where)}"
        if isinstance(value, ModuleType):
            self._source(value, value.__name__, where)
            return f"module {value.__name__}"
        if isinstance(value, partial):
            return f"partial {self.of([value.func, value.args, value.keywords], where)}"
        if isinstance(value, MethodType):
            return f"{value.__name__} of {self.of(value.__self__, where)}"
        if isinstance(value, FunctionType):
            self._source(value, value.__qualname__, where)
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            return f"function {value.__module__}.{value.__qualname__} {self.of(cells, where)}"
        return f"builtin {value.__module__}.{value.__qualname__}" if inspect.isbuiltin(value) else ""

    def _part(self, value: Any, where: str) -> str:
        name = self._class(type(value), where)
        own = getattr(value, "fingerprint", None)
        if callable(own):
            return f"{name} {self.of(own(), where)}"
        slots = {slot for base in type(value).__mro__ for slot in _names(base.__dict__.get("__slots__", ()))}
        settings = {slot: getattr(value, slot) for slot in sorted(slots) if hasattr(value, slot)}
        settings |= getattr(value, "__dict__", {})
        items = [f"{key}: {self.of(item, f'{where}.{key}')}" for key, item in sorted(settings.items())]
        return f"{name}({', '.join(items)})"

    def _class(self, kind: type, where: str) -> str:
        for base in kind.__mro__:
            if base not in _SILENT and base.__module__ != "abc":
                self._source(base, base.__name__, where)
        return f"{kind.__module__}.{kind.__qualname__}"

    def _target(self, target: str, where: str) -> None:
        """The class or function that settings name."""
        try:
            self.of(pkgutil.resolve_name(target), where)
        except (ImportError, AttributeError, ValueError):
            self._miss(where, target)

    def _source(self, code: Any, name: str, where: str) -> None:
        """Note the file of a class, function or module, or that there is none."""
        try:
            file = inspect.getsourcefile(code)
        except TypeError:
            file = None
        if file is None or not Path(file).is_file() or (isinstance(code, type) and not _defines(Path(file), name)):
            self._miss(where, name)
        else:
            self.files.add(Path(file).resolve())

    def _miss(self, where: str, name: str) -> None:
        self.unknown = self.unknown or f"{where.lstrip('.')} ({name})"


def _defines(file: Path, name: str) -> bool:
    """Whether this is where a class is written; one in C may claim to be from a Python file."""
    return re.search(rf"\bclass\s+{re.escape(name)}\b".encode(), file.read_bytes()) is not None


def _names(slots: str | Sequence[str]) -> Sequence[str]:
    return [slots] if isinstance(slots, str) else slots


def _imported(files: set[Path]) -> set[Path]:
    """The files that these import, and that those import, but for installed libraries and this package."""
    found: set[Path] = set()
    todo = [file for file in files if _is_loose(file)]
    while todo:
        for file in _imports_of(todo.pop()):
            if file not in found and file not in files:
                found.add(file)
                todo.append(file)
    return found


def _imports_of(file: Path) -> Iterator[Path]:
    """The user's files among the modules that a file imports anywhere; nothing is imported to find them."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:  # of a file that nobody can import
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _modules([], alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            above = [file.parents[node.level - 1]] if node.level else []
            for alias in node.names:
                yield from _modules(above, [*(node.module or "").split("."), alias.name])


def _modules(folders: Sequence[Path], names: Sequence[str]) -> Iterator[Path]:
    """The user's files on the way to a module: its packages and itself; its first folders are looked for if none is
    given."""
    for name in filter(None, names):
        if not folders:
            try:
                spec = importlib.util.find_spec(name)
            except (ImportError, ValueError):
                return
            if spec is None or not (spec.origin or spec.submodule_search_locations):
                return
            found = [Path(spec.origin)] if spec.origin and spec.has_location else []
            below = [Path(folder) for folder in spec.submodule_search_locations or ()]
        else:
            places = [place for folder in folders for place in (folder / f"{name}.py", folder / name / "__init__.py")]
            found = [place for place in places if place.is_file()]
            below = [folder / name for folder in folders if (folder / name).is_dir()]
        if any(not _is_loose(file) for file in found):
            return
        yield from (file.resolve() for file in found)
        if not below:
            return
        folders = below


def _is_loose(file: Path) -> bool:
    """Whether a file is the user's code: neither this package's nor an installed library's."""
    return file.suffix == ".py" and not any(file.resolve().is_relative_to(folder) for folder in (_PACKAGE, *_INSTALLED))


@cache
def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _hash(content: str | bytes) -> str:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return hashlib.blake2b(data, digest_size=16).hexdigest()
