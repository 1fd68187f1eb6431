"""The papers' studies: what each claims, and whether runs of one's own bear it out."""
