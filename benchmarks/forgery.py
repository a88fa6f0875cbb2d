"""Damage to sound files, and forged values in their metadata, as `fuzz.py` draws them."""

import random
from typing import Any

WORDS = b'\0|\xff|..|/dev/zero|null|[]|{}|-1|1e999|"|\n|,|:|&a|*a|NaN|true|../x|%|\t|99999999999999999999'.split(b"|")
WORDS += ["\u2028é人".encode(), b"A" * 1000, b"[" * 1000]
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3.5,
    10**30,
    float("nan"),
    "",
    "x",
    "../x",
    "/dev/zero",
    "c2d_resnet8",
    [],
    ["x"],
    {},
    {"x": 1},
)


def forged(value: Any, draw: random.Random) -> Any:
    """JSON in which one value, or one name, is another; digests stay right."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(list(value))
        change = draw.randrange(8)
        if change == 0:
            return {key: one for key, one in value.items() if key != name}
        if change == 1:
            return {draw.choice(["", "x", "../x", "lr"]) if key == name else key: one for key, one in value.items()}
        return {**value, name: forged(value[name], draw)}
    return draw.choice(VALUES)


def damaged(contents: list[bytes], draw: random.Random) -> bytes:
    """A sound content with one to four changes: bits, cuts, repeats, words, and pieces of another."""
    content = bytearray(draw.choice(contents))
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(content) + 1)
        # headers and metadata are at the beginning, so half of the changes are there
        at = min(at, draw.randrange(400)) if draw.random() < 0.5 else at
        upto = min(at + draw.randint(1, 40), len(content))
        change = draw.randrange(6)
        if change == 0 and content:
            content[min(at, len(content) - 1)] ^= 1 << draw.randrange(8)
        elif change == 1:
            del content[at:]
        elif change == 2:
            content[at:at] = content[at:upto] * draw.randint(1, 50)
        elif change == 3:
            content[at : draw.choice([at, upto])] = draw.choice(WORDS)
        elif change == 4:
            content[at:upto] = draw.randbytes(upto - at)
        else:
            other = draw.choice(contents)
            content[at:] = other[draw.randrange(len(other) + 1) :]
    return bytes(content)
