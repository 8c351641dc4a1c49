"""Inclusion and consistency proofs: the reference vectors, every index of every tree up to 300 leaves, RFC 6962's own
recursive definitions, an independent library, and what is not to pass for a proof."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree, verify_consistency
from pymerkle import InvalidProof as InvalidMerkleProof

from audit import proofs
from audit.merkle import EMPTY_ROOT, node_hash
from audit.tlog_proof import MalformedProof, TlogProof
from tests import proof_verification
from tests.proof_verification import InvalidProof
from tests.test_merkle import LEAVES, REFERENCE, tree_head

MOST = 300
ENTRIES = [b"entry %d" % number for number in range(MOST)]


def nodes(entries: list[bytes]):
    """`read(level, number)` over all perfect subtrees of the entries."""
    levels = [[hashlib.sha256(b"\x00" + entry).digest() for entry in entries]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)])
    return lambda level, number: levels[level][number]


read = nodes(ENTRIES)
TREE = InmemoryTree(algorithm="sha256")
for entry in ENTRIES:
    TREE.append_entry(entry)
ROOTS = [proofs.root(size, read) for size in range(MOST + 1)]

# The reference implementation's vectors (transparency-dev/merkle, proof/verify_test.go): leaf from 1, size, path.
N96 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
N5F = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
N6B = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
NBC = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
NCA = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
ND3 = "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
N0E = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
NB0 = "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f"
NFA = "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
N6E = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
INCLUSIONS = [
    (1, 1, []), (1, 8, [N96, N5F, N6B]), (6, 8, [NBC, NCA, ND3]), (3, 3, [NFA]), (2, 5, [N6E, N5F, NBC]),
]  # fmt: skip
CONSISTENCIES = [
    (1, 1, []), (1, 8, [N96, N5F, N6B]), (6, 8, [N0E, NCA, ND3]), (2, 5, [N5F, NBC]), (6, 7, [N0E, NB0, ND3]),
]  # fmt: skip


def hexadecimal(path) -> list[str]:
    return [value.hex() for value in path]


@pytest.mark.parametrize(("leaf", "size", "path"), INCLUSIONS)
def test_reference_inclusion_proofs(leaf, size, path):
    of_leaves = nodes(LEAVES)
    assert hexadecimal(proofs.inclusion(leaf - 1, size, of_leaves)) == path
    proof_verification.verify_inclusion(
        leaf - 1, size, of_leaves(0, leaf - 1), [bytes.fromhex(text) for text in path], bytes.fromhex(REFERENCE[size - 1][1])
    )


@pytest.mark.parametrize(("old", "new", "path"), CONSISTENCIES)
def test_reference_consistency_proofs(old, new, path):
    assert hexadecimal(proofs.consistency(old, new, nodes(LEAVES))) == path
    roots = [bytes.fromhex(REFERENCE[size - 1][1]) for size in (old, new)]
    proof_verification.verify_consistency(old, new, *roots, [bytes.fromhex(text) for text in path])


def path_of(index: int, entries: list[bytes]) -> list[bytes]:
    """RFC 6962 §2.1.1, word for word."""
    if len(entries) == 1:
        return []
    k = 1 << (len(entries) - 1).bit_length() - 1
    if index < k:
        return [*path_of(index, entries[:k]), tree_head(entries[k:])]
    return [*path_of(index - k, entries[k:]), tree_head(entries[:k])]


def subproof(old: int, entries: list[bytes], whole: bool) -> list[bytes]:
    """RFC 6962 §2.1.2, word for word."""
    if old == len(entries):
        return [] if whole else [tree_head(entries)]
    k = 1 << (len(entries) - 1).bit_length() - 1
    if old <= k:
        return [*subproof(old, entries[:k], whole), tree_head(entries[k:])]
    return [*subproof(old - k, entries[k:], False), tree_head(entries[:k])]


@given(st.data())
def test_any_tree_agrees_with_the_definitions(data):
    entries = data.draw(st.lists(st.binary(max_size=8), min_size=1, max_size=80))
    index = data.draw(st.integers(0, len(entries) - 1))
    assert proofs.inclusion(index, len(entries), nodes(entries)) == path_of(index, entries)
    assert proofs.consistency(index + 1, len(entries), nodes(entries)) == subproof(index + 1, entries, True)


def test_every_root_up_to_300_leaves_is_the_definitions():
    assert ROOTS[0] == EMPTY_ROOT
    for size in (1, 2, 3, 127, 128, 129, 255, 256, 257, 299, 300):
        assert ROOTS[size] == tree_head(ENTRIES[:size])


def test_every_index_of_every_tree_up_to_300_leaves():
    for size in range(1, MOST + 1):
        for index in range(size):
            path = proofs.inclusion(index, size, read)
            proof_verification.verify_inclusion(index, size, read(0, index), path, ROOTS[size])


def test_every_pair_of_trees_up_to_300_leaves():
    for new in range(MOST + 1):
        for old in range(new + 1):
            path = proofs.consistency(old, new, read)
            proof_verification.verify_consistency(old, new, ROOTS[old], ROOTS[new], path)


@given(st.integers(1, MOST), st.data())
def test_an_independent_library_makes_the_same_inclusion_proofs(size, data):
    index = data.draw(st.integers(0, size - 1))
    leaf, *path = TREE.prove_inclusion(index + 1, size).serialize()["path"]
    assert leaf == read(0, index).hex()
    assert hexadecimal(proofs.inclusion(index, size, read)) == path


@given(st.integers(2, MOST), st.data())
def test_an_independent_library_finds_our_roots_consistent_and_no_others(new, data):
    """By proofs in a form of its own, which names other nodes than RFC 6962's."""
    old = data.draw(st.integers(1, new - 1))
    proof = TREE.prove_consistency(old, new)
    verify_consistency(ROOTS[old], ROOTS[new], proof)
    for roots in ((ROOTS[old - 1], ROOTS[new]), (ROOTS[old], ROOTS[new - 1])):
        with pytest.raises(InvalidMerkleProof):
            verify_consistency(*roots, proof)


@given(st.integers(1, MOST), st.data())
def test_nothing_else_passes_for_an_inclusion_proof(size, data):
    index = data.draw(st.integers(0, size - 1))
    path, leaf = proofs.inclusion(index, size, read), read(0, index)
    other = data.draw(st.integers(0, size - 1))
    wrong = [
        (index, size, leaf, [*path, ROOTS[size]], ROOTS[size]),
        (index, size, leaf, [ROOTS[size], *path], ROOTS[size]),
        (index, size, bytes(32), path, ROOTS[size]),
        (index, size, leaf[:31], path, ROOTS[size]),
        (index, size, leaf, path, EMPTY_ROOT),
        (index, size, leaf, path, ROOTS[size - 1]),
        (size, size, leaf, path, ROOTS[size]),
        (-1, size, leaf, path, ROOTS[size]),
        (index, 2 * size, leaf, path, ROOTS[size]),
    ]
    if other != index:
        wrong.append((other, size, leaf, path, ROOTS[size]))
    if path:
        wrong.append((index, size, leaf, path[:-1], ROOTS[size]))
        place, bit = data.draw(st.integers(0, len(path) - 1)), data.draw(st.integers(0, 255))
        flipped = (int.from_bytes(path[place], "big") ^ 1 << bit).to_bytes(32, "big")
        wrong.append((index, size, leaf, [*path[:place], flipped, *path[place + 1 :]], ROOTS[size]))
        wrong.append((index, size, leaf, [*path[:place], path[place] + b"\0", *path[place + 1 :]], ROOTS[size]))
    for arguments in wrong:
        with pytest.raises(InvalidProof):
            proof_verification.verify_inclusion(*arguments)


def test_a_proof_that_goes_on_beyond_the_root_is_none():
    """Else whoever chooses the root could hang a leaf below it that the tree does not hold."""
    leaf, beyond = read(0, 0), bytes(32)
    with pytest.raises(InvalidProof, match="too long"):
        proof_verification.verify_inclusion(0, 1, leaf, [beyond], node_hash(beyond, leaf))
    path = proofs.consistency(1, 2, read)
    with pytest.raises(InvalidProof, match="too long"):
        proof_verification.verify_consistency(1, 2, node_hash(beyond, ROOTS[1]), node_hash(beyond, ROOTS[2]), [*path, beyond])


@given(st.integers(0, MOST), st.data())
def test_nothing_else_passes_for_a_consistency_proof(new, data):
    old = data.draw(st.integers(0, new))
    path = proofs.consistency(old, new, read)
    wrong = [
        (old, new, bytes(32), ROOTS[new], path),
        (old, new, ROOTS[old], ROOTS[new], [*path, ROOTS[new]]),
        (old, new, ROOTS[old], ROOTS[new], [ROOTS[old], *path]),
        (new + 1, new, ROOTS[old], ROOTS[new], path),
        (-1, new, ROOTS[old], ROOTS[new], path),
    ]
    if 0 < old < new:
        wrong += [
            (old, new, ROOTS[old], bytes(32), path),
            (old, new, ROOTS[new], ROOTS[old], path),
            (old, new, ROOTS[old], ROOTS[new], path[:-1]),
            (old, new, ROOTS[old], ROOTS[new], []),
            (old, 2 * new, ROOTS[old], ROOTS[new], path),
            (old, old, ROOTS[old], ROOTS[new], path),
        ]
        place, bit = data.draw(st.integers(0, len(path) - 1)), data.draw(st.integers(0, 255))
        flipped = (int.from_bytes(path[place], "big") ^ 1 << bit).to_bytes(32, "big")
        wrong.append((old, new, ROOTS[old], ROOTS[new], [*path[:place], flipped, *path[place + 1 :]]))
    for arguments in wrong:
        with pytest.raises(InvalidProof):
            proof_verification.verify_consistency(*arguments)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 1), (5, 4)])
def test_no_inclusion_proof_of_a_leaf_that_is_not_there(index, size):
    with pytest.raises(ValueError, match="has no index"):
        proofs.inclusion(index, size, read)


@pytest.mark.parametrize(("old", "new"), [(2, 1), (1, 0), (-1, 3)])
def test_no_consistency_proof_of_a_tree_that_shrank(old, new):
    with pytest.raises(ValueError, match="no later one"):
        proofs.consistency(old, new, read)


# The text form.

CHECKPOINT = """example.com/fancylog
109482
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

— example.com/fancylog hI2DJw==
""".encode()
# The specification's example, its index and hashes; what it abbreviates is filled in.
EXAMPLE = (
    b"c2sp.org/tlog-proof@v1\nextra YWdlLXYxLjIuMQ==\nindex 73894\ngSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\n"
    b"B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=\nEKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=\n\n" + CHECKPOINT
)


def test_the_specifications_proof():
    proof = TlogProof.parse(EXAMPLE)
    assert (proof.index, proof.extra, len(proof.path), proof.checkpoint) == (73894, b"age-v1.2.1", 3, CHECKPOINT)
    assert bytes(proof) == EXAMPLE


@given(
    st.integers(0, 2**63 - 1), st.lists(st.binary(min_size=32, max_size=32), max_size=63), st.none() | st.binary(max_size=99)
)  # fmt: skip
def test_any_proof_comes_back_as_it_was(index, path, extra):
    proof = TlogProof(index, tuple(path), CHECKPOINT, extra)
    assert TlogProof.parse(bytes(proof)) == proof


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"@v1", b"@v2"), (b"index 73894", b"index 073894"), (b"index 73894\n", b""), (b"index 73894", b"index -1"),
        (b"YWdlLXYxLjIuMQ==", b"YWdl!"), (b"gSKy", b"gSK"), (b"\n\nexample", b"\nexample"), (b"extra", b"Extra"),
        (b"index", b"\xffindex"), (b"index 73894", b"index 73894 "), (b"c2sp", b"\nc2sp"),
    ],
)  # fmt: skip
def test_what_is_no_proof(old, new):
    assert old in EXAMPLE
    with pytest.raises(MalformedProof):
        TlogProof.parse(EXAMPLE.replace(old, new, 1))
