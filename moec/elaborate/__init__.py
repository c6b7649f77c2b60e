"""Syntax to the `moe` dialect: names are resolved, functions inlined, shapes and kinds checked as formulas."""

from moec.elaborate.layer import Elaborated, elaborate

__all__ = ["Elaborated", "elaborate"]
