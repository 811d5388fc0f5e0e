"""Chapter 01: which subjects are usable and why not, and everything that can be set right.

`clean.clean_cohort` is the chapter, `clean.clean_subject` its heart. The story in order: ``checks``
looks at each file for itself, ``placing`` brings all files of a subject into one frame of
reference, ``laterality`` settles left and right, ``clean`` puts it together and writes it.
"""
