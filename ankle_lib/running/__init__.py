"""Runs the chapters (``course``) and opens one in its notebook (``chapter``)."""
