"""Chapter 04: what networks see of a scan.

``rules`` says where a patch may lie and how large it is, ``items`` reads images, makes their
intensities comparable and lays them out, ``source`` draws batches on the training device and
changes them, ``split`` decides who trains, validates and tests, ``counting`` tells how many patches
there are.
"""
