"""Chapter 07: the bones segmented directly on the frames of a sequence, and their motion."""
