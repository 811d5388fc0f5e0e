"""Chapter 03: the static scan carried onto every frame, as a whole and bone by bone."""
