"""Chapter 05: what the experiments on static scans share, why they failed, and what does not."""
