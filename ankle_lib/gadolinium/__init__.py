"""Chapter 09: which lesions would take up contrast agent, told from scans before it."""
