"""The keys that a log's checkpoints are known by, and how they follow upon one another.

The last checkpoint under a key names the next one (`next-key`). Above it the old key by itself counts no more: it may have
been given up because somebody else has it.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from audit.checkpoint import Checkpoint, key_for, open_checkpoint
from audit.signed_note import PLAIN, MalformedNote, Signature, Unverified, VerifierKey


class KeyRing:
    """`keys`, and those to which they hand over in checkpoints that are opened here. `begins` are the first entries of logs
    by their name, where they are known: a key that was given up in one log counts in none that began later."""

    def __init__(self, keys: Iterable[VerifierKey], begins: Mapping[str, int] | None = None):
        self.keys = list(keys)
        self._begins = dict(begins or {})
        # By the public key, whatever its name: where it handed over, and at which size.
        self._retired: dict[bytes, tuple[str, int]] = {}

    def open(self, raw: bytes) -> Checkpoint:
        """The checkpoint of a note that a key signed which counted at its size; what it hands over to counts from then on.

        Raises what `open_checkpoint` does, and Unverified where keys alone signed that had handed over before.
        """
        checkpoint, signatures = open_checkpoint(raw, self.keys)
        signers = self._signers(checkpoint.origin, signatures)
        if all(self._is_retired(key, checkpoint) for key in signers):
            at = self._retired[signers[0].public][1]
            raise Unverified(
                f"signed by the retired key {signers[0].name}+{signers[0].key_id.hex()} alone, which handed over at {at}"
            )
        for successor in checkpoint.successors():
            self._hand_over(checkpoint, signers, successor)
        return checkpoint

    def learn(self, notes: Iterable[bytes]) -> None:
        """What these hand over to; those that do not hold are passed over."""
        for note in notes:
            with suppress(MalformedNote, Unverified):
                self.open(note)

    def _signers(self, origin: str, signatures: Iterable[Signature]) -> list[VerifierKey]:
        """The log's own keys among those that signed, as they were given or learnt."""
        signed = {(signature.name, signature.key_id) for signature in signatures}
        named = ((key, key_for(key, origin)) for key in self.keys if key.algorithm == PLAIN)
        return [key for key, its in named if its is not None and (its.name, its.key_id) in signed]

    def _is_retired(self, key: VerifierKey, checkpoint: Checkpoint) -> bool:
        origin, size = self._retired.get(key.public, (None, 0))
        if origin is None or origin == checkpoint.origin:
            return origin is not None and checkpoint.size > size
        begins = self._begins
        return origin in begins and checkpoint.origin in begins and begins[checkpoint.origin] > begins[origin]

    def _hand_over(self, checkpoint: Checkpoint, signers: list[VerifierKey], successor: VerifierKey) -> None:
        old = [key for key in signers if key.public != successor.public]
        # The next key of a successor log is named after that; the same secret signs the logs that come after it.
        for key in (successor, *(successor.named(key.name) for key in old)):
            if key not in self.keys:
                self.keys.append(key)
        for key in old:
            self._retired.setdefault(key.public, (checkpoint.origin, checkpoint.size))
