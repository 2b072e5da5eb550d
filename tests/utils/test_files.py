"""Names that come from elsewhere."""

from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.soak import examples
from utils.files import quoted


@pytest.mark.parametrize("label", [100, "20200405_r0002_c0004", "a-b.c~d"])
def test_plain_labels_stay_as_they_are(label: object) -> None:
    assert quoted(label) == str(label)


@settings(max_examples=examples(50))
@given(label=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
@example("..").via("the folder above")
@example("x/../../../y").via("leads out")
@example("/etc/passwd").via("absolute")
@example("a\0b").via("no file has that name")
@example("é" * 5000).via("longer than names can be")
def test_any_label_names_a_file_in_its_folder(label: str) -> None:
    name = f"{quoted(label)}.png"
    assert Path(name).name == name and len(name) < 220 and name.isascii() and "\0" not in name
    assert len(label.encode()) > 50 or unquote(quoted(label)) == label  # a byte takes up to three characters


def test_different_labels_have_different_names() -> None:
    labels = ["a", "a/", "a%2F", ".", "..", "%2E", "é" * 500, "é" * 501]
    assert len({quoted(label) for label in labels}) == len(labels)
