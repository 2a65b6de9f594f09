"""Weights described with the help of others that the decoder has."""
