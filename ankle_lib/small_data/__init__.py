"""Chapter 08: what knowledge of anatomy and motion is worth, in labelled children."""
