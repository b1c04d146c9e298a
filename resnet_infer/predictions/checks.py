"""Whether a record is the one that was written, and whether it can be true at all."""

import struct
import zlib

import numpy as np

from resnet_infer.files import utf8
from resnet_infer.predictions.records import TOP_K, Identity, Record


def check_of(record: Record) -> int:
    """A checksum of all that a record says (CRC-32), the same in every form of the file."""
    words = (
        record.index,
        record.protocol,
        utf8(record.name),
        None if record.label is None else utf8(record.label),
        record.truth,
        record.rank,
        tuple(record.top_classes),
        utf8(record.error),
        utf8(record.warning),
        record.content_sha256,
        record.source_mark,
    )
    probs = (-1.0 if record.truth_prob is None else record.truth_prob, *record.top_probs)
    crc = zlib.crc32(struct.pack(f"<{len(probs)}f", *probs), zlib.crc32(ascii(words).encode()))
    return crc if record.probs_K is None else zlib.crc32(np.asarray(record.probs_K, np.float32).tobytes(), crc)


def contradiction(record: Record, identity: Identity) -> str:
    """What cannot be true in a record; nothing if it can."""
    classes, truth = identity.classes, record.truth
    for name in ("index", "source_mark", "truth", "rank"):
        value = getattr(record, name)
        if type(value) is not int and not (value is None and name in ("truth", "rank")):
            return f"its {name} is no whole number"
    if truth is not None and not 0 <= truth < classes:
        return f"its true class is {truth}, of {classes}"
    if record.error:
        empty = record.rank is None and record.truth_prob is None and not record.top_classes and not record.top_probs
        return "" if empty and record.probs_K is None else "it has scores of an image that could not be read"
    top_classes, top_probs = list(record.top_classes), list(record.top_probs)
    if len(top_classes) != min(TOP_K, classes) or len(top_probs) != len(top_classes):
        return f"it has {len(top_classes)} best classes with {len(top_probs)} probabilities"
    if len(set(top_classes)) != len(top_classes) or not all(0 <= index < classes for index in top_classes):
        return f"its best classes {top_classes} are not among {classes}, each once"
    probs = top_probs if record.truth_prob is None else [*top_probs, record.truth_prob]
    if not all(0 <= prob <= 1.00001 for prob in probs) or top_probs != sorted(top_probs, reverse=True):
        return "its probabilities are not in 0..1, best first"
    if identity.probabilities == (record.probs_K is None) or (
        record.probs_K is not None and record.probs_K.shape != (classes,)
    ):
        return "it does not have the probabilities that the file says"
    known = [value is not None for value in (truth, record.rank, record.truth_prob)]
    if any(known) and not all(known):
        return "its true class, rank and probability of that are not all there"
    return _rank_contradiction(record) if all(known) else ""


def _rank_contradiction(record: Record) -> str:
    """A rank is how many classes score at least as much as the true one, which the best five tell or bound."""
    assert record.rank is not None
    assert record.truth_prob is not None
    at_least = sum(prob >= record.truth_prob for prob in record.top_probs) - 1
    among = record.truth in record.top_classes
    known = record.truth_prob > record.top_probs[-1] or len(record.top_probs) < TOP_K
    if among and record.top_probs[list(record.top_classes).index(record.truth)] != record.truth_prob:  # type: ignore[arg-type]
        return "the true class has two probabilities"
    if known and (record.rank != at_least or not among):
        return f"its rank {record.rank} is not that of its probabilities, {at_least}"
    if not known and record.rank < (at_least if among else len(record.top_probs)):
        return f"its rank {record.rank} is better than its probabilities"
    return ""
