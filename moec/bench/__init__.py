"""moec beside other implementations of the same layer: which they are, how they are run, timed and written down."""
