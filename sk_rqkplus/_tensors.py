"""Files of arrays in the safetensors format, in one pass with their checksum.

The library of that name reads a file by its name, so that what was checked need not be
what is parsed, and its errors on a full disk are no OSError.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from os import PathLike
from typing import Any, BinaryIO

import numpy as np

# Names that the format has for types, in the byte order that it wants.
TYPES = {
    "BOOL": np.dtype("?"),
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
CODES = {dtype: code for code, dtype in TYPES.items()}
# Most bytes of a header, which is parsed before its checksum is known.
MAX_HEADER = 2**23
MAX_DIMENSIONS = 32


class TensorsError(ValueError):
    """A file that is no safetensors file."""


def is_storable(dtype: np.dtype) -> bool:
    """Whether the format has a type."""
    return dtype.newbyteorder("<") in CODES


def write_tensors(
    path: str | PathLike, arrays: Mapping[str, np.ndarray]
) -> tuple[int, str]:
    """Write arrays to a new file; return its length and SHA-256."""
    header: dict[str, Any] = {}
    contents, end = [], 0
    # Wide types first, so that every array is aligned.
    for name in sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name)):
        array = arrays[name]
        dtype = array.dtype.newbyteorder("<")
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": CODES[dtype],
            "shape": array.shape,
            "data_offsets": [start, end],
        }
        contents.append(np.ascontiguousarray(array, dtype=dtype))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"n_arrays={len(arrays)} should have names of at most {MAX_HEADER} bytes "
            "in all. Save fewer arrays."
        )
    parts: list[bytes | memoryview] = [struct.pack("<Q", len(text)), text]
    total = hashlib.sha256()
    with open(path, "xb") as file:
        for part in parts + [_bytes_of(array) for array in contents]:
            file.write(part)
            total.update(part)
    return 8 + len(text) + end, total.hexdigest()


def read_tensors(file: BinaryIO, size: int) -> tuple[dict[str, np.ndarray], str]:
    """Read a file of ``size`` bytes; return its arrays and SHA-256.

    No more memory is taken than the file has bytes. A TensorsError says what is
    wrong with the file.
    """
    total = hashlib.sha256()

    def fill(buffer: memoryview) -> None:
        if file.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
            raise TensorsError("the file is too short")
        total.update(buffer)

    start = bytearray(8)
    fill(memoryview(start))
    (length,) = struct.unpack("<Q", start)
    if length > min(MAX_HEADER, size - 8):
        raise TensorsError(f"its header claims {length} bytes")
    text = bytearray(length)
    fill(memoryview(text))
    arrays = {}
    for name, dtype, shape in _parse_header(bytes(text), size - 8 - length):
        array = np.empty(shape, dtype=dtype)
        fill(_bytes_of(array))
        if dtype.kind == "b" and (array.view(np.uint8) > 1).any():
            raise TensorsError(f"{name} has bytes that are no booleans")
        arrays[name] = array.astype(dtype.newbyteorder("="), copy=False)
    return arrays, total.hexdigest()


def _bytes_of(array: np.ndarray) -> memoryview:
    """Memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def _parse_header(text: bytes, size: int) -> list[tuple[str, np.dtype, list[int]]]:
    """Name, type and shape of every array, which fill ``size`` bytes without a gap."""
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        found, end = [], 0
        for name, entry in entries:
            dtype, shape = TYPES[entry["dtype"]], entry["shape"]
            if len(shape) > MAX_DIMENSIONS or not all(
                type(length) is int and length >= 0 for length in shape
            ):
                raise TensorsError(f"{name} has shape={shape}")
            start, end = end, end + math.prod(shape) * dtype.itemsize
            if entry["data_offsets"] != [start, end]:
                raise TensorsError(f"{name} does not follow on the array before it")
            found.append((name, dtype, shape))
    except TensorsError:
        raise
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise TensorsError("its header is not one of safetensors") from error
    if end != size:
        raise TensorsError(f"its arrays fill {end} bytes of {size}")
    return found
