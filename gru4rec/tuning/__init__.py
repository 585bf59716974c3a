"""Searching hyperparameters: spaces, algorithms, the search on Ray Tune, and what is made of its winner."""
