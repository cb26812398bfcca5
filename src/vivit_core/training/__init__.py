"""Trains twins and linear baselines: the module that Lightning drives, its optimizer, callbacks and processes."""
