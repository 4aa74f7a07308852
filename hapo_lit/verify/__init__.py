"""Verification: does a response end in the right answer?"""
