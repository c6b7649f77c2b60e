"""Quantised activations: what they are.

A vector is cut into blocks of `Layout.shared` elements (`moec.formats.layout`), the last of them perhaps shorter: of
64, or of as many as meet one scale of the weights, up to 256, so that integers are scaled as seldom. A block has a
scale, its largest magnitude ÷ 127, and an integer of -127 .. 127 for each element: the element × (127 ÷ largest
magnitude), rounded to nearest even. Everything is computed in f32, one rounding a step.

A block whose largest magnitude is below `SMALLEST` counts as zeros, since 127 ÷ it might not be a number. A block with
an infinity or a NaN has the scale NaN, so that every sum that it is part of is NaN.

`moec.codegen.quantize` computes this, and the oracle on its own account (`moec.oracle.functions.quantized`).
"""

from __future__ import annotations

from typing import Final

#: The least magnitude that is told from zero.
SMALLEST: Final = 2.0**-100
