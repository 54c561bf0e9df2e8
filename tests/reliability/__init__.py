"""Harnesses that the tests of reliability and its benchmark share."""
