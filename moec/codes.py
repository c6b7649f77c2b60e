"""The codes of everything that moec can say is wrong. docs/errors.md is made from this table, with an example each."""

from __future__ import annotations

from typing import Final

#: code → what it stands for.
CODES: Final[dict[str, str]] = {
    # E00xx: the text
    "E0001": "a file cannot be read",
    "E0002": "a file is empty",
    "E0003": "a file is larger than a compiler should read",
    "E0004": "a file is not UTF-8",
    "E0005": "an expression is nested too deeply",
    "E0006": "a number has more digits than a number of the machine",
    "E0007": "a layer is larger than a compiler should build",
    "E0010": "the text is not in the language",
    "E0011": "a bracket is not closed, or closes nothing",
    "E0012": "a character is not in the language",
    "E0013": "a keyword stands where a name is needed",
    # E01xx: names
    "E0101": "a name is not defined",
    "E0102": "a name is defined twice",
    "E0103": "a definition needs itself",
    "E0104": "a function is called with the wrong arguments",
    "E0105": "a file defines no layer, or more than one, or one without inputs",
    "E0106": "a body does not return what it declares",
    "E0107": "a type is not known",
    # E02xx: shapes and kinds
    "E0201": "two shapes do not fit",
    "E0202": "a dimension does not divide",
    "E0203": "a selection takes more than there are",
    "E0204": "a value of one kind stands where another is needed",
    "E0205": "an index can lie outside its axis",
    "E0206": "a number is out of range: a dimension, a count, a constant",
    "E0207": "an axis does not exist",
    "E0208": "a `match` leaves a number out",
    # E03xx: compiling
    "E0301": "a dimension has no value",
    "E0302": "a dimension is not one of the layer's",
    "E0303": "a target is not known",
    "E0304": "a working precision is not known",
    "E0305": "a stage, a pass or an option is not known",
    "E0306": "a storage format is not known, or does not fit a weight",
    # E04xx: weights and inputs
    "E0401": "a weight is missing",
    "E0402": "a weight is not one of the layer's",
    "E0403": "an array has the wrong shape",
    "E0404": "an array has the wrong element type",
    "E0405": "a `bind` does not fit its layer",
    "E0406": "an index that the call alone knows lies outside its table",
    "E0407": "a weight is no number that its storage format has",
    "E0408": "a checkpoint is not what its format says",
    "E0409": "packed weights are not those of a kernel",
    # E05xx: several machines
    "E0501": "a layer is not one of experts alone",
    "E0502": "the ranks of a mesh do not fit together",
    "E0503": "a rank does not answer",
    # W00xx: warnings
    "W0001": "a definition is never used",
    # E09xx
    "E0901": "something is not supported yet",
    "E0902": "a module has no formula in the language",
}
