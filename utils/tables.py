"""Pickled pandas tables, read without running anything that a file names.

Unpickling normally calls whatever the file asks for. Here every name that a table may hold becomes an inert record of
what it would have been called with; every other name is refused. The records are then read as data: numpy arrays from
their bytes, time stamps from their integers, columns from the blocks that pandas keeps them in. So no object of pandas,
numpy, geopandas or shapely is ever made by a file, and tables of pandas 1.0 to 3.x (protocols 2 to 5) look the same.
"""

import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.records import Decoder, Key, Record

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
