"""Comparison of two files: by what they hold, with the first place where they part."""

import csv
import json
import math
import struct
import sys
import zipfile
import zlib
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engram.compare import Tolerance, compare_files, first_differing_byte
from engram.compare_formats import DECODERS
from engram.compare_values import close, differences

np = pytest.importorskip("numpy", reason="arrays are decoded by numpy")

QUIET_NAN, OTHER_NAN = (
    struct.unpack("<d", struct.pack("<Q", bits))[0]
    for bits in (
        0x7FF8000000000000,
        0xFFF8000000000001,
    )
)


@pytest.fixture
def pair(tmp_path):
    """Write two files with one function and compare them."""

    def compare(name, write, a, b, **tolerance):
        paths = [tmp_path / side / name for side in ("a", "b")]
        for path, value in zip(paths, (a, b), strict=True):
            path.parent.mkdir(exist_ok=True)
            write(path, value)
        return compare_files(*paths, Tolerance(**tolerance))

    return compare


def npy(path, value):
    np.save(path, value)


def text(path, value):
    path.write_bytes(value if isinstance(value, bytes) else value.encode())


def as_json(path, value):
    path.write_text(json.dumps(value))


def test_equal_bytes_are_identical_and_an_unknown_format_says_so(pair):
    assert pair("a.npy", npy, np.arange(3), np.arange(3)).reason == "the same bytes"
    result = pair("a.weights", text, "x", "x")
    assert (result.verdict, result.reason) == (
        "identical",
        "the same bytes; compared by bytes, .weights is not decoded",
    )


@pytest.mark.parametrize(("a", "b", "at"), [("abc", "abd", 2), ("ab", "abc", 2), ("", "x", 0)])
def test_unknown_format_is_different_at_its_first_byte(pair, a, b, at):
    result = pair("a.weights", text, a, b)
    assert result.verdict == "different"
    assert result.first.index == (at,)
    assert "compared by bytes, .weights is not decoded" in result.reason


def test_first_differing_byte_is_found_behind_the_first_block(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(bytes(3_000_000))
    b.write_bytes(bytes(2_999_999) + b"x")
    assert first_differing_byte(a, b) == 2_999_999
    assert first_differing_byte(a, a) is None


def test_zip_times_and_compression_of_npz_are_no_difference(pair):
    def write(path, compress):
        save = np.savez_compressed if compress else np.savez
        save(path, weights=np.arange(6.0).reshape(2, 3), bias=np.zeros(2))
        if compress:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                members = {name: archive.read(name) for name in names}
            with zipfile.ZipFile(path, "w") as archive:
                for name in reversed(names):
                    archive.writestr(zipfile.ZipInfo(name, (2001, 2, 3, 4, 5, 6)), members[name])

    result = pair("a.npz", write, False, True)
    assert (result.verdict, result.reason) == ("identical", "the same content in other bytes")


def test_first_difference_of_an_npz_names_key_index_and_both_values(pair):
    def write(path, value):
        np.savez(path, first=np.ones(3), weights=np.array([[1, 2], [3, value]], dtype=np.float32))

    result = pair("a.npz", write, 4, 5)
    assert result.verdict == "different"
    assert result.first.as_json() == {"key": "weights", "index": [1, 1], "a": "4.0", "b": "5.0"}
    assert result.reason == ("weights[1, 1]: 4.0 != 5.0 (1 of 4 values differ, the greatest by 1)")


def test_keys_that_only_one_archive_has_are_named(pair):
    def write(path, name):
        np.savez(path, **{name: np.ones(2)})

    first = pair("a.npz", write, "old", "new").first
    assert (first.key, first.a, first.b) == ("old", "array of float64, shape (2,)", "absent")


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (np.zeros(2, "f4"), np.zeros(2, "f8"), "dtype float32 != dtype float64"),
        (np.zeros((2, 3)), np.zeros((3, 2)), "shape (2, 3) != shape (3, 2)"),
        (np.array(["a", "b"]), np.array(["a", "c"]), "[1]: b != c"),
        (np.array([True, False]), np.array([True, True]), "[1]: False != True"),
        (np.array(1.5), np.array(2.5), "1.5 != 2.5"),
        (np.array([1j, 2]), np.array([1j, 3]), "[1]: (2+0j) != (3+0j)"),
        (np.array(["2001-01-01"], "M8[D]"), np.array(["2002-01-01"], "M8[D]"), "[0]: 2001-01-01"),
        (np.array([(1, 2.0)], "i4,f8"), np.array([(1, 3.0)], "i4,f8"), "f1[0]: 2.0 != 3.0"),
    ],
)
def test_arrays_differ_in_dtype_shape_or_the_first_value(pair, a, b, reason):
    result = pair("a.npy", npy, a, b, rtol=0.1)
    assert result.verdict == "different"
    assert result.reason.startswith(reason)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16", "g"])
def test_every_nan_equals_every_nan_in_arrays(pair, dtype):
    a = np.array([1, QUIET_NAN, QUIET_NAN, np.inf]).astype(dtype)
    b = np.array([1, OTHER_NAN, -QUIET_NAN, np.inf]).astype(dtype)
    assert pair("a.npy", npy, a, b).verdict == "identical"
    assert pair("a.npy", npy, a, np.array([1, 0, 0, np.inf]).astype(dtype)).verdict == "different"


def test_missing_times_are_equal(pair):
    a = np.array(["NaT", "2001-01-01"], "M8[s]")
    assert pair("a.npy", npy, a, a.astype(">M8[s]")).verdict == "identical"


def test_signed_zeros_are_equal_but_not_identical(pair):
    result = pair("a.npy", npy, np.array([0.0, 1.0]), np.array([-0.0, 1.0]))
    assert result.verdict == "equal"
    assert (result.first.index, result.first.a, result.first.b) == ((0,), "0.0", "-0.0")
    assert pair("a.json", as_json, [0.0], [-0.0]).verdict == "equal"


def test_memory_and_byte_order_are_no_difference(pair):
    a = np.arange(6.0).reshape(2, 3)
    assert pair("a.npy", npy, a, np.asfortranarray(a)).verdict == "identical"
    assert pair("a.npy", npy, a, a.astype(">f8")).verdict == "identical"


def test_empty_arrays_are_compared_by_shape(pair):
    a, b = np.zeros((0, 3)), np.asfortranarray(np.zeros((0, 3)))
    assert pair("a.npy", npy, a, b).verdict == "identical"
    assert pair("a.npy", npy, a, np.zeros((0, 4))).verdict == "different"


def test_pickled_arrays_are_compared_by_bytes_and_never_loaded(pair, tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __init__(self, count):
            self.count = count

        def __reduce__(self):
            return (type(marker).touch, (marker,) if self.count else (marker, 0o600))

    def write(path, count):
        np.save(path, np.array([Evil(count)], dtype=object), allow_pickle=True)

    result = pair("a.npy", write, 0, 1)
    assert result.verdict == "different"
    assert "compared by bytes, .npy could not be decoded: ValueError" in result.reason
    assert not marker.exists()


def test_differences_are_found_in_later_blocks(pair, monkeypatch):
    from engram import compare_arrays

    monkeypatch.setattr(compare_arrays, "BLOCK", 10)
    a = np.zeros((20, 3))
    b = a.copy()
    b[7, 2], b[13, 1] = 1e-9, 1
    result = pair("a.npy", npy, a, b, atol=1e-6)
    assert result.first.index == (13, 1)
    assert "2 of 60 values differ, 1 beyond the tolerance, the greatest by 1" in result.reason
    assert pair("a.npy", npy, a, b, atol=2).first.index == (7, 2)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(width=32), st.floats(width=32)), min_size=1, max_size=5),
    st.sampled_from([0.0, 1e-6, 0.5]),
    st.sampled_from([0.0, 1e-30, 2.0]),
)
def test_array_tolerance_agrees_with_exact_arithmetic(values, rtol, atol):
    from engram.compare_values import Array

    a, b = (np.array(side, "f4") for side in zip(*values, strict=True))
    found = list(differences(Array("f4", a), Array("f4", b), Tolerance(rtol, atol)))
    verdict = "identical" if not found else "equal" if found[0].within else "different"
    assert verdict == expected_verdict(a.tolist(), b.tolist(), rtol, atol)


def expected_verdict(a, b, rtol, atol):
    bits = [[struct.pack("<d", QUIET_NAN if x != x else x) for x in side] for side in (a, b)]
    if bits[0] == bits[1]:
        return "identical"
    for x, y in zip(a, b, strict=True):
        if x == y or (x != x and y != y):
            continue
        if not (math.isfinite(x) and math.isfinite(y)):
            return "different"
        distance = abs(Fraction(x) - Fraction(y))
        allowed = Fraction(atol) + Fraction(rtol) * abs(Fraction(x))
        # The comparer rounds once or twice in extended precision: a tie may fall to either side.
        assume(abs(distance - allowed) > allowed / 10**15)
        if distance > allowed:
            return "different"
    return "equal"


@pytest.mark.parametrize(
    ("a", "b", "tolerance", "expected"),
    [
        (1.0, 1.1, {"atol": 0.2}, True),
        (1.0, 1.1, {"rtol": 0.05}, False),
        (math.inf, 1.0, {"rtol": 1.0}, False),
        (math.inf, math.inf, {}, True),
        (math.inf, -math.inf, {"rtol": 1.0, "atol": 1.0}, False),
        (math.nan, 1.0, {"atol": 1e9}, False),
        (10**400, 10**400 + 1, {}, False),
        (10**400, 10**400 + 1, {"atol": 1.0}, True),
        (2**63, 2**63 + 1, {"rtol": 1e-20}, False),
        (100, 110, {"rtol": 0.1}, True),
    ],
)
def test_tolerance_is_relative_to_the_recorded_number(a, b, tolerance, expected):
    assert close(a, b, Tolerance(**tolerance)) is expected


def test_integers_of_64_bits_are_compared_exactly(pair):
    a, b = np.array([2**63], "u8"), np.array([2**63 + 1], "u8")
    assert pair("a.npy", npy, a, b).verdict == "different"
    assert pair("a.npy", npy, a, b, atol=1).verdict == "equal"
    a, b = np.array([-(2**63)]), np.array([2**63 - 1])
    assert "the greatest by 1.84e+19" in pair("a.npy", npy, a, b).reason


@pytest.mark.parametrize(
    ("a", "b", "verdict", "reason"),
    [
        ('{"a": 1, "b": [1, 2]}', '{ "b":[1,2],\n"a":1}', "identical", "the same content"),
        ('{"a": {"b": [1, 2]}}', '{"a": {"b": [1, 3]}}', "different", "a/b[1]: 2 != 3"),
        ('{"a": 1}', '{"a": 1, "b": 2}', "different", "b: absent != 2"),
        ("[1, 2]", "[1]", "different", "2 items != 1 items"),
        ("[1]", "[1.0]", "equal", "within rtol 0, atol 0; first [0]: 1 != 1.0"),
        ("[1]", "[true]", "different", "[0]: 1 != True (int and bool)"),
        ("[null]", "[0]", "different", "[0]: None != 0"),
        ('["a"]', '["b"]', "different", "[0]: 'a' != 'b'"),
        ("[NaN, 1]", "[NaN,1]", "identical", "the same content"),
        ("{", "[", "different", "byte 0: 0x7b != 0x5b; compared by bytes, .json could not be"),
        ('{"a":1,"a":2}', '{"a":2}', "different", "byte 5"),
        ("[" * 100_000, "[" * 99_999, "different", "byte 99999"),
    ],
)
def test_json_is_compared_by_value(pair, a, b, verdict, reason):
    result = pair("a.json", text, a, b)
    assert result.verdict == verdict
    assert result.reason.startswith(reason)


def test_json_lines_are_compared_line_by_line(pair):
    result = pair("a.jsonl", text, '{"a": 1}\n{"a": 2}\n', '{"a": 1}\n{"a": 3}\n')
    assert result.reason == "[1]/a: 2 != 3"
    assert pair("a.jsonl", text, '{"a":1}\n', '{"a": 1}').verdict == "identical"


def test_toml_is_compared_by_value(pair):
    a = 'a = 1\n[t]\nd = 2001-01-01 # when\nx = [nan, "s"]\n'
    b = "a = 0x1\nt.d = 2001-01-01\nt.x = [ nan, 's' ]\n"
    assert pair("a.toml", text, a, b).verdict == "identical"
    changed = pair("a.toml", text, a, b.replace("2001", "2002"))
    assert changed.first.key == "t/d"


def test_tables_are_compared_cell_by_cell(pair):
    a = "step,loss,note\n1,0.5,x\n2,0.25,y\n"
    assert (
        pair("a.csv", text, a, a.replace("\n", "\r\n").replace("x", '"x"')).verdict == "identical"
    )
    assert pair("a.csv", text, a, b"\xef\xbb\xbf" + a.encode()).verdict == "identical"
    result = pair("a.csv", text, a, a.replace("0.25", "0.26"))
    assert result.first.as_json() == {"key": "loss", "index": [2, 1], "a": "'0.25'", "b": "'0.26'"}
    assert pair("a.csv", text, a, a.replace("0.25", "0.26"), atol=0.1).verdict == "equal"
    assert pair("a.csv", text, a, a.replace("0.25", "0.250")).verdict == "equal"
    assert pair("a.csv", text, a, a.replace("y", "z"), atol=9).first.key == "note"
    assert pair("a.csv", text, "a\nnan\n", "a\nNaN\n").verdict == "equal"


def test_columns_of_a_table_without_header_have_no_name(pair):
    first = pair("a.csv", text, "1,2\n3,4\n", "1,2\n3,5\n").first
    assert (first.key, first.index, first.a, first.b) == ("", (1, 1), "'4'", "'5'")


def test_tables_of_other_length_or_width_are_different(pair):
    a = "a,b\n1,2\n"
    longer = pair("a.csv", text, a, a + "3,4\n")
    assert longer.reason == "[2]: the end != ['3', '4'] (one table ends here)"
    assert pair("a.csv", text, a + "3,4\n", a).first.index == (2,)
    assert pair("a.csv", text, a, "a,b\n1,2,3\n").reason == "[1]: 2 cells != 3 cells"


def test_tab_separated_tables_and_huge_cells_are_read(pair):
    limit = csv.field_size_limit()
    a = f"a\tb\n{'x' * 200_000}\t1,5\n"
    result = pair("a.TSV", text, a, a.replace("1,5", "1,6"))
    assert (result.first.key, result.first.index) == ("b", (1, 1))
    assert csv.field_size_limit() == limit


def test_text_that_is_no_utf8_is_compared_by_bytes(pair):
    result = pair("a.csv", text, b"a\n\xff\n", b"a\n\xfe\n")
    assert "compared by bytes, .csv could not be decoded: UnicodeDecodeError" in result.reason


class TestTorch:
    torch = pytest.importorskip("torch", reason="decodes .pt")

    def save(self, path, value):
        self.torch.save(value, path)

    def test_content_is_compared_apart_from_the_container(self, pair):
        def write(path, new):
            state = {"model": {"w": self.torch.arange(6).reshape(2, 3)}, "lr": [0.1, None]}
            self.torch.save(state, path, _use_new_zipfile_serialization=new)

        assert pair("a.pt", write, True, False).verdict == "identical"

    def test_first_difference_names_the_tensor(self, pair):
        a = {"model": {"w": self.torch.zeros(2, 3)}}
        b = {
            "model": {
                "w": self.torch.zeros(2, 3).index_put(
                    (self.torch.tensor(1),), self.torch.tensor(2.0)
                )
            }
        }
        first = pair("a.pt", self.save, a, b).first
        assert first.as_json() == {"key": "model/w", "index": [1, 0], "a": "0.0", "b": "2.0"}

    @pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float16", "complex64", "int8"])
    def test_types_that_numpy_lacks_are_compared_too(self, pair, name):
        dtype = getattr(self.torch, name)
        a = self.torch.tensor([1.0, 2.0]).to(dtype)
        b = self.torch.tensor([1.0, 4.0]).to(dtype)
        result = pair("a.pth", self.save, {"x": a}, {"x": b})
        assert result.first.index == (1,)
        other = pair("a.pth", self.save, {"x": a}, {"x": a.to(self.torch.complex128)})
        assert other.first.a == f"dtype torch.{name}"

    def test_a_tuple_is_no_list(self, pair):
        assert pair("a.pt", self.save, [1, (2,)], [1, [2]]).first.key == "[1]"

    def test_what_weights_only_refuses_is_compared_by_bytes(self, pair):
        result = pair("a.pt", self.save, {"x": Fraction(1, 2)}, {"x": Fraction(1, 3)})
        assert result.verdict == "different"
        assert "compared by bytes, .pt could not be decoded: UnpicklingError" in result.reason

    def test_sparse_tensors_are_compared_by_bytes(self, pair):
        a, b = (self.torch.eye(n).to_sparse() for n in (2, 3))
        assert "compared by bytes" in pair("a.pt", self.save, a, b).reason


class TestParquet:
    pyarrow = pytest.importorskip("pyarrow", reason="decodes .parquet")

    def save(self, path, columns, **options):
        import pyarrow.parquet

        pyarrow.parquet.write_table(self.pyarrow.table(columns), path, **options)

    def test_compression_and_row_groups_are_no_difference(self, pair):
        def write(path, codec):
            columns = {"x": [1.0, math.nan, None, 4.0], "s": ["a", None, "c", "d"]}
            self.save(path, columns, compression=codec, row_group_size=1 + len(codec))

        assert pair("a.parquet", write, "none", "snappy").verdict == "identical"

    def test_first_difference_names_column_and_row(self, pair):
        a, b = {"x": [1.0, 2.0], "s": ["a", "b"]}, {"x": [1.0, 2.5], "s": ["a", "b"]}
        result = pair("a.parquet", self.save, a, b)
        assert result.first.as_json() == {"key": "x", "index": [1], "a": "2.0", "b": "2.5"}
        assert pair("a.parquet", self.save, a, b, atol=1).verdict == "equal"

    @pytest.mark.parametrize(
        ("a", "b", "key"),
        [
            ({"x": [1]}, {"x": [1.0]}, "schema[0][1]"),
            ({"x": [1]}, {"y": [1]}, "schema[0][0]"),
            ({"x": [1]}, {"x": [1, 2]}, "rows"),
            ({"x": ["a", "b"]}, {"x": ["a", "c"]}, "x[1]"),
            ({"x": [[1.0], [2.0, 3.0]]}, {"x": [[1.0], [2.0, 4.0]]}, "x[1][1]"),
            ({"x": [1, None]}, {"x": [1, 2]}, None),
        ],
    )
    def test_schema_length_and_values_count(self, pair, a, b, key):
        result = pair("a.parquet", self.save, a, b)
        assert result.verdict == "different"
        assert key in (None, result.first.key)

    def test_a_range_index_of_pandas_counts(self, pair):
        pandas = pytest.importorskip("pandas")

        def write(path, start):
            pandas.DataFrame({"x": [1, 2]}, index=range(start, start + 2)).to_parquet(path)

        assert pair("a.parquet", write, 0, 5).first.key == "pandas index[0]/start"


@pytest.mark.parametrize(
    ("suffix", "package"), [(".npy", "numpy"), (".pt", "torch"), (".parquet", "pyarrow.parquet")]
)
def test_without_its_package_a_format_is_compared_by_bytes(pair, monkeypatch, suffix, package):
    monkeypatch.setitem(sys.modules, package, None)
    result = pair(f"a{suffix}", text, "one", "two")
    assert result.verdict == "different"
    assert f"{suffix} needs a package that is not here" in result.reason


@pytest.mark.parametrize("suffix", sorted(DECODERS))
def test_files_that_are_not_what_they_say_are_compared_by_bytes(pair, suffix):
    result = pair(f"a{suffix}", text, b"\x00\xff garbage 1", b"\x00\xff garbage 2")
    assert result.verdict == "different"


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_a_value_has_no_difference_from_itself_read_back(value):
    again = json.loads(json.dumps(value))
    assert list(differences(value, again, Tolerance())) == []


def safetensors(path, tensors, metadata=None, dtypes=None):
    """Write the format by hand, after its specification."""
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    names = {"float32": "F32", "int64": "I64", "bool": "BOOL", "uint16": "BF16"}
    for name, array in tensors.items():
        code = (dtypes or {}).get(name, names[str(array.dtype)])
        place = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": place}
        data += array.tobytes()
    top = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(top)) + top + data)


def test_safetensors_are_compared_by_tensor_and_their_order_is_none(pair):
    one, two = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([True, False])
    a = {"w": one, "on": two}
    result = pair("m.safetensors", safetensors, a, {"on": two, "w": one})
    assert (result.verdict, result.reason) == ("identical", "the same content in other bytes")
    changed = one.copy()
    changed[1, 2] = 7
    result = pair("m.safetensors", safetensors, a, {**a, "w": changed})
    assert (result.first.key, result.first.index) == ("w", (1, 2))
    assert (result.first.a, result.first.b) == ("5.0", "7.0")
    assert pair("m.safetensors", safetensors, a, {**a, "w": changed}, atol=2).verdict == "equal"
    result = pair("m.safetensors", safetensors, a, {"w": one})
    assert result.first.key == "on"


def test_safetensors_metadata_and_empty_tensors_count(pair):
    none = {"e": np.empty((0, 3), np.float32)}
    result = pair("m.safetensors", lambda path, meta: safetensors(path, none, meta), {}, {"k": "v"})
    assert (result.verdict, result.first.key) == ("different", "__metadata__/k")


def test_bfloat16_of_safetensors_is_read_exactly(pair):
    bits = np.array([0x3F80, 0x4049], np.uint16)
    result = pair("m.safetensors", safetensors, {"w": bits}, {"w": bits + np.uint16([0, 1])})
    assert (result.first.a, result.first.b) == ("3.140625", "3.15625")


@pytest.mark.parametrize("damage", [b"", b"12345678", struct.pack("<Q", 1 << 40) + b"{}"])
def test_damaged_safetensors_are_compared_by_bytes(pair, tmp_path, damage):
    whole = tmp_path / "whole"
    safetensors(whole, {"w": np.ones(3, np.float32)})
    for bad in (damage, whole.read_bytes()[:-1], whole.read_bytes() + b"x"):
        result = pair("m.safetensors", text, whole.read_bytes(), bad)
        assert "could not be decoded" in result.reason


def test_unknown_types_of_safetensors_are_compared_by_bytes(pair):
    def write(path, values):
        safetensors(path, {"w": np.float32(values)}, dtypes={"w": "F4"})

    assert "type 'F4'" in pair("m.safetensors", write, [1], [2]).reason


def test_safetensors_are_read_as_their_own_package_writes_them(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="writes the files")
    from engram import safetensors_file

    given = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.array(3, np.int8),
        "c": np.array([1 + 2j], np.complex64),
        "d": np.zeros((2, 0), np.float16),
        "e": np.array([[True]]),
    }
    path = tmp_path / "m.safetensors"
    numpy.save_file(given, path, {"made": "here"})
    metadata, tensors = safetensors_file.read(path)
    assert metadata == {"made": "here"}
    assert tensors.keys() == given.keys()
    for name, array in given.items():
        values = tensors[name].values
        assert (values.shape, values.dtype) == (array.shape, array.dtype)
        assert values.tolist() == array.tolist()


@pytest.fixture
def image():
    """PIL.Image, and how to save one."""
    return pytest.importorskip("PIL.Image", reason="decodes images")


PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_images_are_compared_by_pixel(pair, image, suffix):
    def write(path, values):
        image.fromarray(values).save(path)

    changed = PIXELS.copy()
    changed[1, 2, 0] += 1
    result = pair(f"a{suffix}", write, PIXELS, changed)
    assert (result.verdict, result.first.key, result.first.index) == ("different", "[0]", (1, 2, 0))
    assert pair(f"a{suffix}", write, PIXELS, changed, atol=1).verdict == "equal"
    assert "shape" in pair(f"a{suffix}", write, PIXELS, PIXELS[:2]).reason
    assert "dtype RGB pixels" in pair(f"a{suffix}", write, PIXELS, PIXELS[..., 0]).reason


def test_metadata_compression_and_palettes_of_images_are_no_difference(pair, image):
    from PIL.PngImagePlugin import PngInfo

    def write(path, how):
        found = image.fromarray(PIXELS)
        if how == "palette":
            found = found.quantize(256, dither=image.Dither.NONE)
            found.save(path)
        elif how == "colors":
            found.quantize(256, dither=image.Dither.NONE).convert("RGB").save(path)
        else:
            words = PngInfo()
            words.add_text("Software", how)
            found.save(path, pnginfo=words, dpi=(72, 72), compress_level=len(how))

    assert pair("a.png", write, "one", "other").verdict == "identical"
    assert pair("a.png", write, "palette", "colors").verdict == "identical"


def test_photographs_are_compared_by_decoded_pixel(pair, image):
    def write(path, comment):
        image.fromarray(PIXELS).save(path, comment=comment)

    assert pair("a.JPG", write, b"one", b"two").verdict == "identical"


def test_every_frame_of_an_image_counts(pair, image):
    def write(path, last):
        frames = [image.fromarray(np.full((2, 2), value, np.uint8)) for value in (1, 2, last)]
        frames[0].save(path, save_all=True, append_images=frames[1:])

    result = pair("a.tiff", write, 3, 4)
    assert (result.first.key, result.first.index) == ("[2]", (0, 0))


def test_deep_gray_is_compared_exactly_and_deep_colors_by_bytes(pair, image):
    def gray(path, value):
        image.fromarray(np.full((2, 2), value, np.uint16)).save(path)

    assert pair("a.png", gray, 256, 257).first.a == "256"
    assert pair("a.tif", gray, 256, 257).verdict == "different"
    result = pair("a.png", deep_png, 0x0101, 0x0102)
    assert result.verdict == "different"
    assert "more than 8 bits" in result.reason


def deep_png(path, value):
    """One pixel with three colors of 16 bits."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">HHH", value, value, value)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b""))


def test_transparent_color_is_a_part_of_the_pixels(pair, image):
    def write(path, transparent):
        found = image.fromarray(PIXELS)
        found.save(path, **({"transparency": (0, 1, 2)} if transparent else {}))

    assert pair("a.png", write, True, False).verdict == "different"


def test_what_is_no_image_is_compared_by_bytes(pair, image):
    assert "could not be decoded" in pair("a.png", text, "x", "y").reason


def test_images_without_their_package_are_compared_by_bytes(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert ".png needs a package that is not here" in pair("a.png", text, "x", "y").reason
