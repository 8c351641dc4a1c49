"""The Merkle tree against the reference vectors, RFC 9162's own recursive definition, and an independent library."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from audit.merkle import EMPTY_ROOT, Edge, leaf_hash, node_hash

# The leaves of the Certificate Transparency reference implementation's tests, and the tree head after each.
REFERENCE = [
    ("", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
    ("00", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
    ("10", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
    ("2021", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
    ("3031", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
    ("40414243", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
    ("5051525354555657", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
    ("606162636465666768696a6b6c6d6e6f", "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
]
LEAVES = [bytes.fromhex(text) for text, _ in REFERENCE]


def tree_head(entries: list[bytes]) -> bytes:
    """RFC 9162 §2.1.1, word for word: k is the largest power of two smaller than n."""
    n = len(entries)
    if n == 0:
        return hashlib.sha256(b"").digest()
    if n == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < n:
        k *= 2
    return hashlib.sha256(b"\x01" + tree_head(entries[:k]) + tree_head(entries[k:])).digest()


def grown(entries: list[bytes]) -> Edge:
    edge = Edge()
    for entry in entries:
        edge.append(leaf_hash(entry))
    return edge


def numbered(count: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(count)]


def test_empty_tree():
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Edge().root() == EMPTY_ROOT
    assert (Edge().size, Edge().to_bytes()) == (0, b"")


def test_reference_vectors():
    edge = Edge()
    for size, (text, head) in enumerate(REFERENCE, start=1):
        edge.append(leaf_hash(bytes.fromhex(text)))
        assert (edge.size, edge.root().hex()) == (size, head)
        assert tree_head(LEAVES[:size]).hex() == head


def test_leaf_and_node_are_told_apart():
    """Without the prefixes an inner node's bytes, shown as an entry, would give the same root."""
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)
    assert node_hash(left, right) != node_hash(right, left)


def test_every_small_size_agrees_with_the_definition():
    entries = numbered(130)
    edge = Edge()
    for size, entry in enumerate(entries, start=1):
        edge.append(leaf_hash(entry))
        assert edge.root() == tree_head(entries[:size])


@given(st.lists(st.binary(max_size=80), max_size=300))
def test_any_entries_agree_with_the_definition(entries):
    assert grown(entries).root() == tree_head(entries)


@given(st.integers(0, 700), st.integers(0, 40))
def test_edge_round_trip_continues_the_same_tree(stored, added):
    entries = numbered(stored + added)
    edge = grown(entries[:stored])
    read = Edge.from_bytes(edge.size, memoryview(edge.to_bytes()))
    assert (read.size, read.to_bytes(), read.root()) == (edge.size, edge.to_bytes(), edge.root())
    for entry in entries[stored:]:
        read.append(leaf_hash(entry))
    assert read.root() == grown(entries).root() == tree_head(entries)


def test_edge_holds_the_perfect_subtrees_largest_first():
    entries = numbered(13)  # 8 + 4 + 1
    assert grown(entries).to_bytes() == tree_head(entries[:8]) + tree_head(entries[8:12]) + tree_head(entries[12:])


def test_edge_of_a_size_no_test_can_grow():
    """2^63 - 1 leaves: 63 subtrees fold into one by the next append."""
    roots = [bytes([number]) * 32 for number in range(63)]
    edge = Edge.from_bytes(2**63 - 1, b"".join(roots))
    leaf = leaf_hash(b"last")
    edge.append(leaf)
    expected = leaf
    for root in reversed(roots):
        expected = node_hash(root, expected)
    assert (edge.size, edge.to_bytes()) == (2**63, expected)


@given(st.integers(0, 20), st.integers(0, 7), st.integers(0, 128))
def test_perfect_subtrees_are_joined_to_the_same_tree(before, level, added):
    """`added` leaves at a place where a subtree of that many begins."""
    start, added = before << level, min(added, 1 << level)
    entries = numbered(start + added)
    edge, other = grown(entries[:start]), grown(entries[start:])
    kept = edge.copy()
    edge.extend(other)
    assert (edge.size, edge.to_bytes()) == (start + added, grown(entries).to_bytes())
    assert kept.to_bytes() == grown(entries[:start]).to_bytes()


def test_what_is_no_subtree_at_its_place_is_not_joined():
    edge = grown(numbered(3))
    with pytest.raises(ValueError, match="no perfect subtree of 2 leaves begins at leaf 3"):
        edge.extend(grown(numbered(2)))


@pytest.mark.parametrize(
    ("size", "length"), [(0, 32), (1, 0), (1, 31), (1, 33), (1, 64), (3, 32), (4, 64), (7, 64), (2**40, 0), (-1, 0), (-1, 32)]
)
def test_an_edge_that_does_not_fit_its_size_is_refused(size, length):
    with pytest.raises(ValueError, match=r"tree"):
        Edge.from_bytes(size, bytes(length))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_only_a_hash_is_appended(length):
    edge = grown(numbered(3))
    before = edge.to_bytes()
    with pytest.raises(ValueError, match="leaf hash is 32 bytes"):
        edge.append(bytes(length))
    assert (edge.size, edge.to_bytes()) == (3, before)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=120))
def test_an_independent_library_agrees(entries):
    tree = InmemoryTree(algorithm="sha256")
    edge = Edge()
    for entry in entries:
        tree.append_entry(entry)
        edge.append(leaf_hash(entry))
        assert edge.root() == tree.get_root()
