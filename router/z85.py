"""Z85, the text form of CURVE keys (ZeroMQ RFC 32): five characters for four bytes.

Invariants: `decode(encode(key)) == key`; only the 85 characters of the alphabet, and no value above 2**32 - 1 in a
group, are accepted. Z85 has no space, quote or backslash, and no group begins with "#".
Not here: where keys are kept (curve.py), who may use one (auth.py).
"""

from typing import Final

ALPHABET: Final = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
KEY_CHARS: Final = 40
KEY_BYTES: Final = 32

_VALUE: Final = {char: value for value, char in enumerate(ALPHABET)}
assert len(_VALUE) == 85


def encode(data: bytes) -> bytes:
    """Text of `data`, whose length must be a multiple of four."""
    assert len(data) % 4 == 0
    text = bytearray()
    for at in range(0, len(data), 4):
        number = int.from_bytes(data[at : at + 4], "big")
        text += bytes(ALPHABET[number // 85**power % 85] for power in (4, 3, 2, 1, 0))
    return bytes(text)


def decode(text: bytes) -> bytes:
    """Bytes of `text`.

    Raises:
        ValueError: a wrong length, a character outside the alphabet, or a group that is too large.
    """
    if len(text) % 5:
        raise ValueError(f"{len(text)} characters are not Z85: a multiple of 5 is")
    data = bytearray()
    for at in range(0, len(text), 5):
        number = 0
        for char in text[at : at + 5]:
            value = _VALUE.get(char)
            if value is None:
                raise ValueError(f"{chr(char)!r} is not in the Z85 alphabet")
            number = number * 85 + value
        if number >= 1 << 32:
            raise ValueError("a group of five characters is out of range")
        data += number.to_bytes(4, "big")
    return bytes(data)
