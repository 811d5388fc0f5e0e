"""Chronic stroke: transformers and U-Nets in a fair contest, by ATLAS's measures; chapter 11."""
