"""A network for scans of any contrast, and the feet that it learns from.

``feet`` makes children's feet with flesh of the phantom and of noise, ``making`` trains on them;
``shipped`` is the network that comes with the package.
"""
