"""Damage to annotation files, seeded: what disks, editors and careless programs do to them, and what nobody would by accident."""

import random
import re
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes]

NUMBERS = (
    "1e400", "-1e400", "1e-400", "-0", "-0.0", "9" * 400, "9" * 5000, "1" + "0" * 400 + ".5", "NaN", "-Infinity", "Infinity",
    "inf", "1_0", "４２", "0x10", "0b", "", "-1", "0", "1e9", "2147483647", "2147483648", "-2147483649", "9223372036854775807",
    "9223372036854775808", "18446744073709551616", "1.7976931348623157e308", "1e154", "0.1e-5", "1,5", "2020-99-99", "1:99")
WORDS = (
    "", " ", "cat ", "Cat", "../../../outside", "/etc/hostname", "C:\\x\\y", "http://x/y.jpg", "~", "~nobody_/x", "a\0b", "\0",
    "..", ".", "/", "%s%n", "{}", "x" * 300, "x" * 5000, "a/" * 3000, "é猫", "\ufeff", "\u2028", "\u202e", "\x1b[2J", "null",
    "true", "*")
JSON_VALUES = (
    "null", "true", "[]", "{}", '""', "[[]]", '"7"', "7.0", "7.5", "-1", "[1,2,3,4]", '{"id":1}', '"\\ud800"', '"\\u0000"')
NUMBER, WORD = re.compile(rb"\d+(?:\.\d+)?"), re.compile(rb"[A-Za-z_./][A-Za-z_./0-9]*")
JSON_VALUE = re.compile(rb'"[^"\\]*"|-?\d+(?:\.\d+)?')
BYTES = (b"\0", b"\xff", b"\xfe", b"\xc3", b"\xed\xa0\x80", b"\x85", b"\x1a", b"\r", b"\t", b'"', b"'", b",", b";", b"<", b"&",
         b"#", b"\\")


def mutate(data: bytes, suffix: str, seed: int) -> bytes:
    """The bytes after one to three mutations; suffix: of the file, such as ".json", which some mutations are made for."""
    rng = random.Random(f"{suffix} {seed}")
    mutations = GENERAL + SPECIAL.get(suffix, [])
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(mutations)(data, rng)
    return data


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _behead(data: bytes, rng: random.Random) -> bytes:
    return data[rng.randrange(len(data) + 1) :]


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 3, 20)) if data else 0):
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _delete(data: bytes, rng: random.Random) -> bytes:
    start, end = _chunk(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start, end = _chunk(data, rng)
    return data[:start] + data[start:end] * rng.choice((2, 3, 100)) + data[end:]


def _move(data: bytes, rng: random.Random) -> bytes:
    start, end = _chunk(data, rng)
    place = rng.randrange(len(data) + 1)
    return data[:place] + data[start:end] + data[place:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 5))):
        place = rng.randrange(len(data) + 1)
        data = data[:place] + rng.choice(BYTES) * rng.choice((1, 1, 2, 50)) + data[place:]
    return data


def _noise(data: bytes, rng: random.Random) -> bytes:
    start, end = _chunk(data, rng)
    return data[:start] + rng.randbytes(rng.randrange(200)) + data[end:]


def _empty(data: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\n", b" ", b"\xef\xbb\xbf", b"\0" * 512))


def _other_encoding(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    place = rng.randrange(len(text) + 1)
    text = text[:place] + rng.choice(("é", "猫", "ü", "")) + text[place:]
    return text.encode(rng.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gbk", "latin-1", "cp1252")), "replace")


def _line_ends(data: bytes, rng: random.Random) -> bytes:
    return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"\n\r", b"\x0b", b"\xe2\x80\xa8", b"")))


def _swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


def _long_line(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice((b"x", b" ", b"9", b"1 ", b",", b'"', b"a,")) * rng.choice((2000, 200_000)) + data[place:]


def _odd_number(data: bytes, rng: random.Random) -> bytes:
    return _replace(data, NUMBER, rng.choice(NUMBERS), rng)


def _odd_word(data: bytes, rng: random.Random) -> bytes:
    return _replace(data, WORD, rng.choice(WORDS), rng)


def _other_word(data: bytes, rng: random.Random) -> bytes:
    """A word of the file in another's place: a key or a tag twice, a reference that leads elsewhere."""
    words = WORD.findall(data)
    return _replace(data, WORD, rng.choice(words).decode("latin-1"), rng) if words else data


def _json_value(data: bytes, rng: random.Random) -> bytes:
    return _replace(data, JSON_VALUE, rng.choice(JSON_VALUES), rng)


def _json_escape(data: bytes, rng: random.Random) -> bytes:
    escape = rng.choice(("\\ud800", "\\udfff", "\\ud83d\\ude00", "\\u0000", "\\u000a", "\\x41", "\\", "\\udc80"))
    return _replace(data, re.compile(rb'(?<=")\w'), escape, rng)


def _json_key_twice(data: bytes, rng: random.Random) -> bytes:
    pair = rng.choice(('"id":1,', '"images":[],', '"annotations":{},', '"bbox":[0,0,1,1],', '"id":null,'))
    return _replace(data, re.compile(rb"(?<=\{)"), pair, rng)


def _json_nest(data: bytes, rng: random.Random) -> bytes:
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ("[", "")))
    depth = rng.choice((50, 5000, 200_000))
    return _replace(data, JSON_VALUE, opening * depth + "1" + closing * depth, rng)


def _xml_nest(data: bytes, rng: random.Random) -> bytes:
    tag, depth = rng.choice(("a", "object", "bndbox")), rng.choice((50, 300, 20_000))
    return _replace(data, re.compile(rb"(?<=>)"), f"<{tag}>" * depth + rng.choice(("", f"</{tag}>" * depth)), rng)


def _xml_parts(data: bytes, rng: random.Random) -> bytes:
    part = rng.choice((
        "<!DOCTYPE a [<!ENTITY b 'cat'>]>", "&b;", "&#0;", "&#55296;", "<![CDATA[cat]]>", "<!-- x -->", "<?x y?>", "]]>",
        "<?xml version='1.0' encoding='GBK'?>", "<?xml version='1.0' encoding='nothing'?>", "<a xmlns='b'/>", "<b:c/>"))
    return _replace(data, re.compile(rb"(?<=>)|^"), part, rng)


def _xml_tag(data: bytes, rng: random.Random) -> bytes:
    """A text becomes a tag, gets one beside it, or vanishes."""
    return _replace(data, re.compile(rb"(?<=>)[^<>\s]+"), rng.choice(("<x>1</x>", "<!--x-->1", "1<x/>", "  7\n", "")), rng)


def _csv_quotes(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 2, 9))):
        place = rng.randrange(len(data) + 1)
        data = data[:place] + rng.choice((b'"', b'""', b",", b";", b"\t", b'",', b'"\n', b"'")) + data[place:]
    return data


def _csv_separator(data: bytes, rng: random.Random) -> bytes:
    return data.replace(b",", rng.choice((b";", b"\t", b" ", b"|", b",,", b", ")), rng.choice((-1, 1, 7)))


def _yaml_parts(data: bytes, rng: random.Random) -> bytes:
    part = rng.choice((
        "&a ", "*a", "*b", "!!python/object:os.system ", "!!binary ", "!!int x", "!!float x", "!!set ", "? ", "<<: *a\n", "- ",
        "[", "{", "|", ">\n", "---\n", "...\n", "%YAML 9.9\n", "[" * 3000, "{a: " * 3000, "2020-99-99", "0o9", "0b", "1:2:3",
        "@"))
    return _replace(data, re.compile(rb"(?<=[\s:])|^"), part, rng)


def _yaml_bomb(data: bytes, rng: random.Random) -> bytes:
    """Aliases of aliases, in lists or merged into mappings: a few lines that stand for 10 ** 9 values."""
    first, level = rng.choice(((b"[x, x]", b"[%s]"), (b"{x: 1}", b"{<<: [%s]}")))
    lines = [b"l0: &l0 %s\n" % first]
    lines += [b"l%d: &l%d " % (k, k) + level % b", ".join([b"*l%d" % (k - 1)] * 10) + b"\n" for k in range(1, 10)]
    return b"".join(lines) + _replace(data, re.compile(rb"(?<=: ).+"), "*l9", rng)


def _chunk(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 4, 30, 300)))


def _replace(data: bytes, pattern: re.Pattern, new: str, rng: random.Random) -> bytes:
    """One match of the pattern, anywhere, becomes the new text; without a match the data stay as they are."""
    matches = list(pattern.finditer(data))
    if not matches:
        return data
    match = rng.choice(matches)
    return data[: match.start()] + new.encode("utf-8", "surrogatepass") + data[match.end() :]


GENERAL: list[Mutation] = [
    _truncate, _behead, _flip_bits, _delete, _repeat, _move, _insert, _noise, _empty, _other_encoding, _line_ends, _swap_lines,
    _long_line, _odd_number, _odd_number, _odd_word, _odd_word, _other_word]
SPECIAL: dict[str, list[Mutation]] = {
    ".json": [_json_value, _json_value, _json_escape, _json_key_twice, _json_nest],
    ".xml": [_xml_nest, _xml_parts, _xml_parts, _xml_tag],
    ".csv": [_csv_quotes, _csv_quotes, _csv_separator],
    ".yaml": [_yaml_parts, _yaml_parts, _yaml_bomb],
    ".txt": [_csv_separator],
    ".names": [_csv_separator],
    ".data": [_csv_separator],
}
