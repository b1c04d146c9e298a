"""Columns of samples: the lists they stand for, at any length and with any bytes in a name, and small."""

import pickle
import tracemalloc
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.data.samples import Chosen, LabelColumn, Places, Sample, Samples, Strings, labels_of

TEXTS = st.lists(st.text(st.characters(codec="utf-8") | st.sampled_from("\udc80\udcff\n\t/")))


@given(TEXTS, st.text(max_size=3), st.slices(8))
def test_strings_are_the_list_of_texts(texts: list[str], prefix: str, part: slice) -> None:
    strings = Strings(texts, prefix)
    expected = [prefix + text for text in texts]
    assert list(strings) == expected
    assert list(pickle.loads(pickle.dumps(strings))) == expected
    assert strings[part] == expected[part]
    assert [strings[-1 - i] for i in range(len(texts))] == expected[::-1]
    with pytest.raises(IndexError):
        strings[len(texts)]
    with pytest.raises(IndexError):
        strings[-len(texts) - 1]


@given(st.lists(st.none() | st.sampled_from(["cat", "dog", ""])))
def test_labels_are_the_list_of_labels(labels: list[str | None]) -> None:
    assert list(LabelColumn(labels)) == labels
    samples = Samples(Strings(map(str, range(len(labels)))), LabelColumn(labels), range(len(labels)))
    assert list(labels_of(samples)) == list(labels_of(list(samples))) == labels


@given(st.lists(st.integers(0, 5)), st.data())
def test_chosen_samples_are_those_of_the_parts_one_after_another(lengths: list[int], data: st.DataObject) -> None:
    parts = [[Sample(name=f"{part}.{i}", key=i) for i in range(length)] for part, length in enumerate(lengths)]
    flat = [sample.name for part in parts for sample in part]
    chosen = Chosen(parts, lambda part, within, sample: (part, within))
    assert [sample.name for sample in chosen] == flat
    assert all(f"{sample.key[0]}.{sample.key[1]}" == sample.name for sample in chosen)
    positions = data.draw(st.lists(st.integers(0, len(flat) - 1))) if flat else []
    some = Chosen(parts, lambda part, within, sample: sample.key, positions)
    assert [sample.name for sample in some] == [flat[position] for position in positions]


def test_a_sample_costs_its_name_and_a_few_numbers() -> None:
    count, name = 20_000, "n01440764/n01440764_10026.JPEG"
    tracemalloc.start()
    names, labels, places = Strings(), LabelColumn(), [array("q"), array("q")]
    for number in range(count):
        names.append(name)
        labels.append(name[:9])
        for column in places:
            column.append(number)
    samples = Samples(names, labels, Places(*places))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert samples[count - 1] == Sample(name=name, label="n01440764", key=(count - 1, count - 1))
    assert used / count <= 1.25 * (len(name) + 8 + 4 + 16)  # growing buffers have room to spare
