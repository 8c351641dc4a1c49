"""Proofs checked as RFC 9162 §2.1.3.2 and §2.1.4.2 say: whoever was given one does it, so that the service itself has no use
for it."""

from collections.abc import Sequence

from audit.merkle import EMPTY_ROOT, HASH_SIZE, node_hash


class InvalidProof(ValueError):
    """The proof does not show what it is to show."""


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


def _check_hashes(*hashes: bytes) -> None:
    if any(len(value) != HASH_SIZE for value in hashes):
        raise InvalidProof(f"a hash is {HASH_SIZE} bytes")
