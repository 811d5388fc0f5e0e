"""Every figure of the course: data in, matplotlib Figure out."""
