"""The header of a GGUF file, and every way in which it can lie."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from compiler.cli import main
from compiler.errors import WispError
from compiler.sources.gguf.reader import read_header

# Value types of the format.
U8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    """A tensor's entry; `shape` as in the file, columns first."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def build(
    pairs: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: int = 128,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """The bytes of a file with one F32 tensor of 32 elements, unless told otherwise."""
    pairs = [pair("general.architecture", STRING, text("llama"))] if pairs is None else pairs
    tensors = [tensor("t", (32,))] if tensors is None else tensors
    tensor_count, key_count = counts or (len(tensors), len(pairs))
    head = magic + struct.pack("<IQQ", version, tensor_count, key_count) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def read(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    return read_header(path)


def test_a_header_is_read_as_the_package_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("a.u32", 2**32 - 1)
    writer.add_int32("a.i32", -5)
    writer.add_uint64("a.u64", 2**63)
    writer.add_float32("a.f32", 1e-5)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "Fluß 光 🙂")
    writer.add_array("a.strings", ["x", "", "yy"])
    writer.add_array("a.numbers", [1, 2, 3])
    writer.add_array("a.floats", [0.5, 500000.0])
    first, second = np.arange(12, dtype=np.float32).reshape(3, 4), np.arange(5, dtype=np.float16)
    writer.add_tensor("first", first)
    writer.add_tensor("second", second)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(path)
    assert header.metadata == {
        "general.architecture": "llama",
        "a.u32": 2**32 - 1,
        "a.i32": -5,
        "a.u64": 2**63,
        "a.f32": 1e-5,
        "a.f64": 0.1,
        "a.bool": True,
        "a.string": "Fluß 光 🙂",
        "a.strings": ["x", "", "yy"],
        "a.numbers": [1, 2, 3],
        "a.floats": [0.5, 500000.0],
    }
    assert header.metadata["a.bool"] is True
    reference = {t.name: t for t in gguf.GGUFReader(path).tensors}
    for name, array in (("first", first), ("second", second)):
        found = header.tensors[name]
        assert (found.shape, found.offset, found.nbytes) == (array.shape, reference[name].data_offset, array.nbytes)


def test_the_built_file_is_good(tmp_path: Path) -> None:
    header = read(tmp_path, build())
    assert header.tensors["t"].shape == (32,)
    assert read(tmp_path, build(version=2)).metadata == {"general.architecture": "llama"}


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "no GGUF file.*an empty file"),
    "other": (lambda: b"PK\3\4" + bytes(60), "no GGUF file"),
    "ggml": (lambda: b"lmgg" + bytes(60), "older than GGUF.*ggml"),
    "ggjt": (lambda: b"tjgg" + bytes(60), "older than GGUF.*ggjt"),
    "only magic": (lambda: b"GGUF", "damaged.*4 bytes"),
    "version 1": (lambda: build(version=1), "not supported.*version 1.*2 or 3"),
    "version 4": (lambda: build(version=4), "not supported.*version 4"),
    "big endian": (lambda: build(version=3 << 24), "big-endian version 3"),
    "tensor count": (lambda: build(counts=(2**63, 1)), "tensors, more than"),
    "key count": (lambda: build(counts=(1, 2**63)), "metadata keys, more than"),
    "too many keys": (lambda: build(counts=(1, 9)), "damaged"),
    "too few keys": (lambda: build(counts=(1, 0)), "damaged"),
    "no tensors": (lambda: build(tensors=[]), "no tensors"),
    "key length": (lambda: build([struct.pack("<Q", 2**62)]), "a metadata key of 4611686018427387904 bytes"),
    "text length": (
        lambda: build([text("k") + struct.pack("<IQ", STRING, 2**40)]),
        "metadata 'k' of 1099511627776 bytes",
    ),
    "text beyond the end": (
        lambda: build([text("k") + struct.pack("<IQ", STRING, 10**6)]),
        "metadata 'k' of 1000000 bytes.*complete",
    ),
    "key twice": (lambda: build([pair("k", U32, bytes(4))] * 2), "'k' twice"),
    "value type": (lambda: build([pair("k", 13, bytes(8))]), "'k' of unknown type 13"),
    "not UTF-8": (lambda: build([pair("k", STRING, text(b"\xff\xfe"))]), "not UTF-8"),
    "truth value": (lambda: build([pair("k", BOOL, b"\2")]), "neither 0 nor 1"),
    "nested array": (lambda: build([pair("k", ARRAY, struct.pack("<IQ", ARRAY, 1))]), "array of arrays"),
    "array count": (lambda: build([pair("k", ARRAY, struct.pack("<IQ", U8, 2**60))]), "elements in metadata 'k'"),
    "array beyond the end": (
        lambda: build([pair("k", ARRAY, struct.pack("<IQ", U64, 10**6))]),
        "8000000 bytes.*complete",
    ),
    "array of texts": (lambda: build([pair("k", ARRAY, struct.pack("<IQ", STRING, 10**6))]), "damaged"),
    "alignment 0": (lambda: build([pair("general.alignment", U32, bytes(4))]), "general.alignment 0"),
    "alignment 24": (lambda: build([pair("general.alignment", U32, b"\x18\0\0\0")]), "general.alignment 24"),
    "alignment text": (lambda: build([pair("general.alignment", STRING, text("32"))]), "general.alignment '32'"),
    "quantization version": (
        lambda: build([pair("general.quantization_version", U32, b"\1\0\0\0")]),
        "quantization version.*got 1.*expected 2",
    ),
    "split": (lambda: build([pair("split.count", U32, b"\3\0\0\0")]), "several parts.*the first one"),
    "parts": (lambda: build([pair("split.count", U32, b"\0\0\0\1")]), "split.count 16777216"),
    "parts text": (lambda: build([pair("split.count", STRING, text("3"))]), "split.count '3'"),
    "rank 0": (lambda: build(tensors=[tensor("t", ())]), "tensor t of 0 dimensions"),
    "rank": (lambda: build(tensors=[text("t") + struct.pack("<I", 2**31)]), "2147483648 dimensions"),
    "size 0": (lambda: build(tensors=[tensor("t", (0,))]), r"tensor t of shape \[0\]"),
    "size": (lambda: build(tensors=[tensor("t", (2**62, 4))]), "tensor t of shape"),
    "huge": (lambda: build(tensors=[tensor("t", (2**39, 2**39, 2**39, 2**39))]), "tensor t ends at byte"),
    "unknown type": (lambda: build(tensors=[tensor("t", (32,), 99)]), "t of unknown type 99.*Q4_K"),
    "known type": (lambda: build(tensors=[tensor("t", (256, 1), 15)]), "t of Q8_K.*Q6_K"),
    "integers": (lambda: build(tensors=[tensor("t", (32,), 26)]), "t of I32"),
    "columns": (lambda: build(tensors=[tensor("t", (40, 2), 2)]), "40 columns, no multiple of Q4_0's 32"),
    "tensor twice": (lambda: build(tensors=[tensor("t", (32,)), tensor("t", (32,), 0, 128)]), "tensor t twice"),
    "overlap": (lambda: build(tensors=[tensor("t", (32,)), tensor("u", (32,), 0, 64)]), "u begins at byte 64.*128"),
    "hole": (lambda: build(tensors=[tensor("t", (32,), 0, 32)], data=512), "t begins at byte 32.*instead of 0"),
    "offset": (lambda: build(tensors=[tensor("t", (32,), 0, 2**63)]), "t begins at byte"),
    "cut short": (lambda: build(data=127), "tensor t ends at byte.*complete"),
    "tensor name": (lambda: build(tensors=[tensor("t" * 5000, (32,))]), "a tensor's name of 5000 bytes"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_lying_header_is_refused(tmp_path: Path, case: str) -> None:
    content, named = BAD[case]
    with pytest.raises(WispError, match=named):
        read(tmp_path, content())


def test_every_cut_is_refused(tmp_path: Path) -> None:
    whole = build([pair("k", ARRAY, struct.pack("<IQ", STRING, 2) + text("ab") + text("c"))])
    read(tmp_path, whole)
    for length in range(len(whole)):
        with pytest.raises(WispError):
            read(tmp_path, whole[:length])


def test_no_random_damage_is_a_bug(tmp_path: Path) -> None:
    """Whatever a byte of the header becomes, the answer is a header or a WispError."""
    whole = build([pair("k", ARRAY, struct.pack("<IQ", U8, 3) + b"abc"), pair("s", STRING, text("word"))])
    rng = np.random.default_rng(0)
    refused = 0
    for position in range(4, len(whole) - 128):
        for value in (0, 255, int(rng.integers(256))):
            damaged = bytearray(whole)
            damaged[position] = value
            try:
                read(tmp_path, bytes(damaged))
            except WispError:
                refused += 1
    assert refused > 100


def test_the_command_line_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(build(version=7))
    output = tmp_path / "out"
    assert main(["compile", str(path), "-o", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "version 7" in error
    assert not output.exists()
