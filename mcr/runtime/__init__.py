"""Process plumbing: roles, confinement, children, channels."""
