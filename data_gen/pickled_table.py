"""Pickled pandas tables, read without running anything that a file names.

Unpickling normally calls whatever the file asks for. Here `find_class` refuses all names but those that tables hold. It
makes a few types of the standard library; every other allowed name becomes a `Record` of what it would have been called
with, and records are read as data. So a file can't misuse pandas or numpy, and pandas 1.0 to 3.x look the same.
"""

import collections
import datetime
import functools
import io
import itertools
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import DataError
from utils.files import is_text
from utils.store import Key

RECORDS = re.compile(  # the full names that become records
    r"(numpy|pandas|pyarrow|geopandas|pyproj|shapely|pytz|dateutil|zoneinfo)(\.\w+)*\."
    r"(dtype|ndarray|_reconstruct|scalar|_frombuffer|BlockManager|new_block|_unpickle_block|__pyx_unpickle_NDArrayBacked"
    r"|(Geo)?DataFrame|GeoSeries|\w*Dtype|\w*Array|ArrowStringArrayNumpySemantics|\w*Index|Categorical|NA|NAType|NaT"
    r"|_?_nat_unpickle|Timestamp|_unpickle_timestamp|Timedelta|_timedelta_unpickle|_restore_array|chunked_array"
    r"|type_for_alias|_p|tzlocal|tzfile|ZoneInfo\._unpickle|CRS|from_wkb|(Multi)?(Point|LineString|Polygon)|LinearRing"
    r"|GeometryCollection)"
)
STANDARD: dict[str, Callable[..., Any]] = {  # what is made: none of these runs code or takes memory of its own
    "builtins.slice": slice,
    "collections.OrderedDict": collections.OrderedDict,
    "_codecs.encode": lambda text, _: text.encode("latin1"),  # how protocol 2 writes bytes
    **dict.fromkeys(("builtins.bytes", "builtins.bytearray", "pyarrow.lib.py_buffer"), lambda *parts: b"".join(parts)),
    **dict.fromkeys(("pytz._UTC", "dateutil.tz.tz.tzutc"), lambda: datetime.UTC),
    **{f"datetime.{name}": getattr(datetime, name) for name in ("date", "datetime", "timedelta", "timezone")},
}
_MOST_ROWS = 10_000_000
_UNITS = {7: "s", 8: "ms", 9: "us", 10: "ns"}  # of time stamps, by pandas' codes
_DTYPE = re.compile(r"(b1|[iu][1248]|f[248]|S\d{1,6}|U\d{1,6}|O8|M8|m8)")


def read_pickled_table(path: Path) -> tuple[list[Key], dict[str, list[Any]]]:
    """Read a pickled DataFrame or GeoDataFrame.

    Returns:
        Row labels, and columns by name: str, int, float, bool, None, ``numpy.datetime64`` (UTC, microseconds), lists
        and dicts of these. Anything else (geometries) is None.

    Raises:
        DataError: the file can't be read, isn't a table, or names a class that no table needs.
    """
    try:
        content = path.read_bytes()
        for count, (operation, argument, _) in enumerate(pickletools.genops(content)):  # also checks all lengths
            if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
                raise ValueError("a place far beyond the memo's end")  # the unpickler would make room for it
        return _Decoder().table(_Unpickler(io.BytesIO(content)).load())
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    except Exception as error:  # a damaged file can fail anywhere in its reading, in any way
        reason = f"{type(error).__name__}: {error}"[:200]
        raise DataError(f"{path}: not a pickled pandas table ({reason!r})") from error


class Record:
    """What a file says of one object: the arguments it is made with, and its state. Nothing is done with them."""

    name = ""
    arguments: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *arguments: Any) -> "Record":
        record = super().__new__(cls)
        record.arguments = arguments
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


@functools.lru_cache(maxsize=256)
def _record_class(name: str) -> type[Record]:
    return type("Record", (Record,), {"name": name})


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"  # protocol 2 keeps the name of Python 2
        if full in STANDARD:
            return STANDARD[full]
        if RECORDS.fullmatch(full):
            return _record_class(full.split(".")[-1])
        hint = "the file may be hostile, or have columns of a kind that must be left out"
        raise DataError(f"refused: it asks for {full[:200]!r}, which no table needs; {hint}")


class _Decoder:
    """Reads records. What several places of a file share is read once: a small file can't become a large table."""

    def __init__(self) -> None:
        self._read: dict[int, Any] = {}  # by identity

    def table(self, frame: Any) -> tuple[list[Key], dict[str, list[Any]]]:
        if not getattr(frame, "name", "").endswith("DataFrame"):
            raise ValueError(f"holds a {type(frame).__name__}, a DataFrame is expected")
        manager = frame.state["_mgr"] if "_mgr" in frame.state else frame.state["_data"]
        if manager.arguments:
            blocks, axes = [block.arguments[:2] for block in manager.arguments[0]], manager.arguments[1]
        else:  # pandas < 1.3
            state = manager.state[3]["0.14.1"]
            blocks, axes = [(block["values"], block["mgr_locs"]) for block in state["blocks"]], state["axes"]
        names = [str(self._value(name)) for name in self._array(axes[0])]
        index = [_label(self._value(label)) for label in self._array(axes[1])]
        columns: dict[str, list[Any]] = {}
        for values, places in blocks:
            array = self._array(values)
            numbers = range(len(names))[places] if isinstance(places, slice) else self._array(places)
            for row, number in enumerate(numbers):
                cells = np.broadcast_to(array[row] if array.ndim == 2 else array, len(index))
                columns[names[number]] = list(map(self._value, cells))
        return index, {name: columns[name] for name in names}

    def _value(self, x: Any) -> Any:
        """A plain value; None for what is opaque. Raises ValueError for what no file can hold."""
        if isinstance(x, np.generic):
            return x.astype("M8[us]") if isinstance(x, np.datetime64) else None if x.dtype.kind == "m" else x.item()
        if (isinstance(x, str) and not is_text(x)) or (isinstance(x, int) and x.bit_length() > 64):
            raise ValueError("a text that holds half a character, or a number of more than 64 bits")
        if x is None or isinstance(x, (str, int, float)):
            return x
        if id(x) not in self._read:
            self._read[id(x)] = ...  # until it is read: what refers to itself comes back to this
            self._read[id(x)] = self._composed(x)
        if self._read[id(x)] is ...:
            raise ValueError("a value that contains itself")
        return self._read[id(x)]

    def _composed(self, x: Any) -> Any:
        if isinstance(x, dict):
            return {self._value(key): self._value(element) for key, element in x.items()}
        if isinstance(x, datetime.date):  # datetimes are dates
            if isinstance(x, datetime.datetime) and x.tzinfo:
                x = x.astimezone(datetime.UTC).replace(tzinfo=None)
            return np.datetime64(x, "us")
        match getattr(x, "name", ""):
            case "_unpickle_timestamp" | "Timestamp":  # Timestamp: pandas < 1.4
                return np.array([x.arguments[0]], f"M8[{_UNITS[(*x.arguments, 10)[3]]}]").astype("M8[us]")[0]
            case "_nat_unpickle" | "__nat_unpickle" | "NaT":
                return np.datetime64("NaT", "us")
            case "scalar":
                return self._value(_shaped(x.arguments[1], x.arguments[0], (-1,))[0])
        array = x if isinstance(x, (list, tuple)) else self._array(x)
        return None if array is _OPAQUE else list(map(self._value, array))

    def _array(self, x: Any) -> np.ndarray:
        """Any array, index or extension array."""
        match getattr(x, "name", ""):
            case "_reconstruct":
                _, shape, dtype, fortran, data = x.state
                return _shaped(data, dtype, shape, "F" if fortran else "C")
            case "_frombuffer":
                return _shaped(*x.arguments)
            case "_new_Index" | "_new_DatetimeIndex" if "data" in x.arguments[1]:
                return self._array(x.arguments[1]["data"])
            case "_new_Index":
                labels = range(*(int(x.arguments[1][part]) for part in ("start", "stop", "step")))
                if len(labels) > _MOST_ROWS:
                    raise ValueError(f"{len(labels)} rows")
                return np.array(labels)
            case "__pyx_unpickle_NDArrayBacked":
                parts = (x.state or x.arguments[2])[:2]  # values and type, in either order
                values, dtype = parts if parts[0].name in ("_reconstruct", "_frombuffer") else parts[::-1]
                return self._categories(dtype, values) if x.arguments[0].name == "Categorical" else self._array(values)
            case "Categorical":  # pandas < 1.3
                return self._categories(x.state["_dtype"], x.state["_codes"])
            case "BooleanArray" | "IntegerArray" | "FloatingArray":
                return _masked(self._array(x.state["_data"]), self._array(x.state["_mask"]))
            case "chunked_array":
                return np.concatenate([np.empty(0, dtype=object), *map(self._array, x.arguments[0])])
            case "_restore_array":
                return _strings(*x.arguments[0][:5])
            case name if name.endswith(("Array", "Semantics")) and isinstance(x.state, dict):
                return self._array(next(x.state[key] for key in ("_pa_array", "_data", "_ndarray") if key in x.state))
        return _OPAQUE

    def _categories(self, dtype: Any, codes: Any) -> np.ndarray:
        """What a categorical stands for; code −1 is a missing value."""
        names = self._array(dtype.state["categories"]).astype(object)
        return np.concatenate([names, np.array([None])])[self._array(codes)]


_OPAQUE = np.array(None)  # what can't be read (geometries), of no dimension


def _label(value: Any) -> Key:
    """A row label: whole numbers stay numbers, the rest is text."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _shaped(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """An array, its type made from the type's code: numpy's own unpickling believes inconsistent states."""
    code = (dtype.state["_dtype"] if dtype.name in ("PandasDtype", "NumpyEADtype") else dtype).arguments[0]
    if not _DTYPE.fullmatch(code):
        raise ValueError(f"unexpected array type {code[:20]!r}")
    if code in ("M8", "m8"):
        unit = dtype.state[8][1][0]
        code += f"[{unit if isinstance(unit, str) else unit.decode()}]"
    flat = np.empty(len(data), dtype=object)
    if code == "O8":
        for position, value in enumerate(data):  # one by one: numpy would look inside lists
            flat[position] = value
    else:
        flat = np.frombuffer(data, np.dtype(code).newbyteorder(dtype.state[1] if dtype.state else "|"))
    return flat.reshape([int(n) for n in shape], order=order)


def _masked(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    return np.where(missing.astype(bool), np.array(None), values.astype(object))


def _strings(kind: Any, length: int, _: Any, offset: int, buffers: Any) -> np.ndarray:
    """Strings of Apache Arrow: a bitmap of what is present, offsets into one buffer of UTF-8, and that buffer."""
    present, offsets, text = buffers
    item = {"string": "<i4", "large_string": "<i8"}[kind.arguments[0]]
    ends = np.frombuffer(offsets, item)[offset : offset + length + 1]
    values = [text[start:end].decode() if text else "" for start, end in itertools.pairwise(ends)]
    array = np.array(values, dtype=object).reshape(length)
    bits = np.unpackbits(np.frombuffer(present or b"\xff" * length, np.uint8), bitorder="little")
    return _masked(array, bits[offset if present else 0 :][:length] == 0)
