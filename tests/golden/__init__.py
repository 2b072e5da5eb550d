from tests.golden.large import FOLDER, ROOT, SHARED, Golden, names, read_index

__all__ = ["FOLDER", "ROOT", "SHARED", "Golden", "names", "read_index"]
