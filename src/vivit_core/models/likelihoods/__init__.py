"""Likelihoods: how measured counts scatter around a rate, and the loss that follows."""
