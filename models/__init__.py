"""Model families: token mixers, channel mixers, norms, residual schemes, positions, weights; lm.py composes them."""

if __name__ != "jaxlib_ext.models":
    raise ImportError("import this package as jaxlib_ext.models; a second copy of every class would appear otherwise")
