"""Runs the example services on real servers, drives them over HTTP and balances the books."""
