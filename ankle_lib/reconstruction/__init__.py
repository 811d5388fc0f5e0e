"""Chapter 06: the moving ankle as sharp as the static scan."""
