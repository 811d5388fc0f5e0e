"""Chapter 05: the report's experiments on static scans, why they failed, and what does not."""
