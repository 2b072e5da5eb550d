"""Tables of every pandas are read; hostile ones are refused by name, and nothing they ask for is ever run."""

import contextlib
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_gen.pickled_table import read_pickled_table
from tests.golden.large import Golden
from tests.pickles import Call, Name, absurd_sizes, dumps
from tests.soak import examples
from utils.errors import DataError

FIXTURES = Path(__file__).parent / "tables"
DATE = np.datetime64("2018-07-02T11:00:00", "us")


def rows() -> list[dict[str, Any]]:
    """What every file in tests/data_gen/tables says, written there by that release of pandas."""
    found = []
    for i in range(4):
        date = DATE + np.timedelta64(i, "D")
        keys = [5 + i + j for j in range(2 + i)]
        dates = [date + np.timedelta64((5 + i + j) * (-1) ** j, "D") for j in range(2 + i)]
        found.append(
            {
                "split": "val" if i == 3 else "train",
                "spot6_image": f"spot6/{i}.tif",
                "sen2_acquisitions": {(str(k) if i == 1 else k): f"sen2/{i}/{j}.tif" for j, k in enumerate(keys)},
                "dates_spot6": date,
                "dates_sen2": dates,
                "x": 1.5 * i,
                "y": 7 + i,
                "n": i,
                "flag": i > 1,
                "cat": "a" if i % 2 else "b",
            }
        )
    return found


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.pkl")), ids=lambda path: path.stem)
def test_tables_of_other_pandas(path: Path) -> None:
    index, columns = read_pickled_table(path)
    assert index == (["k0", "k1", "k2", "k3"] if "_str_" in path.name else [10, 7, 30, 22])
    for name in rows()[0]:
        expected = [row[name] for row in rows()]
        if name == "dates_spot6" and "tzparis" in path.name:
            expected = [date - np.timedelta64(2, "h") for date in expected]  # summer time
        if name == "dates_sen2" and "missing" in path.name:
            assert all(np.isnat(dates[-1]) for dates in columns[name])
            expected = [[*dates[:-1], found[-1]] for dates, found in zip(expected, columns[name], strict=True)]
            assert str(columns[name]) == str(expected)
            continue
        assert columns[name] == expected, name
    if "missing" in path.name:
        assert columns["note"][:3] == [None, 1, "x"] and np.isnan(columns["note"][3])
    for geometry in {"geometry", "geom"} & columns.keys():
        assert columns[geometry] == [None] * 4


@pytest.mark.parametrize("moved", [False, True])
def test_tables_of_pandas_1_0(tmp_path: Path, moved: bool) -> None:
    """Before 1.3 blocks were part of a state, time stamps a call of their class; indices had classes of their own."""
    nanoseconds = int(DATE.astype("M8[ns]").astype(np.int64))
    stamp = Call(Name("pandas._libs.tslibs.timestamps", "Timestamp"), (nanoseconds, None, None))
    objects = np.empty((2, 2), dtype=object)
    objects[:] = [["train", "val"], [{3: "a.tif"}, {4: "b.tif"}]]
    dates = np.empty((1, 2), dtype=object)
    dates[0, 0], dates[0, 1] = [stamp], [stamp, stamp]
    when = np.array([[DATE, DATE]]).astype("M8[ns]")

    def index(kind: tuple[str, str], values: np.ndarray) -> Call:
        new_index = Name("pandas.core.indexes.base", "_new_Index")
        return Call(new_index, (Name(*kind), {"data": values, "name": None}))

    names = np.array(["split", "sen2_acquisitions", "dates_sen2", "dates_spot6"], dtype=object)
    axes = [
        index(("pandas.core.indexes.base", "Index"), names),
        index(("pandas.core.indexes.numeric", "Int64Index"), np.array([40, 7])),
    ]
    blocks: list[dict[str, Any]] = [
        {"values": objects, "mgr_locs": slice(0, 2, 1)},
        {"values": dates, "mgr_locs": np.array([2])},
        {"values": when, "mgr_locs": slice(3, 4, 1)},
    ]
    state: Any = (axes, [block["values"] for block in blocks], [], {"0.14.1": {"axes": axes, "blocks": blocks}})
    manager = Call(Name("pandas.core.internals.managers", "BlockManager"), state=state, new=True)
    frame_state = {"_mgr" if moved else "_data": manager, "_typ": "dataframe", "_metadata": []}
    path = tmp_path / "old.pkl"
    path.write_bytes(dumps(Call(Name("pandas.core.frame", "DataFrame"), state=frame_state, new=True)))
    index, columns = read_pickled_table(path)
    assert index == [40, 7]
    assert list(columns) == names.tolist()
    assert columns["split"] == ["train", "val"]
    assert columns["sen2_acquisitions"] == [{3: "a.tif"}, {4: "b.tif"}]
    assert columns["dates_sen2"] == [[DATE], [DATE, DATE]]
    assert columns["dates_spot6"] == [DATE, DATE]


def test_golden_tables(golden: Golden) -> None:
    for name in ("dataset_train.pkl", "dataset_test.pkl"):
        path = golden.path("11_raw/") / name
        (index, columns), frame = read_pickled_table(path), pd.read_pickle(path)
        assert index == frame.index.tolist()
        for column in ("split", "spot6_image", "sen2_acquisitions"):
            assert columns[column] == frame[column].tolist()
        assert columns["dates_spot6"] == frame["dates_spot6"].to_numpy().astype("M8[us]").tolist()
        for dates, expected in zip(columns["dates_sen2"], frame["dates_sen2"], strict=True):
            assert dates == [stamp.to_datetime64() for stamp in expected]


cells = st.one_of(
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.booleans(),
    st.none(),
    st.datetimes(),
    st.dictionaries(st.one_of(st.integers(0, 400), st.text(max_size=4)), st.text(max_size=6), max_size=4),
    st.lists(st.datetimes(), max_size=4),
)


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.dictionaries(
        st.text(min_size=1, max_size=5), st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=5
    ),
    labels=st.one_of(
        st.lists(st.integers(-(2**40), 2**40), min_size=3, max_size=3), st.lists(st.text(), min_size=3, max_size=3)
    ),
    protocol=st.integers(2, 5),
)
def test_whatever_pandas_writes_is_read(
    tmp_path: Path, content: dict[str, list[Any]], labels: list[Any], protocol: int
) -> None:
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in content.items()})
    frame.index = pd.Index(labels)
    path = tmp_path / "table.pkl"
    frame.to_pickle(path, protocol=protocol)
    index, columns = read_pickled_table(path)
    assert index == labels
    for name, values in content.items():
        assert columns[name] == [plain(value) for value in values]


def plain(x: Any) -> Any:
    if isinstance(x, list):
        return [plain(element) for element in x]
    return np.datetime64(x, "us") if hasattr(x, "hour") else x


# ---------------------------------------------------------------------------------------------------------------------


def frame_with(cell: Any) -> Call:
    """A table with something else in one of its cells."""
    values = np.empty((1, 1), dtype=object)
    values[0, 0] = cell
    index = Name("pandas.core.indexes.base", "_new_Index")
    kind = Name("pandas.core.indexes.base", "Index")
    labels = np.array(["split"], dtype=object)
    axes = [Call(index, (kind, {"data": labels})), Call(index, (kind, {"data": np.array([1])}))]
    block = Call(Name("pandas._libs.internals", "_unpickle_block"), (values, slice(0, 1, 1), 2))
    manager = Call(Name("pandas.core.internals.managers", "BlockManager"), ((block,), axes))
    return Call(Name("pandas.core.frame", "DataFrame"), state={"_mgr": manager}, new=True)


@pytest.mark.parametrize(
    "name", ["os.system", "pandas.eval", "pandas.DataFrame.eval", "numpy.load", "pandas.read_pickle"]
)
def test_what_a_cell_asks_for_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """tests/behaviour/test_hostile.py tries many more, outside of tables."""
    path = tmp_path / "table.pkl"
    call = Call(Name(*name.split(".", 1)), (f"touch {tmp_path}/canary",))
    for cell in (call, Call(Name("pandas", "Index"), (Call(Name("numpy", "dtype"), (call,)),))):
        path.write_bytes(dumps(frame_with(cell), protocol=4))
        with pytest.raises(DataError, match=rf"refused.*{name}") as error:
            read_pickled_table(path)
        assert str(path) in str(error.value)
    assert list(tmp_path.iterdir()) == [path]


def gadgets(canary: Path) -> dict[str, Any]:
    """Only names that tables need, put together to do harm."""
    array, dtype = Name("numpy", "ndarray"), Name("numpy", "dtype")
    pointers = Call(dtype, ("V8", False, True), state=(3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0))
    reconstruct = Name("numpy._core.multiarray", "_reconstruct")
    return {
        "bytes as pointers": Call(reconstruct, (array, (0,), b"b"), state=(1, (1,), pointers, False, b"A" * 8)),
        "an absurd shape": Call(
            reconstruct, (array, (0,), b"b"), state=(1, (1 << 40,), np.dtype("i8"), False, b"A" * 8)
        ),
        "an absurd item": Call(Name("numpy.core.multiarray", "scalar"), (Call(dtype, ("S999999999",)), b"")),
        "absurd rows": Call(
            Name("pandas.core.indexes.base", "_new_Index"),
            (Name("pandas", "RangeIndex"), {"start": 0, "stop": 1 << 60, "step": 1}),
        ),
        "arrow beyond its buffers": Call(
            Name("pandas.arrays", "ArrowStringArray"),
            state={
                "_pa_array": Call(
                    Name("pyarrow.lib", "_restore_array"),
                    (
                        (
                            Call(Name("pyarrow.lib", "type_for_alias"), ("string",)),
                            1 << 50,
                            0,
                            0,
                            [None, b"\0" * 8, b""],
                            [],
                        ),
                    ),
                )
            },
            new=True,
        ),
    }


@pytest.mark.parametrize("case", gadgets(Path("canary")))
def test_good_names_put_to_bad_use(tmp_path: Path, case: str) -> None:
    """A cell, then the whole file."""
    path = tmp_path / "table.pkl"
    for content in (frame_with(gadgets(tmp_path)[case]), gadgets(tmp_path)[case]):
        path.write_bytes(dumps(content))
        with pytest.raises(DataError, match="not a pickled pandas table"):
            read_pickled_table(path)


def test_a_state_for_a_class_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "table.pkl"
    path.write_bytes(b"\x80\x02cpandas\nDataFrame\n(N}X\x04\x00\x00\x00evilK\x01s\x86b.")
    with pytest.raises(DataError):
        read_pickled_table(path)
    assert not hasattr(pd.DataFrame, "evil")


@pytest.mark.parametrize("case", absurd_sizes())
def test_absurd_sizes_take_no_memory(tmp_path: Path, case: str) -> None:
    path = tmp_path / "table.pkl"
    path.write_bytes(absurd_sizes()[case])
    with pytest.raises(DataError, match="not a pickled pandas table"):
        read_pickled_table(path)


def test_shared_values_are_read_once(tmp_path: Path) -> None:
    """Lists of lists of lists, each ten times the same one: 10^30 values if they were copied."""
    bomb: list[Any] = ["x"]
    for _ in range(30):
        bomb = [bomb] * 10
    path = tmp_path / "table.pkl"
    path.write_bytes(dumps(frame_with(bomb)))
    assert len(read_pickled_table(path)[1]["split"][0]) == 10
    itself: list[Any] = []
    itself.append(itself)
    path.write_bytes(dumps(frame_with(itself)))
    with pytest.raises(DataError, match="contains itself"):
        read_pickled_table(path)


@pytest.mark.parametrize("value", ["a\ud800", {"a": ["\udfff"]}, 1 << 70])
def test_values_that_no_file_can_hold(tmp_path: Path, value: Any) -> None:
    """Results are written by row label, in UTF-8: half a character would stop that, after hours."""
    path = tmp_path / "table.pkl"
    path.write_bytes(dumps(frame_with([value])))
    with pytest.raises(DataError, match=r"half a character|more than 64 bits"):
        read_pickled_table(path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be read"):
        read_pickled_table(tmp_path / "absent.pkl")
    path = tmp_path / "table.pkl"
    for content in (b"", b"split,spot6_image\n", pickle.dumps({"split": ["train"]}), b"\x80\x04."):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a pickled pandas table"):
            read_pickled_table(path)


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), cut=st.booleans())
def test_damaged_tables(tmp_path: Path, seed: int, cut: bool) -> None:
    """Whatever happens to its bytes, a file is a table or a DataError."""
    rng = random.Random(seed)
    content = bytearray(rng.choice(sorted(FIXTURES.glob("*.pkl"))).read_bytes())
    if cut:
        del content[rng.randrange(len(content)) :]
    for _ in range(rng.randrange(8)):
        if content:
            content[rng.randrange(len(content))] = rng.randrange(256)
    path = tmp_path / "table.pkl"
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        assert isinstance(read_pickled_table(path)[1], dict)
