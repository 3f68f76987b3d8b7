"""Configs in, tables out: how far is a trained network from its kernel's prediction?"""
