"""Belloni, Noci and Orvieto, 'Universal Dynamics of WSD': its figures and claims, from runs of
one's own."""
