"""From valid inputs to nearly valid ones: changes of bytes, of words, and of the structure of JSON and PNG."""

import copy
import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = (0, 1, -1, 2, 3, 7, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, 10**30)
_NUMBER = re.compile(rb"[0-9]+")
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    *(0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), float("-inf"), True, False, None),
    *("", "a", "m0", "..", "../x", "/etc/passwd", "a\0b", "\ud800", "<img>", "\x1b[2J", "\u202e", "x" * 300),
    *([], [[]], {}, [1], {"a": 1}, ["a", "b"], [0] * 50),
)
WORDS = (
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"-",
        b"--",
        b"9" * 30,
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\0",
        b"\r\n",
    ),
    *(b"[" * 100, b"{" * 100, b'{"a":', b"]", b"}", b'"', b"\\u0000", b"\\ud800", b"null", b"true", b"=", b"#", b"'''"),
    *(b"../", b"__class__", b"c__builtin__\neval\n", b"\x80\x04", b"R.", b"PAR1", b"IHDR", b"IDAT", b"data_offsets"),
)


def mutated(seeds: Sequence[bytes], kind: str, rng: random.Random) -> bytes:
    """One input: a valid one, changed once or a few times.

    Args:
        seeds: Valid inputs.
        kind: ``"json"``, ``"lines"`` (of JSON), ``"png"`` or ``"bytes"``: what structure may be changed, too.
        rng: Source of every choice.
    """
    data = rng.choice(seeds)
    times = 1 + min(int(rng.expovariate(0.7)), 8)
    if kind in ("json", "lines") and rng.random() < 0.6:
        return _in_json(data, times, rng, lines=kind == "lines")
    for _ in range(times):
        data = rng.choice(_OF_BYTES)(data, rng, seeds)
    return _mended(data) if kind == "png" and rng.random() < 0.7 else data


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + 1 + int(rng.expovariate(0.1)))


def _flip(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _byte(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))]) + data[at + 1 :]


def _delete(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + data[stop:]


def _repeat(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start, stop = _span(data, rng)
    return data[:stop] + data[start:stop] * rng.choice((1, 2, 50)) + data[stop:]


def _cut(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _word(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + rng.choice(WORDS) + data[stop if rng.random() < 0.5 else start :]


def _integer(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """An integer of two, four or eight bytes, in either order."""
    size, at = rng.choice((2, 4, 8)), rng.randrange(len(data) + 1)
    value = rng.choice(NUMBERS) % 256**size
    return data[:at] + value.to_bytes(size, rng.choice(("little", "big"))) + data[at + size :]


def _digits(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Another number where digits stand."""
    found = _NUMBER.search(data, rng.randrange(len(data) + 1))
    if found is None:
        return data
    return data[: found.start()] + str(rng.choice(NUMBERS)).encode() + data[found.end() :]


def _splice(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    start, stop = _span(other, rng)
    at = rng.randrange(len(data) + 1)
    return data[:at] + other[start : stop + rng.randrange(50)] + data[at:]


_OF_BYTES: tuple[Callable[[bytes, random.Random, Sequence[bytes]], bytes], ...] = (
    *(_flip, _byte, _delete, _repeat, _cut, _word, _integer, _digits, _splice),
)


def _in_json(data: bytes, times: int, rng: random.Random, *, lines: bool) -> bytes:
    """Change values, or keys, of a valid JSON text; of one line where there are several."""
    texts = data.rstrip(b"\n").split(b"\n") if lines else [data]
    at = rng.randrange(len(texts))
    found = json.loads(texts[at])
    for _ in range(times):
        holder, key = _place(found, rng)
        if holder is not None:
            _change(holder, key, rng)
    texts[at] = json.dumps(found).encode()
    return b"\n".join(texts) + b"\n" * lines


def _place(value: Any, rng: random.Random) -> tuple[Any, Any]:
    """A place somewhere in plain data: what holds it, and its key there; ``None`` twice where there is none."""
    holder = key = None
    while isinstance(value, dict | list) and value and (holder is None or rng.random() < 0.8):
        holder, key = value, rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        value = holder[key]
    return holder, key


def _change(holder: Any, key: Any, rng: random.Random) -> None:
    deed = rng.random()
    value = holder[key]
    if deed < 0.15:
        del holder[key]
    elif deed < 0.25 and isinstance(holder, dict):
        holder[rng.choice(("", "id", "a\0b", "<img>", "__class__", "x" * 200, str(key) + "x"))] = holder.pop(key)
    elif deed < 0.35 and isinstance(holder, list):
        holder.extend([value] * rng.choice((1, 2, 100)))
    elif deed < 0.5 and isinstance(value, int | float) and not isinstance(value, bool):
        holder[key] = rng.choice((value + 1, value - 1, -value, value * 2, value / 2, value * 10**6, float(value)))
    else:
        holder[key] = copy.deepcopy(rng.choice(VALUES))


def _mended(data: bytes) -> bytes:
    """A PNG whose check sums fit again: a changed one is refused before anything else is read."""
    out, at = bytearray(data[:8]), 8
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + size]
        if at + 12 + size > len(data):
            out += data[at:]
            break
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return bytes(out)
