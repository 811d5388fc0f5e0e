"""The simulated head: anatomy, signals by equation, lesions, contrast agent (chapters 09, 11)."""
