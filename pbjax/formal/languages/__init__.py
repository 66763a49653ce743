"""Formal languages with membership oracle, rules, exact law, entropy and sampler; L1 to L6 of the follow-up paper.

Example:
    >>> from pbjax.formal.languages import AnBn
    >>> AnBn(max_length=8).support().shape
    (4, 10)
"""

from pbjax.formal.languages.blocks import AnBm, AnBn, AnBnAn, AnBnCn, CountedBlocks
from pbjax.formal.languages.brackets import Brackets, Dyck, Interleaved
from pbjax.formal.languages.language import Language
from pbjax.formal.languages.regular import BThenEvenAs, EvenAs

__all__ = [
    "AnBm",
    "AnBn",
    "AnBnAn",
    "AnBnCn",
    "BThenEvenAs",
    "Brackets",
    "CountedBlocks",
    "Dyck",
    "EvenAs",
    "Interleaved",
    "Language",
]
