"""`bind` blocks: which tensors of a checkpoint the parameters of a layer are.

`entries` reads what a block says of every parameter, once: a `View`, which is a tensor (`tensors`) and the steps that
are taken from it (`steps`), or several such side by side (`views`); numbers in it are formulas over dimensions
(`formulas`). Four things are done with that: `check` says what no checkpoint could mend, `choose` which block a
checkpoint fits, `fit` which dimensions its tensors tell (`equations`), and `bind` what the parameters are.
"""
