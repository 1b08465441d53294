"""Servers that speak a provider's wire, and can be told to speak it badly."""
