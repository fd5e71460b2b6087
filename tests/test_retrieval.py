"""BM25: its scores against the formula worked out by hand, and what is not found."""

import math

import pytest

from lora_lab.tasks.retrieval import Retriever

TEXTS = ["Milin Fenby lives in Velmora", "Kavi Orov keeps a cat", "Kavi Fenby likes hot tea a lot"]


def test_scores_are_bm25s_by_hand():
    """Three texts of 5, 4 and 6 words (letters alone do not count); both words are in two."""
    weight = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))  # Lucene's, for a word in 2 of 3 texts
    mean_length = (5 + 4 + 6) / 3

    def score(count, length):
        return weight * count / (count + 1.5 * (1 - 0.75 + 0.75 * length / mean_length))

    expected = [score(1, 5), score(1, 4), 2 * score(1, 6)]
    assert Retriever(TEXTS).scores("KAVI Fenby?") == pytest.approx(expected, rel=1e-6)


def test_the_best_comes_first_and_what_shares_no_word_is_not_found():
    assert Retriever(TEXTS).nearest("Does Kavi Fenby live here?", 3) == [2, 1, 0]
    assert Retriever(TEXTS).nearest("a cat", 3) == [1]
    assert Retriever(TEXTS).nearest("Where does he live?", 3) == []
    assert Retriever(TEXTS).nearest("", 3) == []


def test_equal_texts_are_found_in_their_order():
    assert Retriever(["red fox", "blue fox", "red fox"]).nearest("fox", 2) == [0, 1]


def test_nothing_to_search_and_nothing_to_find_are_refused():
    with pytest.raises(ValueError, match="no texts to search; give one or more"):
        Retriever([])
    with pytest.raises(ValueError, match="k=0 finds nothing; give 1 or more"):
        Retriever(TEXTS).nearest("fox", 0)
