"""The Merkle tree of the audit log: hashing as RFC 9162 §2.1 (the same as RFC 6962 §2.1), SHA-256.

A log that only grows needs no more of its tree than the right edge: at `size` leaves the roots of the perfect
subtrees that the binary digits of `size` name, largest first. Appending folds equal subtrees, about two hashes a leaf
(one of them the leaf's own); the root is folded from the edge on demand.
"""

from hashlib import sha256

HASH_SIZE = 32
# Distinct first bytes keep a leaf from passing for a node, and the other way round (RFC 9162 §2.1.1).
_LEAF = b"\x00"
_NODE = b"\x01"
EMPTY_ROOT = sha256().digest()


def leaf_hash(record: bytes) -> bytes:
    """The hash of one leaf: SHA-256(0x00 || record)."""
    return sha256(_LEAF + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256(0x01 || left || right)."""
    return sha256(_NODE + left + right).digest()


class Edge:
    """The right edge of a tree of `size` leaves: all that appending and the root need, at most 64 hashes."""

    __slots__ = ("_roots", "size")

    def __init__(self):
        self.size = 0
        self._roots: list[bytes] = []

    @classmethod
    def from_bytes(cls, size: int, raw: bytes) -> "Edge":
        """The edge that `to_bytes()` gave at `size` leaves.

        Raises ValueError when `raw` does not hold one hash for each binary 1 of `size`.
        """
        if size < 0:
            raise ValueError(f"a tree has no {size} leaves")
        raw = bytes(raw)
        if len(raw) != HASH_SIZE * size.bit_count():
            raise ValueError(
                f"the edge of a tree of {size} leaves is {size.bit_count()} hashes of {HASH_SIZE} bytes, got {len(raw)} bytes"
            )
        edge = cls()
        edge.size = size
        edge._roots = [raw[start : start + HASH_SIZE] for start in range(0, len(raw), HASH_SIZE)]
        return edge

    def append(self, leaf: bytes) -> None:
        """Adds a leaf by its hash (`leaf_hash`). Raises ValueError for what is no hash."""
        if len(leaf) != HASH_SIZE:
            raise ValueError(f"a leaf hash is {HASH_SIZE} bytes, got {len(leaf)}")
        roots = self._roots
        complete = self.size
        # Each trailing 1 is a subtree as large as the one in hand: both become one of twice the size.
        while complete & 1:
            leaf = sha256(_NODE + roots.pop() + leaf).digest()
            complete >>= 1
        roots.append(leaf)
        self.size += 1

    def extend(self, other: "Edge") -> None:
        """Adds the leaves of `other`, whose first is the next of this tree.

        Raises ValueError unless each perfect subtree of `other` is one of the tree that results.
        """
        for level, root in zip(_levels(other.size), other._roots, strict=True):
            complete = self.size >> level
            if self.size & (1 << level) - 1:
                raise ValueError(f"no perfect subtree of {1 << level} leaves begins at leaf {self.size}")
            while complete & 1:
                root = node_hash(self._roots.pop(), root)
                complete >>= 1
            self._roots.append(root)
            self.size += 1 << level

    def copy(self) -> "Edge":
        return Edge.from_bytes(self.size, self.to_bytes())

    def root(self) -> bytes:
        """The Merkle tree head MTH of all leaves; SHA-256 of nothing for the empty tree."""
        if not self._roots:
            return EMPTY_ROOT
        head = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            head = node_hash(left, head)
        return head

    def to_bytes(self) -> bytes:
        """The roots of the perfect subtrees, largest first, 32 bytes each; empty for the empty tree."""
        return b"".join(self._roots)


def _levels(size: int) -> list[int]:
    """Those of the perfect subtrees, largest first."""
    return [level for level in reversed(range(size.bit_length())) if size >> level & 1]
