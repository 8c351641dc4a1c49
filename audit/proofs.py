"""Inclusion and consistency proofs: RFC 6962 §2.1.1 and §2.1.2.

Proofs are made from perfect subtrees, given by a `ReadNode`: `read(level, number)` is the root of the leaves from
`number * 2**level` on, `2**level` of them. Nothing here knows where they are stored.
"""

from collections.abc import Callable

from audit.merkle import EMPTY_ROOT, node_hash

ReadNode = Callable[[int, int], bytes]


def root(size: int, read: ReadNode) -> bytes:
    """The tree head of the first `size` leaves."""
    return subtree(0, size, read) if size else EMPTY_ROOT


def subtree(start: int, end: int, read: ReadNode) -> bytes:
    """MTH of the leaves from `start` to before `end`; `start` is a multiple of the greatest power of two below the
    count, as all ranges of RFC 6962 are."""
    parts = []
    while start < end:
        level = (end - start).bit_length() - 1
        parts.append(read(level, start >> level))
        start += 1 << level
    head = parts.pop()
    while parts:
        head = node_hash(parts.pop(), head)
    return head


def inclusion(index: int, size: int, read: ReadNode) -> list[bytes]:
    """PATH(index, D[size]): the siblings from the leaf up. Raises ValueError for an index outside the tree."""
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no index {index}")
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(subtree(middle, end, read))
            end = middle
        else:
            path.append(subtree(start, middle, read))
            start = middle
    path.reverse()
    return path


def consistency(old: int, new: int, read: ReadNode) -> list[bytes]:
    """PROOF(old, D[new]); empty when `old` is 0 or `new`. Raises ValueError where the tree would shrink."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves is no later one than a tree of {old}")
    if old in (0, new):
        return []
    path, start, end, whole = [], 0, new, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(subtree(middle, end, read))
            end = middle
        else:
            path.append(subtree(start, middle, read))
            start, whole = middle, False
    if not whole:
        path.append(subtree(start, end, read))
    path.reverse()
    return path


def _split(count: int) -> int:
    """The greatest power of two smaller than `count`."""
    return 1 << (count - 1).bit_length() - 1
