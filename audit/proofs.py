"""Inclusion and consistency proofs: RFC 6962 §2.1.1 and §2.1.2, verified as RFC 9162 §2.1.3.2 and §2.1.4.2 say.

Proofs are made from perfect subtrees, given by a `ReadNode`: `read(level, number)` is the root of the leaves from
`number * 2**level` on, `2**level` of them. Nothing here knows where they are stored.
"""

from collections.abc import Callable, Sequence

from audit.merkle import EMPTY_ROOT, HASH_SIZE, node_hash

ReadNode = Callable[[int, int], bytes]


class InvalidProof(ValueError):
    """The proof does not show what it is to show."""


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


def verify_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], expected: bytes) -> None:
    """Raises InvalidProof unless `leaf` (a leaf hash) is the leaf `index` of the tree of `size` with root `expected`."""
    _check_hashes(leaf, expected, *path)
    if not 0 <= index < size:
        raise InvalidProof(f"a tree of {size} leaves has no index {index}")
    number, last, head = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise InvalidProof("the inclusion proof is too long")
        if number & 1 or number == last:
            head = node_hash(sibling, head)
            while number and not number & 1:
                number, last = number >> 1, last >> 1
        else:
            head = node_hash(head, sibling)
        number, last = number >> 1, last >> 1
    if last:
        raise InvalidProof("the inclusion proof is too short")
    if head != expected:
        raise InvalidProof("the inclusion proof leads to another root")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> None:
    """Raises InvalidProof unless the tree of `new` leaves with `new_root` begins with that of `old` with `old_root`."""
    _check_hashes(old_root, new_root, *path)
    if not 0 <= old <= new:
        raise InvalidProof(f"a tree of {new} leaves is no later one than a tree of {old}")
    if old in (0, new):
        same = old_root == (new_root if old == new else EMPTY_ROOT)
        if path or not same:
            raise InvalidProof("the roots differ" if not same else "the consistency proof is too long")
        return
    # A tree of a power of two is a subtree of the new one: its root is known and left out.
    path = [old_root, *path] if old & (old - 1) == 0 else list(path)
    if not path:
        raise InvalidProof("the consistency proof is too short")
    number, last = old - 1, new - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    older = newer = path[0]
    for node in path[1:]:
        if last == 0:
            raise InvalidProof("the consistency proof is too long")
        if number & 1 or number == last:
            older, newer = node_hash(node, older), node_hash(node, newer)
            while number and not number & 1:
                number, last = number >> 1, last >> 1
        else:
            newer = node_hash(newer, node)
        number, last = number >> 1, last >> 1
    if last:
        raise InvalidProof("the consistency proof is too short")
    if older != old_root:
        raise InvalidProof("the consistency proof leads to another old root")
    if newer != new_root:
        raise InvalidProof("the consistency proof leads to another new root")


def _split(count: int) -> int:
    """The greatest power of two smaller than `count`."""
    return 1 << (count - 1).bit_length() - 1


def _check_hashes(*hashes: bytes) -> None:
    if any(len(value) != HASH_SIZE for value in hashes):
        raise InvalidProof(f"a hash is {HASH_SIZE} bytes")
