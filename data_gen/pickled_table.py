"""Pickled pandas tables, read without running anything that a file names.

Unpickling normally calls whatever the file asks for. Here every name that a table may hold becomes an inert record of
what it would have been called with; every other name is refused. The records are then read as data: numpy arrays from
their bytes, time stamps from their integers, columns from the blocks that pandas keeps them in. So no object of pandas,
numpy, geopandas or shapely is ever made by a file, and tables of pandas 1.0 to 3.x (protocols 2 to 5) look the same.
"""

import datetime
import itertools
import pickle
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import DataError
from utils.files import is_text
from utils.store import Key

# What tables name, by module. Names moved between releases of pandas and numpy: all places they lived in are listed.
_ALLOWED = {
    "builtins": "slice bytes bytearray",
    "collections": "OrderedDict",
    "_codecs": "encode",
    "datetime": "date datetime timedelta timezone",
    "pytz": "_UTC _p",
    "dateutil.tz.tz": "tzutc tzlocal tzfile",
    "numpy": "dtype ndarray",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy._core.numeric": "_frombuffer",
    "pandas": "DataFrame Index RangeIndex DatetimeIndex Categorical CategoricalDtype DatetimeTZDtype StringDtype NA "
    "NaT BooleanDtype Int8Dtype Int16Dtype Int32Dtype Int64Dtype UInt8Dtype UInt16Dtype UInt32Dtype UInt64Dtype "
    "Float32Dtype Float64Dtype Timestamp Timedelta",
    "pandas.arrays": "DatetimeArray TimedeltaArray StringArray ArrowStringArray BooleanArray IntegerArray "
    "FloatingArray NumpyExtensionArray",
    "pandas.core.frame": "DataFrame",
    "pandas.core.internals.managers": "BlockManager",
    "pandas.core.internals.blocks": "new_block",
    "pandas._libs.internals": "_unpickle_block",
    "pandas._libs.arrays": "__pyx_unpickle_NDArrayBacked",
    "pandas._libs.missing": "NA NAType",
    "pandas._libs.tslibs.timestamps": "Timestamp _unpickle_timestamp",
    "pandas._libs.tslibs.timedeltas": "Timedelta _timedelta_unpickle",
    "pandas._libs.tslibs.nattype": "_nat_unpickle __nat_unpickle",
    "pandas.core.indexes.base": "Index _new_Index",
    "pandas.core.indexes.numeric": "Int64Index UInt64Index Float64Index",
    "pandas.core.indexes.range": "RangeIndex",
    "pandas.core.indexes.datetimes": "DatetimeIndex _new_DatetimeIndex",
    "pandas.core.dtypes.dtypes": "CategoricalDtype DatetimeTZDtype PandasDtype NumpyEADtype",
    "pandas.core.arrays.categorical": "Categorical",
    "pandas.core.arrays.datetimes": "DatetimeArray",
    "pandas.core.arrays.timedeltas": "TimedeltaArray",
    "pandas.core.arrays.numpy_": "PandasArray NumpyExtensionArray",
    "pandas.core.arrays.string_": "StringArray StringDtype",
    "pandas.core.arrays.string_arrow": "ArrowStringArray ArrowStringArrayNumpySemantics ArrowStringDtype",
    "pandas.core.arrays.boolean": "BooleanArray BooleanDtype",
    "pandas.core.arrays.floating": "FloatingArray Float32Dtype Float64Dtype",
    "pandas.core.arrays.integer": "IntegerArray Int8Dtype Int16Dtype Int32Dtype Int64Dtype UInt8Dtype UInt16Dtype "
    "UInt32Dtype UInt64Dtype",
    "pyarrow.lib": "_restore_array chunked_array py_buffer type_for_alias",
    "geopandas": "GeoDataFrame GeoSeries",
    "geopandas.geodataframe": "GeoDataFrame",
    "geopandas.array": "GeometryArray GeometryDtype",
    "pyproj": "CRS",
    "pyproj.crs": "CRS",
    "pyproj.crs.crs": "CRS",
    "shapely": "from_wkb",
    "shapely.io": "from_wkb",
    "shapely.geometry.point": "Point",
    "shapely.geometry.linestring": "LineString",
    "shapely.geometry.polygon": "Polygon LinearRing",
    "shapely.geometry.multipoint": "MultiPoint",
    "shapely.geometry.multilinestring": "MultiLineString",
    "shapely.geometry.multipolygon": "MultiPolygon",
    "shapely.geometry.collection": "GeometryCollection",
}
ALLOWED = frozenset((module, name) for module, names in _ALLOWED.items() for name in names.split())

_PYTHON_2_MODULES = {"__builtin__": "builtins"}  # protocol 2 keeps the old name


@dataclass(frozen=True)
class Table:
    """A table: row labels, and columns of plain values.

    Values are str, int, float, bool, None, ``numpy.datetime64`` (UTC, microseconds), lists of these, or dicts from
    labels to these; anything else (geometries) is None.
    """

    path: Path
    index: list[Key]
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.index)

    def column(self, name: str) -> list[Any]:
        if name not in self.columns:
            raise DataError(f"{self.path}: no column {name!r}; there are: {', '.join(self.columns)}")
        return self.columns[name]


_MOST_ROWS = 10_000_000
_RESOLUTIONS = {7: "s", 8: "ms", 9: "us", 10: "ns"}  # numpy's codes of datetime units, as pandas writes them
_DTYPE = re.compile(r"(b1|[iu][1248]|f[248]|S\d{1,6}|U\d{1,6}|O8|M8|m8)\Z")


class Record:
    """What a file says of one object: the arguments it is made with, and its state. Nothing is done with them."""

    origin = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> "Record":
        record = super().__new__(cls)
        record.arguments = arguments
        record.state = None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:  # how an OrderedDict is filled
        self.state = self.state or {}
        self.state[key] = value


def _name(x: Any) -> str:
    """The last part of what a record (or the class of one) stands for; "" for anything else."""
    origin = x.origin if isinstance(x, Record) or (isinstance(x, type) and issubclass(x, Record)) else ""
    return origin.rpartition(".")[2]


class Decoder:
    """Reads records. What several places of a file refer to is read once, so a small file can't become a large table.

    Its methods raise whatever goes wrong with a damaged file.
    """

    def __init__(self) -> None:
        self._read: dict[int, Any] = {}

    def table(self, frame: Any) -> tuple[list[Key], dict[str, list[Any]]]:
        """Row labels and columns of a DataFrame's record."""
        if _name(frame) not in ("DataFrame", "GeoDataFrame"):
            raise ValueError(f"holds {_name(frame) or type(frame).__name__}, a DataFrame is expected")
        blocks, (column_axis, row_axis) = _blocks(
            frame.state["_mgr"] if "_mgr" in frame.state else frame.state["_data"]
        )
        names = [str(self.value(name)) for name in self._known(column_axis)]
        index = [_label(self.value(label)) for label in self._known(row_axis)]
        columns: dict[str, list[Any]] = {}
        for values, places in blocks:
            array = self.array(values)
            if array is not None and array.shape[-1] != len(index):
                raise ValueError(f"a column of {array.shape[-1]} values in a table of {len(index)} rows")
            for row, place in enumerate(self._places(places, len(names))):
                cells = [None] * len(index) if array is None else array[row] if array.ndim == 2 else array
                columns[names[place]] = list(map(self.value, cells))
        return index, {name: columns[name] for name in names}

    def _places(self, x: Any, size: int) -> list[int]:
        """Which columns a block holds."""
        if _name(x) == "slice":
            return list(range(size))[slice(*x.arguments)]
        return [int(place) for place in self._known(x)]

    def value(self, x: Any) -> Any:
        """A plain value: str, int, float, bool, None, numpy.datetime64, a list or a dict of these; else None.

        Raises ValueError for what can't be written down again: half a character, numbers of more than 64 bits.
        """
        if isinstance(x, np.datetime64):
            return x.astype("M8[us]")
        if isinstance(x, np.generic):
            return None if isinstance(x, np.timedelta64) else x.item()
        if isinstance(x, str) and not is_text(x):
            raise ValueError("a text that holds half a character")
        if isinstance(x, int) and x.bit_length() > 64:
            raise ValueError("a number of more than 64 bits")
        if x is None or isinstance(x, (str, int, float)):
            return x
        if id(x) not in self._read:
            self._read[id(x)] = ...  # until it is read: what refers to itself comes back to this
            self._read[id(x)] = self._composed(x)
        found = self._read[id(x)]
        if found is ...:
            raise ValueError("a value that contains itself")
        return found

    def _composed(self, x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return list(map(self.value, x))
        if isinstance(x, dict):
            return {self.value(key): self.value(element) for key, element in x.items()}
        name = _name(x)
        if name == "OrderedDict":
            return self._composed(x.state or dict(x.arguments[0] if x.arguments else ()))
        if name in ("_unpickle_timestamp", "Timestamp", "datetime", "date"):
            return _time(x)
        if name in ("_nat_unpickle", "__nat_unpickle", "NaT"):
            return np.datetime64("NaT", "us")
        if name == "scalar":
            return self.value(np.frombuffer(_bytes(x.arguments[1]), dtype=_dtype(x.arguments[0]))[0])
        array = self.array(x)
        return None if array is None else list(map(self.value, array))

    def _known(self, x: Any) -> np.ndarray:
        array = self.array(x)
        if array is None:
            raise ValueError(f"labels of an unknown kind: {_name(x) or type(x).__name__}")
        return array

    def array(self, x: Any) -> np.ndarray | None:
        """Any array, index or extension array; None for what is opaque (geometries)."""
        name = _name(x)
        if name == "_reconstruct":
            _, shape, dtype, fortran, data = x.state
            return _shaped(data, _dtype(dtype), shape, fortran=bool(fortran))
        if name == "_frombuffer":
            data, dtype, shape, order = x.arguments
            return _shaped(data, _dtype(dtype), shape, fortran=order == "F")
        if name in ("_new_Index", "_new_DatetimeIndex"):
            return self._index(x.arguments[1])
        if name == "__pyx_unpickle_NDArrayBacked":
            dtype, data = (x.state or x.arguments[2])[:2]
            values = self._known(data if _name(data) in ("_reconstruct", "_frombuffer") else dtype)
            return self._categories(dtype, values) if _name(x.arguments[0]) == "Categorical" else values
        if name == "Categorical":  # pandas < 1.3, as the following
            return self._categories(x.state["_dtype"], self._known(x.state["_codes"]))
        if name in ("DatetimeArray", "TimedeltaArray", "StringArray", "PandasArray", "NumpyExtensionArray"):
            return self._known(x.state["_data"] if "_data" in x.state else x.state["_ndarray"])
        if name in ("BooleanArray", "IntegerArray", "FloatingArray"):
            return _masked(self._known(x.state["_data"]), self._known(x.state["_mask"]))
        if name in ("ArrowStringArray", "ArrowStringArrayNumpySemantics"):
            return _arrow(x.state["_pa_array"] if "_pa_array" in x.state else x.state["_data"])
        return None

    def _index(self, state: Any) -> np.ndarray:
        if "data" in state:
            return self._known(state["data"])
        labels = range(*(int(state[part]) for part in ("start", "stop", "step")))
        if len(labels) > _MOST_ROWS:
            raise ValueError(f"{len(labels)} rows")
        return np.array(labels)

    def _categories(self, dtype: Any, codes: np.ndarray) -> np.ndarray:
        """What a categorical stands for; code −1 is a missing value."""
        names = self._known(dtype.state["categories"])
        return np.concatenate([names.astype(object), np.array([None])])[codes]


def _blocks(manager: Any) -> tuple[list[tuple[Any, Any]], list[Any]]:
    """The (values, where they belong) of a frame, and its two axes: columns and rows."""
    if manager.arguments:  # pandas >= 1.3
        blocks, axes = manager.arguments
        return [(block.arguments[0], block.arguments[1]) for block in blocks], axes
    state = manager.state[3]["0.14.1"]
    return [(block["values"], block["mgr_locs"]) for block in state["blocks"]], state["axes"]


def _label(value: Any) -> Key:
    """A row label: whole numbers stay numbers, the rest is text."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else str(value)


# ---------------------------------------------------------------------------------------------------------------------
# Arrays


def _bytes(x: Any) -> bytes:
    if isinstance(x, (bytes, bytearray)):
        return bytes(x)
    if _name(x) == "encode":  # how protocol 2 writes bytes
        return x.arguments[0].encode("latin1")
    if _name(x) in ("bytes", "bytearray", "py_buffer"):
        return _bytes(x.arguments[0]) if x.arguments else b""
    raise ValueError("bytes expected")


def _dtype(x: Any) -> np.dtype:
    """A numpy type from its record; never by numpy's own unpickling, which believes inconsistent states."""
    if _name(x) in ("PandasDtype", "NumpyEADtype"):
        x = x.state["_dtype"]
    code = x.arguments[0]
    if not (isinstance(code, str) and _DTYPE.match(code)):
        raise ValueError(f"unexpected array type {str(code)[:20]!r}")
    order = x.state[1] if x.state and x.state[1] in ("<", ">") else "|"
    if code in ("M8", "m8"):
        unit = x.state[8][1][0]
        code = f"{code}[{unit if isinstance(unit, str) else _bytes(unit).decode()}]"
    return np.dtype(code if code == "O8" else order + code)


def _shaped(data: Any, dtype: np.dtype, shape: Any, *, fortran: bool) -> np.ndarray:
    if dtype.hasobject:
        flat = np.empty(len(data), dtype=object)
        for position, value in enumerate(data):  # one by one: numpy would look inside lists
            flat[position] = value
    else:
        flat = np.frombuffer(_bytes(data), dtype=dtype)
    return flat.reshape([int(n) for n in shape], order="F" if fortran else "C")


def _masked(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    values = values.astype(object)
    values[missing.astype(bool)] = None
    return values


def _arrow(x: Any) -> np.ndarray:
    """Strings of Apache Arrow: offsets into one buffer of UTF-8, and a bitmap of what is present."""
    if _name(x) == "chunked_array":
        return np.concatenate([np.empty(0, dtype=object), *map(_arrow, x.arguments[0])])
    kind, length, _, offset, (present, offsets, text), *_ = x.arguments[0]
    alias = kind.arguments[0]
    if alias not in ("string", "large_string"):
        raise ValueError(f"unexpected arrow type {str(alias)[:20]!r}")
    ends = np.frombuffer(_bytes(offsets), dtype="<i4" if alias == "string" else "<i8")[offset : offset + length + 1]
    if len(ends) != length + 1:
        raise ValueError(f"{length} strings in a buffer of {len(ends)} offsets")
    content = b"" if text is None else _bytes(text)
    values = np.empty(length, dtype=object)
    for position, (start, end) in enumerate(itertools.pairwise(ends)):
        values[position] = content[start:end].decode()
    if present is None:
        return values
    bits = np.unpackbits(np.frombuffer(_bytes(present), dtype=np.uint8), bitorder="little")[offset : offset + length]
    return _masked(values, bits == 0)


# ---------------------------------------------------------------------------------------------------------------------
# Time


def _time(x: Any) -> np.datetime64:
    """A time stamp of pandas or datetime, in UTC."""
    if _name(x) == "_unpickle_timestamp":
        value, _, _, resolution = (*x.arguments, 10)[:4]
        unit = _RESOLUTIONS[resolution]
        return np.datetime64(int(value), unit).astype("M8[us]")  # type: ignore[call-overload]
    if _name(x) == "Timestamp":  # pandas < 1.4
        return np.datetime64(int(x.arguments[0]), "ns").astype("M8[us]")
    state = x.arguments[0]
    packed = state.encode("latin1") if isinstance(state, str) else _bytes(state)
    if _name(x) == "date":
        return np.datetime64(datetime.date(*struct.unpack(">HBB", packed)), "us")
    year, month, day, hour, minute, second = struct.unpack(">HBBBBB", packed[:7])
    microsecond = int.from_bytes(packed[7:10], "big")
    moment = datetime.datetime(year, month & 127, day, hour, minute, second, microsecond)  # the eighth bit is `fold`
    return np.datetime64(moment - _utc_offset(x.arguments[1]) if len(x.arguments) > 1 else moment, "us")


def _utc_offset(zone: Any) -> datetime.timedelta:
    """Of fixed zones; what a named zone had on a day would need its rules, which pandas' own time stamps don't."""
    if _name(zone) in ("_UTC", "tzutc"):
        return datetime.timedelta(0)
    if _name(zone) == "timezone":
        return datetime.timedelta(*zone.arguments[0].arguments)
    raise ValueError("a datetime in a named time zone; use pandas time stamps or UTC")


def read_table(path: Path) -> Table:
    """Read a pickled DataFrame or GeoDataFrame.

    Raises DataError where the file can't be read, isn't a table, or names a class that no table needs.
    """
    try:
        with path.open("rb") as file:
            recorded = _Unpickler(file, path).load()
        index, columns = Decoder().table(recorded)
        return Table(path=path, index=index, columns=columns)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    except Exception as error:  # a damaged file can fail anywhere in its reading, in any way
        reason = f"{type(error).__name__}: {error}"[:200]
        raise DataError(f"{path}: not a pickled pandas table ({reason!r})") from error


class _Unpickler(pickle._Unpickler):
    """Builds plain containers and records. The pure Python one: the C one allocates whatever size a file claims."""

    dispatch = pickle._Unpickler.dispatch.copy()

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self._path = path
        self._classes: dict[tuple[str, str], type[Record]] = {}

    def find_class(self, module: str, name: str) -> type[Record]:
        module = _PYTHON_2_MODULES.get(module, module)
        if (module, name) not in ALLOWED:
            raise DataError(
                f"{self._path}: refused: it asks for {f'{module}.{name}'[:200]!r}, which no table needs; "
                "the file may be hostile, or have columns of a kind that must be left out"
            )
        if (module, name) not in self._classes:
            self._classes[module, name] = type(name, (Record,), {"origin": f"{module}.{name}"})
        return self._classes[module, name]

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        self.append(bytearray(self.read(size)))  # type: ignore[attr-defined]  # the original allocates first

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8  # type: ignore[assignment]
