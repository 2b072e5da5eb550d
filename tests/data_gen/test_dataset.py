"""The raw data set: what is read, what is dropped, what is refused."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.dataset import PatchReader, TableRow, Unusable, acquisitions_of, inside, read_rows, to_int16
from tests.data import NOON, RawBreizhSR, write_raster, write_raw
from tests.golden.large import Golden, names
from tests.soak import examples
from utils.errors import DataError
from utils.store import Geometry

DATE = np.datetime64("2018-06-15T11:00:00", "us")


def edit(root: Path, change: Any, table: str = "dataset_train.pkl") -> None:
    """Change a table on disk: ``change`` gets the DataFrame and may give another one back."""
    frame = pd.read_pickle(root / table)
    changed = change(frame)
    (frame if changed is None else changed).to_pickle(root / table)


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that leave it as it was."""
    return write_raw(tmp_path_factory.mktemp("raw"), train=2, val=1, test=1, hr_size=32)


def row(acquisitions: dict[Any, Any], dates: list[Any], **other: Any) -> TableRow:
    return TableRow(
        **{"key": 1, "split": "train", "hr": "hr.tif", "date": DATE, "columns": {}, **other},
        acquisitions=acquisitions,
        dates=dates,
    )


@pytest.mark.parametrize("name", names("11_data_*_raw.pt"))
def test_golden_raw(golden: Golden, name: str) -> None:
    content = golden.load(name)
    config, outputs = content["config"], content["outputs"]
    for series, expected in ((k, v) for k, v in outputs.items() if k.startswith("misr")):
        length = int(series.removeprefix("misr"))
        raw = RawBreizhSR(golden.path("11_raw/"), config["split"], max_s2_images=length, select="first")
        patch = raw[config["position"]]
        assert patch.key == config["label"]
        step = config["rows_step"]
        assert torch.equal(patch.hr[:, ::step], outputs["img_hr_uint8"])
        assert torch.equal(patch.single.lr / 10000, outputs["sisr"]["img_lr"])
        padding = length - len(patch.views)
        offsets = [view.offset for view in patch.views]
        assert offsets + offsets[-1:] * padding == list(expected["dates_encoding"])
        assert [1] * len(offsets) + [0] * padding == list(expected["alphas"])
        if "img_lr" in expected:
            padded = torch.stack([view.lr for view in patch.views] + [patch.views[-1].lr] * padding) / 10000
            rows = padded.shape[-2] // expected["img_lr"].shape[-2]
            assert torch.equal(padded[..., ::rows, :], expected["img_lr"])


@pytest.mark.parametrize("labels", [False, True])
def test_rows_become_patches(tmp_path: Path, labels: bool) -> None:
    raw = RawBreizhSR(write_raw(tmp_path, string_labels=labels), "train", max_s2_images=8)
    assert len(raw) == 4
    patch = raw[1]
    assert patch.key == ("patch_107" if labels else 107)
    assert patch.hr.shape == (3, 80, 80) and patch.hr.dtype == torch.uint8
    assert len(patch.views) == 5 and all(view.lr.shape == (3, 20, 20) for view in patch.views)
    assert patch.single is patch.views[patch.nearest()]
    assert patch.columns["x"] == 250000.0 and patch.columns["dates_spot6"].startswith("2018-06-15T11:00")


def test_offsets_are_whole_days_rounded_down() -> None:
    hours = [-25, -24, -1, 0, 1, 23, 24]
    found = acquisitions_of(row({i: f"{i}.tif" for i in range(7)}, [DATE + np.timedelta64(h, "h") for h in hours]))
    assert [a.offset for a in found] == [-2, -1, -1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hr": None}, "spot6_image is not a path"),
        ({"acquisitions": ["a.tif"]}, "not a dict"),
        ({"acquisitions": {}, "dates": []}, "no acquisition"),
        ({"dates": [DATE]}, "2 acquisitions but 1 dates"),
        ({"dates": [DATE, np.datetime64("NaT")]}, "a date is missing"),
        ({"date": None}, "a date is missing"),
        ({"acquisitions": {1: "a.tif", "two": "b.tif"}}, "'two' is not a number of days"),
        ({"acquisitions": {1: "a.tif", 2: 7}}, "acquisition 2 is not a path"),
    ],
)
def test_rows_that_make_no_sense(changes: dict[str, Any], reason: str) -> None:
    whole = row({1: "a.tif", 2: "b.tif"}, [DATE, DATE])
    assert len(acquisitions_of(whole)) == 2
    with pytest.raises(Unusable, match=reason):
        acquisitions_of(whole._replace(**changes))


def write_views(root: Path, offsets: list[int], *, sizes: list[tuple[int, int]] | None = None) -> list[str]:
    """Rasters whose pixels say which acquisition they are, and one of high resolution."""
    write_raster(root / "hr.tif", np.full((3, 16, 16), 9, np.uint8))
    for number, shape in enumerate(sizes or [(4, 4)] * len(offsets)):
        write_raster(root / f"{number}.tif", np.full((3, *shape), number + 1, np.uint16))
    return [f"{number}.tif" for number in range(len(offsets))]


def read(root: Path, keys: list[Any], offsets: list[int], *, length: int, select: str = "nearest", **other: Any) -> Any:
    paths = write_views(root, offsets, **other)
    dates = [DATE + np.timedelta64(offset, "D") for offset in offsets]
    reader = PatchReader(root, geometry=Geometry(hr_size=16, scale=4, length=length), select=select)
    patch = reader.read(row(dict(zip(keys, paths, strict=True)), dates))
    return [int(view.lr[0, 0, 0]) - 1 for view in patch.views], [view.offset for view in patch.views], patch


def test_nearest_acquisitions_in_dict_order(tmp_path: Path) -> None:
    offsets = [50, -40, 3, -3, 20, 1]
    keys = [abs(offset) + (offset == -3) for offset in offsets]
    views, dates, patch = read(tmp_path, keys, offsets, length=3)
    assert (views, dates) == ([2, 3, 5], [3, -3, 1])
    assert patch.nearest() == 2 and patch.single is patch.views[2]
    assert read(tmp_path, keys, offsets, length=2)[0] == [2, 5]  # of 3 and -3 the first of the dict
    views, _, patch = read(tmp_path, keys, offsets, length=3, select="first")
    assert views == [0, 1, 2]
    assert patch.single.offset == 1 and all(view is not patch.single for view in patch.views)


def test_single_image_has_the_smallest_key(tmp_path: Path) -> None:
    """The key counts, as a number, and where it is a string too; ties of dates don't matter to it."""
    assert read(tmp_path, ["10", "9", "100"], [9, 10, 5], length=1)[2].single.offset == 10
    assert read(tmp_path, [-4, 3], [-4, 3], length=1)[2].single.offset == 3
    assert read(tmp_path, [7, 6], [-6, 6], length=1)[1] == [-6]


def test_images_that_are_not_square_go_with_their_dates(tmp_path: Path) -> None:
    sizes = [(4, 4), (4, 5), (5, 4), (4, 4), (5, 5)]
    views, dates, patch = read(tmp_path, [5, 4, 3, 2, 1], [-5, -4, 3, 2, 1], length=8, sizes=sizes)
    assert (views, dates) == ([0, 3, 4], [-5, 2, 1])  # 5×5 is cropped to 4×4
    assert patch.dropped == [("2.tif", "not square: 5×4"), ("1.tif", "not square: 4×5")]
    assert patch.single is patch.views[2]


def write_bad(path: Path, kind: str, *, size: int = 20) -> None:
    if kind == "missing file":
        path.unlink()
    elif kind == "unreadable raster":
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "2 bands":
        write_raster(path, np.ones((2, size, size), np.uint16))
    elif kind == "nothing but nodata":
        write_raster(path, np.full((3, size, size), 255, np.uint8), nodata=255)
    elif kind == "not square":
        write_raster(path, np.ones((3, size, size + 8), np.uint16))
    elif kind == "is 24×24":
        write_raster(path, np.ones((3, 24, 24), np.uint16))
    elif kind == "complex":
        write_raster(path, np.ones((3, size, size), np.complex64))
    elif kind == "not a tiff":
        path.write_text('<VRTDataset rasterXSize="20" rasterYSize="20"></VRTDataset>')


KINDS = ("missing file", "unreadable raster", "2 bands", "nothing but nodata", "not square", "is 24×24", "complex")


@pytest.mark.parametrize("kind", [*KINDS, "not a tiff"])
def test_bad_acquisitions_are_dropped_with_a_reason(tmp_path: Path, kind: str) -> None:
    raw = RawBreizhSR(write_raw(tmp_path), "train")
    whole = raw[0]
    path = list(raw.rows[0].acquisitions.values())[whole.nearest()]
    write_bad(tmp_path / path, kind)
    patch = raw[0]
    [(dropped, reason)] = patch.dropped
    assert dropped == path and {"not a tiff": "unreadable"}.get(kind, kind) in reason
    offsets = [view.offset for view in whole.views if view.offset != whole.views[whole.nearest()].offset]
    assert [view.offset for view in patch.views] == offsets
    assert abs(patch.single.offset) == min(map(abs, offsets))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "complex"])
def test_bad_truths_make_a_patch_unusable(tmp_path: Path, kind: str) -> None:
    raw = RawBreizhSR(write_raw(tmp_path, hr_size=80), "train")
    path = tmp_path / raw.rows[0].hr
    write_bad(path, kind, size=80)
    with pytest.raises(Unusable, match=kind.replace("is 24×24", "is 24×24, the first patch 80")):
        raw[0]


def test_truths_of_other_types_are_refused(tmp_path: Path) -> None:
    raw = RawBreizhSR(write_raw(tmp_path), "train")
    write_raster(tmp_path / raw.rows[0].hr, np.ones((3, 80, 80), np.uint16))
    with pytest.raises(Unusable, match="is uint16, 8-bit levels are expected"):
        raw[0]


def test_a_patch_without_usable_acquisitions(tmp_path: Path) -> None:
    raw = RawBreizhSR(write_raw(tmp_path), "train")
    for path in raw.rows[2].acquisitions.values():
        (tmp_path / path).unlink()
    with pytest.raises(Unusable, match=r"no acquisition can be used; the first: .*missing file"):
        raw[2]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32", "float32", "float64"])
def test_any_numeric_type(dtype: str) -> None:
    lr, clipped = to_int16(np.array([0, 1, 200]).astype(dtype), nodata=None)
    assert lr.tolist() == [0, 1, 200] and lr.dtype == np.int16 and clipped == 0


def test_values_that_do_not_fit() -> None:
    lr, clipped = to_int16(np.array([40000, 32767, 32768], np.uint16), nodata=None)
    assert lr.tolist() == [32767] * 3 and clipped == 2
    lr, clipped = to_int16(np.array([1.5, 2.5, np.nan, np.inf, -1e9, -9999]), nodata=-9999)
    assert lr.tolist() == [2, 2, 0, 0, -32768, 0] and clipped == 1
    assert to_int16(np.array([7, 8], np.uint8), nodata=7)[0].tolist() == [0, 8]
    with pytest.raises(Unusable, match="nothing but nodata"):
        to_int16(np.array([7, 7], np.uint8), nodata=7)


@pytest.mark.parametrize("size", [(300, 302), (303, 300), (96, 96), (8, 8), (2048, 2048)])
def test_other_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    """Whatever is square once its sides are multiples of 8."""
    root = write_raw(tmp_path, train=1, val=0, test=0, dates=1)
    raw = RawBreizhSR(root, "train")
    side = min(size) // 8 * 8
    write_raster(root / raw.rows[0].hr, np.full((3, *size), 7, np.uint8))
    write_raster(
        root / next(iter(raw.rows[0].acquisitions.values())), np.full((3, side // 4 + 1, side // 4 + 1), 7, np.uint16)
    )
    raw = RawBreizhSR(root, "train")
    assert raw.geometry == Geometry(hr_size=side, scale=4, length=8)
    assert raw[0].hr.shape == (3, side, side) and raw[0].single.lr.shape == (3, side // 4, side // 4)


@pytest.mark.parametrize("scale", [2, 8])
def test_other_scales(tmp_path: Path, scale: int) -> None:
    raw = RawBreizhSR(write_raw(tmp_path, train=1, val=0, test=0, scale=scale), "train")
    assert raw.geometry.scale == scale and raw[0].single.lr.shape == (3, 80 // scale, 80 // scale)


def test_the_first_usable_patch_sets_the_size(tmp_path: Path) -> None:
    root = write_raw(tmp_path)
    first, second = RawBreizhSR(root, "train").rows[:2]
    write_raster(root / first.hr, np.full((3, 48, 48), 7, np.uint8))  # its acquisitions are not of that size
    write_raster(root / second.hr, np.zeros((3, 48, 48), np.uint8))
    raw = RawBreizhSR(root, "test")
    assert raw.geometry.hr_size == 80
    for path in root.glob("spot6/*/*.tif"):
        path.unlink()
    with pytest.raises(DataError, match="no patch can be used; the first, 100: missing file"):
        RawBreizhSR(root, "train")


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["../outside.tif", "/etc/passwd", "spot6/../../outside.tif", "link/outside.tif", "link.tif"]
)
def test_no_path_leads_out_of_the_root(tmp_path: Path, path: str) -> None:
    root = write_raw(tmp_path / "root")
    write_raster(tmp_path / "outside.tif", np.full((3, 80, 80), 7, np.uint8))
    (root / "link").symlink_to(tmp_path)
    (root / "link.tif").symlink_to(tmp_path / "outside.tif")
    edit(root, lambda frame: frame.__setitem__("spot6_image", path))
    with pytest.raises(DataError, match="leads out of"):
        RawBreizhSR(root, "train")
    with pytest.raises(DataError, match="leads out of"):
        inside(root.resolve(), path)


def test_links_within_the_root_and_to_the_root(tmp_path: Path) -> None:
    root = write_raw(tmp_path / "root")
    (root / "spot6").rename(root / "elsewhere")
    (root / "spot6").symlink_to(root / "elsewhere")
    (tmp_path / "name").symlink_to(root)
    assert RawBreizhSR(tmp_path / "name", "train")[0].hr.any()


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "", ".", "spot6", "s3://bucket/x.tif", "/vsizip/x.zip/y.tif"])
def test_odd_paths(tmp_path: Path, path: str) -> None:
    root = write_raw(tmp_path)

    def change(frame: pd.DataFrame) -> None:
        frame.iloc[0, frame.columns.get_loc("spot6_image")] = path

    edit(root, change)
    with pytest.raises((Unusable, DataError)):
        RawBreizhSR(root, "train")[0]


def test_tables_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="doesn't exist"):
        RawBreizhSR(tmp_path / "absent", "train")
    with pytest.raises(DataError, match="not a raw data set"):
        RawBreizhSR(tmp_path, "train")
    root = write_raw(tmp_path)
    with pytest.raises(DataError, match="no split 'dates'; there are: train, val, test"):
        RawBreizhSR(root, "dates")
    edit(root, lambda frame: frame.replace({"split": {"val": "../../x"}}))
    with pytest.raises(DataError, match=r"row 128: split is '../../x'"):
        RawBreizhSR(root, "train")
    edit(root, lambda frame: frame.drop(columns="dates_sen2"))
    with pytest.raises(DataError, match="no column 'dates_sen2'"):
        RawBreizhSR(root, "train")


def test_further_tables_are_further_splits(tmp_path: Path) -> None:
    root = write_raw(tmp_path)
    frame = pd.read_pickle(root / "dataset_test.pkl")
    frame.assign(split="dates", dates_spot6=NOON).to_pickle(root / "dataset_dates.pkl")
    assert len(RawBreizhSR(root, "dates")) == 2
    frame.to_pickle(root / "dataset_dates.pkl")
    with pytest.raises(DataError, match="split 'test' is in both"):
        RawBreizhSR(root, "test")


# ---------------------------------------------------------------------------------------------------------------------


odd_cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(),
    st.text(max_size=12),
    st.binary(max_size=3),
    st.datetimes().map(pd.Timestamp),
    st.just(pd.NaT),
    st.lists(st.one_of(st.datetimes(), st.none(), st.text(max_size=2)), max_size=5),
    st.dictionaries(
        st.one_of(st.integers(), st.text(max_size=4)), st.one_of(st.text(max_size=9), st.none()), max_size=4
    ),
    st.sampled_from(["train", "val", "../../x", "spot6/train/100.tif", "sen2", "/etc/passwd", "\0"]),
)


@settings(max_examples=examples(50))
@given(data=st.data())
def test_tables_full_of_anything(shared_root: Path, data: st.DataObject) -> None:
    """A well-made table with odd cells: every row is a patch or Unusable, or the table is a DataError."""
    frame = pd.read_pickle(shared_root / "dataset_train.pkl").astype(object)
    for _ in range(data.draw(st.integers(1, 6))):
        row = data.draw(st.integers(0, len(frame) - 1))
        column = data.draw(st.sampled_from(["split", "spot6_image", "sen2_acquisitions", "dates_spot6", "dates_sen2"]))
        frame.iat[row, frame.columns.get_loc(column)] = data.draw(odd_cells)
    path = shared_root / "odd" / "dataset_train.pkl"
    path.parent.mkdir(exist_ok=True)
    frame.to_pickle(path)
    reader = PatchReader(shared_root, geometry=Geometry(hr_size=32, scale=4, length=8))
    try:
        for found in (found for rows in read_rows([path]).values() for found in rows):
            with contextlib.suppress(Unusable):
                assert reader.read(found).views
    except DataError as error:
        assert "leads out of" in str(error) or str(path) in str(error)
