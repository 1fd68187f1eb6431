"""What trains a tree: the loop, how it begins, and what is checked before."""
