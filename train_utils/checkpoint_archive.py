"""Whether a file is what `torch.save` wrote, to the bit: torch itself reads one with a flipped bit without a word."""

import os
import zipfile
from pathlib import Path

ZIP_MAGIC = b"PK\x03\x04"
# The first pickle in files of torch before 1.6: a number, in the two protocols that torch.load reads.
LEGACY_MAGIC = tuple(b"\x80%c\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." % protocol for protocol in (2, 3))
_MARKED_AS_FOLDER = 0x10  # in an entry's attributes of MS-DOS; torch then leaves the memory of its tensor as it happens to be
_KINDS = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", "the placeholder of a file in Git LFS (git lfs pull fetches it)"),
    (b"\x80", "a bare pickle, which could run code when read"),
)


def damaged_entry(path: str | os.PathLike) -> str | None:
    """What is wrong with a checkpoint as a zip file, or None if every byte matches its check sum.

    `torch.save` stores and never compresses; what does is refused before it is unpacked, since it may unpack to any size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size for entry in entries):
                return "an entry is compressed, which torch.save never does"
            if sum(entry.file_size for entry in entries) > Path(path).stat().st_size:
                return "its entries overlap"
            if any(entry.external_attr & _MARKED_AS_FOLDER for entry in entries):
                return "an entry is marked as a folder"
            bad = archive.testzip()
    except Exception as error:  # zipfile raises a dozen types for archives that are none
        return str(error) or type(error).__name__
    return f"check sum of {ascii(bad[:80])[1:-1]}" if bad else None


def kind_of(head: bytes) -> str:
    """What a file that is no checkpoint seems to be, by its first 512 bytes."""
    for magic, kind in _KINDS:
        if head.startswith(magic):
            return kind
    if not head:
        return "an empty file"
    if head[8:9] == b"{":
        return "perhaps a safetensors file, whose name must end in .safetensors"
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "a web page, as a download that failed leaves it"
    return "a file of another kind, or the rest of one"
