"""The embedded cohort: anatomy, motion and scanner of simulated children's ankles."""
