"""Checks of the chapters' exercises. To read on is to read the answers."""
