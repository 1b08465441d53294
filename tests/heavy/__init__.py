"""Tests of engines that are too large for every run: with what install.py --llm NAME has made in HOME."""
