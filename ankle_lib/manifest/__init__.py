"""Which cohorts there are, where their files lie, and whether they are intact.

``schema`` holds the records, ``document`` reads and checks a manifest and fetches public sources,
``layouts`` recognises the files in a folder.
"""
