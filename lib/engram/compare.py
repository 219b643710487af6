"""Compare two files by what they hold: identical, equal within a tolerance, or different."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engram import compare_values
from engram.compare_formats import DECODERS, FOLDER_DECODERS
from engram.compare_values import Difference, Tolerance

if TYPE_CHECKING:
    from pathlib import Path

    from engram.compare_formats import Decoder

IDENTICAL = "identical"
EQUAL = "equal"
DIFFERENT = "different"

_CHUNK = 1 << 20

__all__ = [
    "DIFFERENT",
    "EQUAL",
    "IDENTICAL",
    "FileResult",
    "Tolerance",
    "compare_files",
    "compare_folders",
]


@dataclass(frozen=True)
class FileResult:
    """How two files compare.

    Attributes:
        verdict: "identical", "equal" (within the tolerance) or "different".
        reason: one sentence: how they were compared, and where they part.
        first: the first difference, or None.
    """

    verdict: str
    reason: str
    first: Difference | None = None


def compare_files(a: Path, b: Path, tolerance: Tolerance | None = None) -> FileResult:
    """Compare two regular files.

    Files of equal bytes are identical. Otherwise a format engram knows is decoded and its content
    compared, so that zip times or the order of keys are no difference; any other is different by
    its bytes.

    Args:
        a: the recorded file; its suffix names the format of both.
        b: the new file.
        tolerance: how far numbers may part, default not at all.

    Raises:
        OSError: a file cannot be read.
    """
    offset = first_differing_byte(a, b)
    suffix = a.suffix.lower()
    decoder = DECODERS.get(suffix)
    if offset is None:
        unknown = (
            ""
            if decoder
            else f"; compared by bytes, {suffix or 'a file without suffix'} is not decoded"
        )
        return FileResult(IDENTICAL, f"the same bytes{unknown}")
    if decoder is None:
        return _by_bytes(a, b, offset, f"{suffix or 'a file without suffix'} is not decoded")
    found = _decoded(a, b, decoder, tolerance)
    return _by_bytes(a, b, offset, found) if isinstance(found, str) else found


def compare_folders(a: Path, b: Path, tolerance: Tolerance | None = None) -> FileResult | str:
    """Compare two folders whose suffix names a format, such as .zarr, by what they hold.

    Args:
        a: the recorded folder; its suffix names the format of both.
        b: the new folder.
        tolerance: how far numbers may part, default not at all.

    Returns:
        How they compare; or why they cannot be decoded, so that their files are to be compared.
    """
    return _decoded(a, b, FOLDER_DECODERS[a.suffix.lower()], tolerance)


def _decoded(a: Path, b: Path, decoder: Decoder, tolerance: Tolerance | None) -> FileResult | str:
    """Compare by content; a sentence that says why not when that is not possible."""
    suffix = a.suffix.lower()
    try:
        return _by_content(a, b, decoder, tolerance or Tolerance())
    except ImportError as error:
        return f"{suffix} needs a package that is not here: {error}"
    except Exception as error:  # noqa: BLE001 - a decoder may raise anything on a file that is not what it says
        return f"{suffix} could not be decoded: {_one_line(error)}"


def _by_content(a: Path, b: Path, decoder: Decoder, tolerance: Tolerance) -> FileResult:
    within = None
    with ExitStack() as stack:
        left, right = decoder(a, stack), decoder(b, stack)
        for difference in compare_values.differences(left, right, tolerance):
            if not difference.within:
                return FileResult(DIFFERENT, str(difference), difference)
            within = within or difference
    if within is None:
        return FileResult(IDENTICAL, "the same content in other bytes")
    reason = f"within rtol {tolerance.rtol:g}, atol {tolerance.atol:g}; first {within}"
    return FileResult(EQUAL, reason, within)


def _by_bytes(a: Path, b: Path, offset: int, why: str) -> FileResult:
    difference = Difference("", (offset,), _byte(a, offset), _byte(b, offset))
    text = f"byte {offset}: {difference.a} != {difference.b}; compared by bytes, {why}"
    return FileResult(DIFFERENT, text, difference)


def first_differing_byte(a: Path, b: Path) -> int | None:
    """Return the offset at which two files part, if only because one ends, or None."""
    offset = 0
    with a.open("rb") as left, b.open("rb") as right:
        while True:
            ours, theirs = left.read(_CHUNK), right.read(_CHUNK)
            if ours != theirs:
                pairs = zip(ours, theirs, strict=False)
                shared = min(len(ours), len(theirs))
                return offset + next((i for i, (x, y) in enumerate(pairs) if x != y), shared)
            if not ours:
                return None
            offset += len(ours)


def _byte(path: Path, offset: int) -> str:
    with path.open("rb") as stream:
        stream.seek(offset)
        found = stream.read(1)
    return f"0x{found[0]:02x}" if found else "the end"


def _one_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:200]}"
