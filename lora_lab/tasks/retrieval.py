"""The texts most like a question, by the words they share (BM25); the only module with bm25s."""

import heapq
from collections.abc import Sequence

import bm25s


class Retriever:
    """Texts that can be searched by words, as search engines do without any training.

    BM25 adds up how rare each word is that a text shares with the question, and gives less for a
    long text. Case does not count, and words of one letter are left out. A word with another ending
    is another word.

    Args:
        texts: at least one.

    Raises:
        ValueError: if there is nothing to search.

    Source:
        Robertson and Zaragoza, 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", in
        Lucene's variant (k1 = 1.5, b = 0.75).
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = tuple(texts)
        if not self.texts:
            raise ValueError("there are no texts to search; give one or more")
        self._bm25 = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
        self._bm25.index([_words(text) for text in self.texts], show_progress=False)

    def scores(self, question: str) -> list[float]:
        """The similarity of each text to the question, (texts,); 0: they share no word."""
        known = [word for word in _words(question) if word in self._bm25.vocab_dict]
        if not known:
            return [0.0] * len(self.texts)
        return self._bm25.get_scores(known).tolist()

    def nearest(self, question: str, k: int) -> list[int]:
        """The places of the k most similar texts, the best first; fewer if fewer share a word.

        Raises:
            ValueError: if k is below 1.
        """
        if k < 1:
            raise ValueError(f"k={k} finds nothing; give 1 or more")
        scores = self.scores(question)
        best = heapq.nlargest(k, range(len(scores)), key=scores.__getitem__)  # ties stay in order
        return [place for place in best if scores[place] > 0]


def _words(text: str) -> list[str]:
    (words,) = bm25s.tokenize([text], stopwords=None, return_ids=False, show_progress=False)
    return words
