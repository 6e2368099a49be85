"""The shared core of Learning Mechanics Lab: everything a page computes, without a page.

Importing it starts nothing: no device probe, no seed, no logging, no download.
"""
